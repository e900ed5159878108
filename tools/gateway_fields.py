"""Writes ``docs/gateway-fields.md`` from the gateway's own table: each field and type of each API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from al_ray.actors.gateway.dialects.fields import Api, Fields, Treatment
from al_ray.actors.gateway.dialects.fields.table import TABLE
from al_ray.actors.gateway.dialects.fields.vllm import OF_VLLM, OF_VLLM_ALONE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gateway-fields.md"
HEAD = """# What the gateway does with each field

Each field and each type that the installed `openai` and `anthropic` packages can send, and what becomes of it
when the trained model is asked. A hosted model that is asked by chat completions gets what is ignored, left
out or refused here as it came.

- **taken**: it does what the API says, or what stands beside it.
- **ignored**: it does not change what is meant.
- **left out**: a tool that the model is not offered, since nobody here could do its work. The rollout has an
  event `tool left out` that names it, once an attempt. A tool of a type that is not here is left out too.
- **refused**: a 400 that names the field and says what to do instead: ignored, it would change what is meant.
  A field that is null, or has the API's default, is as good as none. So is content of a type that is not
  here refused; a *field* that is not here is ignored.

What may stand in the fields of `/v1/messages/count_tokens` is as in those of `/v1/messages`.

Written by `python tools/gateway_fields.py` from `actors/gateway/dialects/fields/`, by which requests are
read; a test compares it with the SDKs' types and with what the gateway does.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for path, api in TABLE.items():
        lines += _api(path, api)
    lines += ["## Fields of vLLM's server\n", "In each of OpenAI's APIs, where clients add them.\n"]
    lines += [*_rows("field", OF_VLLM), ""]
    for path, fields in OF_VLLM_ALONE.items():
        lines += [f"### In `{path}` alone\n", *_rows("field", fields), ""]
    return "\n".join(lines)


def _api(path: str, api: Api) -> Iterator[str]:
    yield f"## `{path}`\n"
    for section, fields in api.items():
        if section == "request":
            yield from _rows("field", fields)
        else:
            yield f"### `{section}`\n"
            yield from _rows("type" if section != "messages" else "role", fields)
        yield ""


def _rows(title: str, fields: Fields) -> Iterator[str]:
    yield f"| {title} | | |\n|---|---|---|"
    for does in dict.fromkeys(treatment.does for treatment in fields.values()):
        for name, treatment in fields.items():
            if treatment.does is does:
                yield f"| `{name}` | {does} | {_told(treatment)} |"


def _told(treatment: Treatment) -> str:
    parts = [treatment.told] if treatment.told else []
    for verb, names in (("read", treatment.reads), ("ignored", treatment.ignores)):
        if names:
            parts.append(f"{verb}: " + ", ".join(f"`{name}`" for name in names))
    return "; ".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
