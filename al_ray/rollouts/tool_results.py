"""How an execution of a tool ended, told from what it answered or from the span that recorded it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import orjson

from al_ray.traces import semconv
from al_ray.traces.messages import text
from al_ray.types import JSON, Span

_EXIT_CODES: Final = ("exit_code", "exitCode", "returncode", "return_code")
_ERRORS: Final = ("error", "errors", "isError", "is_error")
_NOTHING: Final = ("", "false", "none", "null")
"""Of an error or an exit code, as text in whatever case. So is zero."""
_FAILED: Final = ("error", "fail")
"""As servers word the status of an answer. That a job or a match has failed is what an answer may tell."""
_TOLD: Final = 500
"""Characters of an answer in which it says that time ran out."""
_ERROR: Final = re.compile(
    r"""[\s\[("'*<]*(?:
        error\b(?=\s*[:!\])>]|\s+(?:calling|executing|running|invoking|while|when|in)\b)
        | an?\s(?:error|exception)\b[^.:\n]*\boccurred
        | traceback\s\(most\srecent\scall\slast\)
        | [\w.]*(?:error|exception)\s*[:(]
        | (?:(?:the\s)?(?:tool|request|query|command|call|function|operation|execution)\b[^.:\n]*)
          \b(?:failed|timed\sout)\b
        | tool_use_error>
        # what a server says of a call that it cannot make
        | (?:(?:input|output|json|internal|mcp)\s)?
          (?:validation|schema|server|mcp|api|http|parse|syntax|protocol|network|connection|permission)
          \serror(?:\s-?\d+)?\s*(?:[:(]|$)
        | \d+\svalidation\serrors?\sfor\b
        | (?:unknown|invalid|unsupported|unrecogni[sz]ed|missing|no\ssuch)\s(?:required\s)?
          (?:tool|function|method|command|argument|parameter|input|option|action|request)s?
          (?:\s(?:call|name|value)s?)?(?:\sfor\s[^.:\n]{1,40})?\s*(?::|["'`][^"'`\n]*["'`]|$)
        | (?:tool|function|method|command|argument|parameter)\s["'`]?[\w./-]+["'`]?\s
          (?:(?:was\s)?not\sfound|does\snot\sexist|is\s(?:not\s(?:available|defined|known)|unknown|required))\b
        | (?:tool|function|method|command|resource)\snot\sfound\s*(?:[:.]|$)
        | failed\sto\s[^.:\n]{1,80}:\s
        | (?:permission|access)\sdenied\s*(?:[:.(]|$)
        | (?:[\w\x20./-]{1,60}:\s){1,4}
          (?:command\snot\sfound|no\ssuch\sfile\sor\sdirectory|permission\sdenied)
        | (?:http\s)?(?:status\s)?(?:4\d\d|5\d\d)\s
          (?:bad\srequest|unauthori[sz]ed|forbidden|not\sfound|too\smany\srequests|internal\sserver\serror
          |bad\sgateway|service\sunavailable|gateway\stime-?out)\b
        | (?:process\s|command\s)?exit(?:ed\swith)?\s(?:code|status)\s*:?\s*[1-9]
    )""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
"""How tools and agent frameworks begin an answer that is an error."""
_EMPTY: Final = re.compile(
    r"""\s*(?: \[\s*\]
        | \(?(?:no|0|zero)\s(?:rows|results|records|matches|hits|documents|passages)
          (?:\s(?:were\s)?(?:found|returned))?\.?\)?
    )\s*""",
    re.VERBOSE | re.IGNORECASE,
)
"""An answer that is nothing but the word that there is nothing. Silence is none: many tools have nothing
to say when all is well."""
_TIMEOUT: Final = re.compile(r"time[ _-]?d?[ _-]?out|deadline[ _]?exceeded", re.IGNORECASE)


class ToolStatus(IntEnum):
    """The worst is the greatest."""

    OK = 0
    EMPTY = 1
    ERROR = 2
    TIMEOUT = 3


def of_message(message: Mapping[str, JSON]) -> ToolStatus:
    """From a tool message, as a later call has it in its input."""
    told = of_text(text(message.get("content")))
    return max(told, ToolStatus.ERROR) if message.get("status") == "error" else told


def of_span(span: Span) -> ToolStatus:
    """From the span of the execution, or of an exception within it."""
    attributes = span.attributes
    result = attributes.get(semconv.TOOL_CALL_RESULT)
    as_json = isinstance(result, Mapping) or result == []
    told = of_text(orjson.dumps(result).decode() if as_json else text(result))
    kinds = [attributes[name] for name in (semconv.ERROR_TYPE, semconv.EXCEPTION_TYPE) if name in attributes]
    return max([told, *(of_error(str(kind)) for kind in kinds)])


def of_error(kind: str) -> ToolStatus:
    """From the name of an exception, or another word for a kind of error."""
    return ToolStatus.TIMEOUT if _TIMEOUT.search(kind) else ToolStatus.ERROR


def of_text(answer: str) -> ToolStatus:
    """From an answer: an error says so at its beginning, or in a field of a JSON object; one without
    a result says nothing else."""
    if _ERROR.match(answer):
        # Of a traceback, the last line names the exception.
        lines = answer.strip().splitlines()
        return max(of_error(lines[0]), of_error(lines[-1]))
    if _EMPTY.fullmatch(answer):
        return ToolStatus.EMPTY
    if not answer.lstrip().startswith("{"):
        return ToolStatus.OK
    try:
        fields = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return ToolStatus.OK
    if error := next((fields[name] for name in _ERRORS if _is_told(fields.get(name))), None):
        return of_error(str(error))
    if fields.get("status") in _FAILED or any(fields.get(name) is False for name in ("success", "ok")):
        return max(ToolStatus.ERROR, of_error(answer[:_TOLD]))
    return ToolStatus.ERROR if any(_is_told(fields.get(name)) for name in _EXIT_CODES) else ToolStatus.OK


def _is_told(value: JSON) -> bool:
    """Whether this, of an error or an exit code, says that there was one."""
    if not isinstance(value, str):
        return bool(value)
    try:
        return float(value) != 0
    except ValueError:
        return value.strip().casefold() not in _NOTHING
