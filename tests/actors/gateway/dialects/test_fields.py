"""The table of what is taken, ignored and refused: it tells of all that the installed SDKs can send, and the
gateway does as it says. A new version of an SDK shows here what is new."""

from __future__ import annotations

import ast
import copy
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typing_extensions import get_type_hints

from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.core import Asked
from al_ray.actors.gateway.dialects.fields import Does, Treatment
from al_ray.actors.gateway.dialects.fields.table import TABLE
from al_ray.actors.gateway.dialects.fields.vllm import OF_VLLM, OF_VLLM_ALONE
from al_ray.actors.gateway.dialects.messages import parse_prompt
from al_ray.actors.gateway.dialects.readable import unreadable
from al_ray.errors import BadRequestError
from tests.actors.gateway.dialects.sdk_types import REQUESTS, example, fields, things

ROOT = Path(__file__).resolve().parents[4]
CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT = TABLE
PARSE = {dialect.path: dialect.parse for dialect in DIALECTS} | {COUNT: parse_prompt}
BEYOND_THE_SDK = {
    CHAT: {"stream"},
    COMPLETIONS: {"stream"},
    RESPONSES: {"stream"},
    MESSAGES: {"stream", "temperature", "top_p", "top_k", "output_format"},
    COUNT: {"output_format"},
}
"""The SDKs have ``stream`` in a type of its own; Anthropic's has dropped the others, its clients have not."""
PARAMETERS: Any = {"type": "object", "properties": {}}
FUNCTION: Any = {"type": "function", "function": {"name": "x", "parameters": PARAMETERS}}
FLAT: Any = {"type": "function", "name": "x", "parameters": PARAMETERS}
OWN: Any = {"name": "x", "input_schema": PARAMETERS}
HI: Any = {"role": "user", "content": "hi"}
LEAST: Mapping[str, dict[str, Any]] = {
    CHAT: {"messages": [HI], "tools": [FUNCTION]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": [HI], "tools": [FLAT, {"type": "shell"}, {"type": "apply_patch"}]},
    MESSAGES: {"messages": [HI], "max_tokens": 9, "tools": [OWN]},
    COUNT: {"messages": [HI], "tools": [OWN]},
}
ANY_OBJECT: Any = {"type": "json_object"}
TEXT: Any = {"type": "text", "data": "x"}
SCHEMA: Any = {"type": "json_schema", "schema": {}}
VALUES: Mapping[tuple[str, str], Any] = {
    (CHAT, "messages"): [HI, HI],
    (CHAT, "tools"): [FUNCTION, FUNCTION],
    (CHAT, "response_format"): ANY_OBJECT,
    (CHAT, "modalities"): ["audio"],
    (CHAT, "web_search_options"): {"search_context_size": "low"},
    (CHAT, "stream_options"): {"include_usage": True},
    (COMPLETIONS, "stream_options"): {"include_usage": True},
    (COMPLETIONS, "best_of"): 2,
    (RESPONSES, "input"): [HI, HI],
    (RESPONSES, "tools"): [FLAT, FLAT],
    (RESPONSES, "text"): {"format": ANY_OBJECT},
    (RESPONSES, "include"): ["message.output_text.logprobs"],
    **{(path, "messages"): [HI, HI] for path in (MESSAGES, COUNT)},
    **{(path, "tools"): [OWN, OWN] for path in (MESSAGES, COUNT)},
    **{(path, "tool_choice"): {"type": "any"} for path in (MESSAGES, COUNT)},
    **{(path, "output_config"): {"format": SCHEMA} for path in (MESSAGES, COUNT)},
    **{(path, "output_format"): SCHEMA for path in (MESSAGES, COUNT)},
    **{(path, "temperature"): 0.5 for path in TABLE},
    **{(path, "top_p"): 0.5 for path in TABLE},
    **{(path, "top_k"): 5 for path in TABLE},
    **{(path, "stream"): True for path in TABLE},
    **{(path, "n"): 2 for path in TABLE},
    **{(path, "parallel_tool_calls"): False for path in TABLE},
    **{(path, "tool_choice"): "required" for path in (CHAT, RESPONSES)},
}
"""For the fields of requests whose simplest value means nothing."""
BESIDE: Mapping[tuple[str, str], dict[str, Any]] = {
    (CHAT, "top_logprobs"): {"logprobs": True},
    (CHAT, "stream_options"): {"stream": True},
}
"""What a field means something beside."""
THINGS: Mapping[tuple[str, str, str], dict[str, Any]] = {
    (CHAT, "messages", "assistant"): {"tool_calls": [{"id": "c", **FUNCTION}]},
    (CHAT, "tool_choice", "allowed_tools"): {"allowed_tools": {"mode": "required", "tools": [FUNCTION]}},
    (CHAT, "response_format", "json_schema"): {"json_schema": {"name": "x", "schema": {}}},
    (RESPONSES, "tool_choice", "allowed_tools"): {"mode": "required", "tools": [FLAT]},
    (RESPONSES, "input", "computer_call"): {"action": {"type": "wait"}},
    (RESPONSES, "input", "shell_call"): {"environment": {"type": "local"}},
    (RESPONSES, "tools", "shell"): {"environment": {"type": "container_auto"}},
    (RESPONSES, "tools", "custom"): {"format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    (RESPONSES, "tools", "namespace"): {"tools": [FLAT]},
    (MESSAGES, "tool_choice", "tool"): {"name": "x"},
    (MESSAGES, "messages.content", "document"): {"source": {"type": "text", "data": "x"}},
    (MESSAGES, "messages.content[tool_result].content", "document"): {
        "source": {"type": "text", "data": "x"}
    },
}
"""For things whose simplest form says nothing, or not what the table tells of."""


def asked(path: str, body: Mapping[str, Any]) -> Asked:
    """Without what depends on nothing but the body's very form."""
    told = PARSE[path](orjson.dumps(body))
    return replace(told, extra={}, echo={name: each for name, each in told.echo.items() if name != "tools"})


def refusal(path: str, body: Mapping[str, Any]) -> str:
    """Why the trained model is not asked."""
    try:
        told = PARSE[path](orjson.dumps(body))
    except BadRequestError as error:
        return str(error)
    return told.refused or unreadable(told.messages) or ""


def rows() -> Iterator[tuple[str, str, str, Treatment]]:
    """Of the types, without the fields of requests."""
    for path, api in TABLE.items():
        for section, treatments in api.items():
            if section != "request":
                yield from ((path, section, tag, treatment) for tag, treatment in treatments.items())


def with_thing(path: str, section: str, tag: str, thing: Any) -> dict[str, Any]:
    """The least body with the thing where it may stand."""
    body = copy.deepcopy(LEAST[path])
    match path, section:
        case _, "tools" | "input":
            body[section] = [*body[section], thing]
        case _, "messages":
            body[section] = [*body[section], thing, HI]
        case _, "tool_choice" | "response_format":
            body[section] = thing
        case _, "text.format" | "output_config.format":
            outer, _, inner = section.partition(".")
            body[outer] = {inner: thing}
        case _, "messages.tool_calls":
            body["messages"].append({"role": "assistant", "content": None, "tool_calls": [thing]})
        case _, "messages.content[tool_result].content":
            result = {"type": "tool_result", "tool_use_id": "t", "content": [thing]}
            body["messages"].append({"role": "user", "content": [result]})
        case _, "messages.content":
            body["messages"].append({"role": "user", "content": [thing]})
        case _, "input[function_call_output].output" | "input[custom_tool_call_output].output":
            kind = section.removeprefix("input[").removesuffix("].output")
            body["input"].append({"type": kind, "call_id": "c", "output": [thing]})
        case _, "input[message].content":
            role = "assistant" if tag in ("output_text", "refusal") else "user"
            body["input"].append({"role": role, "content": [thing]})
    return body


def full(path: str, section: str, tag: str, treatment: Treatment) -> dict[str, Any]:
    """A thing of the type, with all that it must have and all of it that is read."""
    [kind, *_] = things(path, section)[tag]
    hints = get_type_hints(kind)
    thing = example(kind) | {name: example(hints[name], name) for name in treatment.reads if name in hints}
    for name in ("type", "role"):
        if name in hints:
            thing[name] = tag
            break
    return thing | THINGS.get((path, section, tag), {})


by_row = pytest.mark.parametrize(
    ("path", "section", "tag", "treatment"),
    list(rows()),
    ids=lambda part: part if isinstance(part, str) else "",
)
requests = pytest.mark.parametrize(
    ("path", "field", "treatment"),
    [(path, field, told) for path, api in TABLE.items() for field, told in api["request"].items()],
    ids=lambda part: part if isinstance(part, str) else "",
)


@pytest.mark.parametrize("path", TABLE)
def test_every_field_that_the_sdk_can_send_is_in_the_table(path: str) -> None:
    assert TABLE[path]["request"].keys() == fields(REQUESTS[path]) | BEYOND_THE_SDK[path]


@pytest.mark.parametrize(
    ("path", "section"), [(path, name) for path, api in TABLE.items() for name in api if name != "request"]
)
def test_every_type_that_the_sdk_can_send_is_in_the_table(path: str, section: str) -> None:
    assert TABLE[path][section].keys() == things(path, section).keys()


@pytest.mark.parametrize("section", [name for name in TABLE[MESSAGES] if name != "request"])
def test_what_may_stand_in_a_count_is_what_may_stand_in_messages(section: str) -> None:
    assert things(COUNT, section).keys() == TABLE[MESSAGES][section].keys()


@by_row
def test_every_field_of_a_type_that_is_taken_is_read_or_known_to_be_ignored(
    path: str, section: str, tag: str, treatment: Treatment
) -> None:
    if treatment.does is Does.TAKEN:
        assert {*treatment.reads, *treatment.ignores} == fields(things(path, section)[tag])


@requests
def test_the_gateway_does_with_a_field_what_the_table_says(
    path: str, field: str, treatment: Treatment
) -> None:
    hints = {name: hint for request in REQUESTS[path] for name, hint in get_type_hints(request).items()}
    value = VALUES[path, field] if (path, field) in VALUES else example(hints[field], field)
    least = LEAST[path] | BESIDE.get((path, field), {})
    body = least | {field: value}
    match treatment.does:
        case Does.TAKEN:
            assert asked(path, body) != asked(path, least)
        case Does.IGNORED:
            assert asked(path, body) == asked(path, least)
        case Does.LEFT_OUT:
            assert field in asked(path, body).left_out
        case Does.REFUSED:
            assert refusal(path, body) == f"{field}: {treatment.told}"
            for harmless in treatment.harmless:
                assert refusal(path, least | {field: harmless}) == ""


@by_row
def test_the_gateway_does_with_a_type_what_the_table_says(
    path: str, section: str, tag: str, treatment: Treatment
) -> None:
    body = with_thing(path, section, tag, full(path, section, tag, treatment))
    match treatment.does:
        case Does.TAKEN:
            assert refusal(path, body) == ""
            if section.endswith("format"):
                assert (asked(path, body).response_format is None) is (tag == "text")
            else:
                assert asked(path, body) != asked(path, LEAST[path])
        case Does.IGNORED:
            assert asked(path, body) == asked(path, LEAST[path])
        case Does.LEFT_OUT:
            assert tag in asked(path, body).left_out
            assert asked(path, body).tools == asked(path, LEAST[path]).tools
        case Does.REFUSED:
            assert refusal(path, body)


@by_row
def test_the_fields_that_are_read_count_and_the_others_do_not(
    path: str, section: str, tag: str, treatment: Treatment
) -> None:
    """What chat completions ignores of a message goes to the engine, where vLLM leaves it."""
    if treatment.does is not Does.TAKEN:
        return
    hints = {name: hint for kind in things(path, section)[tag] for name, hint in get_type_hints(kind).items()}
    whole = full(path, section, tag, treatment)
    with_all = asked(path, with_thing(path, section, tag, whole))
    goes_on = path == CHAT and section.startswith("messages")
    for name in () if goes_on else treatment.ignores:
        others = [whole | {name: example(hints[name], name)}, {k: v for k, v in whole.items() if k != name}]
        for other in others:
            assert asked(path, with_thing(path, section, tag, other)) == with_all, name
    for name in treatment.reads:
        others = [whole | {name: "other"}, {k: v for k, v in whole.items() if k != name}]
        bodies = [with_thing(path, section, tag, other) for other in others]
        assert any(refusal(path, body) or asked(path, body) != with_all for body in bodies), name


@pytest.mark.parametrize(
    ("path", "field", "treatment"),
    [
        (path, field, treatment)
        for path, alone in OF_VLLM_ALONE.items()
        for field, treatment in (OF_VLLM | alone).items()
        if field not in TABLE[path]["request"]
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_clients_of_vllm_send_besides_is_refused_where_it_would_be_missed(
    path: str, field: str, treatment: Treatment
) -> None:
    """In each of OpenAI's APIs."""
    told = refusal(path, LEAST[path] | {field: {"x": 1}})
    assert told == (f"{field}: {treatment.told}" if treatment.does is Does.REFUSED else "")
    for harmless in treatment.harmless:
        assert refusal(path, LEAST[path] | {field: harmless}) == ""


@pytest.mark.parametrize(
    ("path", "request_type"),
    [
        (CHAT, "chat_completion.ChatCompletionRequest"),
        (COMPLETIONS, "completion.CompletionRequest"),
        (RESPONSES, "responses.ResponsesRequest"),
    ],
)
def test_every_field_that_vllms_own_server_takes_is_in_the_table(path: str, request_type: str) -> None:
    """Read from its source, which takes seconds to import."""
    module, _, name = request_type.partition(".")
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None and vllm.origin is not None
    source = Path(vllm.origin).parent / "entrypoints" / "openai" / module / "protocol.py"
    [request] = [
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    names = {
        each.target.id
        for each in request.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    known = TABLE[path]["request"].keys() | OF_VLLM.keys() | OF_VLLM_ALONE[path].keys()
    assert {name for name in names if not name.startswith("_")} - known == set()


def test_the_page_is_written_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("gateway_fields", ROOT / "tools" / "gateway_fields.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python tools/gateway_fields.py"
