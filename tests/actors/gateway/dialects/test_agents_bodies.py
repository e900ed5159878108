"""What agents' clients send beside the plain call, in each API: tools of every kind, formats, blocks,
references, and what the trained model cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import numpy as np
import openai
import orjson
import pytest

from al_ray.actors.engine.lineage import LineageMemory, TextDigest, Turn
from al_ray.actors.gateway.dialects.chat_completions import CHAT_COMPLETIONS
from al_ray.actors.gateway.dialects.core import Dialect, Head
from al_ray.actors.gateway.dialects.messages import MESSAGES
from al_ray.actors.gateway.dialects.responses import RESPONSES
from al_ray.rollouts.signals import signals
from al_ray.traces import semconv
from al_ray.traces.messages import Message
from al_ray.traces.nesting import Nesting
from al_ray.types import ChatReply, ChatRequest, Choice, Sampling, SpanKind
from tests.support.houses.gateway import TOOLS, House, say

OBJECT: Any = {"type": "object", "properties": {}}
FLAT: Any = {"type": "function", "name": "add", "parameters": OBJECT, "strict": None}
GRAMMAR: Any = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": GRAMMAR}
AGENTS: Any = {"type": "namespace", "name": "agents", "description": "x", "tools": [FLAT | {"name": "close"}]}
SEARCH: Any = {"type": "web_search"}
SHELL: Any = {"type": "shell"}
PAINT: Any = {"type": "image_generation"}
MCP: Any = {"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:1"}
NAMED: Any = {"type": "function", "name": "add"}
SAID = 'so "it" is'
"""What the engine gives a tool that takes text."""
PIXEL = "data:image/png;base64,AAAA"
IMAGE: Any = {"type": "image_url", "image_url": {"url": PIXEL}}
ELSEWHERE: Any = {"type": "url", "url": "u"}


def show(*parts: Any) -> Any:
    return [{"role": "user", "content": list(parts)}]


async def last(engine: Any) -> Any:
    return (await engine.requests.remote())[-1]


# --- tools -----------------------------------------------------------------------------------------


async def test_namespaces_are_flattened_and_their_calls_told_as_they_are_known(
    served: House, engine_a: Any
) -> None:
    """There and back, streamed and not."""
    async with served.client(await served.attempt()) as client:
        whole = await client.responses.create(model="m", input="hi", tools=[AGENTS, FLAT])
        async with client.responses.stream(model="m", input="hi", tools=[AGENTS, FLAT]) as stream:
            final = await stream.get_final_response()
        asked = await last(engine_a)
        sent: Any = whole.output[0].model_dump(exclude_none=True)
        output: Any = {"type": "function_call_output", "call_id": "call-1", "output": "ok"}
        await client.responses.create(model="m", input=[*say("hi"), sent, output])
    assert [tool["function"]["name"] for tool in asked.tools] == ["agents__close", "add"]
    for reply in (whole, final):
        [item] = reply.output
        assert (item.type, item.name, item.namespace) == ("function_call", "close", "agents")  # type: ignore[union-attr]
    [call] = (await last(engine_a)).messages[1]["tool_calls"]
    assert call["function"]["name"] == "agents__close"


async def test_a_tool_that_takes_free_text_is_a_function_of_one_string(served: House, engine_a: Any) -> None:
    async with served.client(await served.attempt()) as client:
        whole = await client.responses.create(model="m", input="hi", tools=[PATCH])
        stream = await client.responses.create(model="m", input="hi", tools=[PATCH], stream=True)
        events = [event async for event in stream]
        asked = await last(engine_a)
        sent: Any = whole.output[0].model_dump(exclude_none=True)
        output: Any = {"type": "custom_tool_call_output", "call_id": "call-1", "output": "done"}
        await client.responses.create(model="m", input=[*say("hi"), sent, output])
    [tool] = asked.tools
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert (
        tool["function"]["description"].startswith("Edits.\n\n")
        and "start: /x/" in tool["function"]["description"]
    )
    for reply in (whole, events[-1].response):  # type: ignore[union-attr]
        [item] = reply.output
        assert (item.type, item.name, item.input) == ("custom_tool_call", "apply_patch", SAID)  # type: ignore[union-attr]
    told = [event for event in events if event.type.startswith("response.custom_tool_call_input")]
    assert [event.type.rpartition(".")[2] for event in told] == ["delta", "done"]
    assert told[0].delta == told[1].input == SAID  # type: ignore[union-attr]
    messages = (await last(engine_a)).messages
    assert orjson.loads(messages[1]["tool_calls"][0]["function"]["arguments"]) == {"input": SAID}
    assert messages[2] == {"role": "tool", "tool_call_id": "call-1", "content": "done"}


async def test_a_tool_that_takes_free_text_is_one_in_chat_completions_too(
    served: House, engine_a: Any
) -> None:
    attempt = await served.attempt()
    tools: Any = [{"type": "custom", "custom": {"name": "patch", "format": {"type": "text"}}}]
    choice: Any = {"type": "custom", "custom": {"name": "patch"}}
    reply = await served.ask(attempt, tools=tools, tool_choice=choice)
    chunks = await served.chunks(attempt, tools=tools)
    asked = await last(engine_a)
    [call] = reply.choices[0].message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "patch", SAID)
    [piece] = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert (piece.type, piece.custom) == ("custom", {"name": "patch", "input": SAID})
    assert asked.tools[0]["function"]["name"] == "patch"
    async with served.client(attempt) as client:
        history: Any = [
            *say("hi"),
            reply.choices[0].message,
            {"role": "tool", "tool_call_id": "call-1", "content": "x"},
        ]
        await client.chat.completions.create(model="m", messages=history)
    [sent] = (await last(engine_a)).messages[1]["tool_calls"]
    assert orjson.loads(sent["function"]["arguments"]) == {"input": SAID}


@pytest.mark.parametrize(
    ("kind", "given"), [("local_shell", "action"), ("shell", "action"), ("apply_patch", "operation")]
)
async def test_a_tool_of_openais_own_whose_work_the_agent_does_is_a_function(
    served: House, engine_a: Any, kind: Any, given: str
) -> None:
    async with served.client(await served.attempt()) as client:
        reply = await client.responses.create(model="m", input="hi", tools=[{"type": kind}])
        [item] = reply.output
        sent: Any = item.model_dump(exclude_none=True)
        assert (item.type, sent[given]["x"]) == (f"{kind}_call", 1)
        output: Any = {"type": f"{kind}_call_output", "call_id": "call-1", "id": "call-1", "output": "done"}
        await client.responses.create(model="m", input=[*say("hi"), sent, output])
    messages = (await last(engine_a)).messages
    assert messages[1]["tool_calls"][0]["function"]["name"] == kind
    assert messages[2] == {"role": "tool", "tool_call_id": "call-1", "content": "done"}


@pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "memory_20250818"])
async def test_a_tool_of_anthropics_own_whose_work_the_agent_does_is_a_function(
    served: House, engine_a: Any, kind: str
) -> None:
    name = {"bash": "bash", "text": "str_replace_based_edit_tool", "memory": "memory"}[kind.partition("_")[0]]
    async with served.anthropic(await served.attempt()) as client:
        tools: Any = [{"type": kind, "name": name}]
        reply = await client.messages.create(model="m", max_tokens=9, messages=say("hi"), tools=tools)
    assert [(block.type, block.name) for block in reply.content] == [("tool_use", name)]  # type: ignore[union-attr]
    [tool] = (await last(engine_a)).tools
    assert "command" in tool["function"]["parameters"]["properties"]


async def test_tools_whose_work_a_server_would_do_are_left_out_and_the_record_says_so_once(
    served: House, engine_a: Any
) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        for _ in range(2):
            await client.responses.create(model="m", input="hi", tools=[FLAT, SEARCH, MCP])
        assert [tool["function"]["name"] for tool in (await last(engine_a)).tools] == ["add"]
        await client.responses.create(model="m", input="hi", tools=[SEARCH], tool_choice="auto")
        assert (await last(engine_a)).tools is None
        with pytest.raises(openai.BadRequestError, match="none of web_search can be offered"):
            await client.responses.create(model="m", input="hi", tools=[SEARCH], tool_choice="required")
    spans = served.calls(attempt)
    events = [span for span in spans if span.kind is SpanKind.EVENT]
    assert [(event.name, event.attributes[semconv.TOOL_NAME]) for event in events] == [
        ("tool left out", "web_search"),
        ("tool left out", "mcp"),
    ]
    assert len(spans) == 5


def test_a_function_whose_type_is_null_or_left_out_is_not_left_out_itself() -> None:
    """What is wrong with it the engine says."""
    for tool in ({**TOOLS[0], "type": None}, {"function": TOOLS[0]["function"]}):
        asked = CHAT_COMPLETIONS.parse(orjson.dumps({"messages": say("hi"), "tools": [tool]}))
        assert (asked.tools, asked.left_out, asked.other_tools) == ([tool], [], [])


@pytest.mark.parametrize("tools", [{}, {"tools": []}])
async def test_a_response_without_tools_may_choose_freely_but_demand_none(
    served: House, tools: dict[str, Any]
) -> None:
    """As OpenAI and vLLM have it; in chat completions both refuse a free choice too."""
    key = (await served.attempt()).key
    for choice, status in (("auto", 200), ("none", 200), ("required", 400)):
        body = {"input": "hi", "tool_choice": choice} | tools
        assert (await served.post(orjson.dumps(body), key, "/responses"))[0] == status, choice
    body = {"messages": say("hi"), "tool_choice": "auto"}
    status, answer = await served.post(orjson.dumps(body), key)
    assert (status, "`tools` must be set" in answer["error"]["message"]) == (400, True)


async def test_the_tools_that_are_allowed_are_the_ones_that_are_offered(served: House, engine_a: Any) -> None:
    find: Any = {"type": "function", "function": {"name": "find", "parameters": OBJECT}}
    named: Any = {"type": "function", "function": {"name": "find"}}
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    attempt = await served.attempt()
    await served.ask(attempt, tools=[*TOOLS, find], tool_choice=allowed)
    by_chat = await last(engine_a)
    async with served.client(attempt) as client:
        flat: Any = {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "find"}],
        }
        tools: Any = [FLAT, FLAT | {"name": "find"}]
        await client.responses.create(model="m", input="hi", tools=tools, tool_choice=flat)
        by_responses = await last(engine_a)
        unknown: Any = flat | {"tools": [{"type": "function", "name": "lost"}]}
        with pytest.raises(openai.BadRequestError, match="no tool that can be offered is named 'lost'"):
            await client.responses.create(model="m", input="hi", tools=tools, tool_choice=unknown)
    for asked in (by_chat, by_responses):
        assert [tool["function"]["name"] for tool in asked.tools] == ["find"]
        assert asked.tool_choice == "required"


@pytest.mark.parametrize(
    ("tools", "allowed", "offered"),
    [
        ([FLAT, MCP, PAINT], [NAMED, {"type": "mcp", "server_label": "x"}, PAINT], ["add"]),
        ([FLAT, SHELL], [SHELL], ["shell"]),
        ([FLAT, SHELL], [SHELL, NAMED], ["add", "shell"]),
        ([FLAT, AGENTS], [{"type": "function", "name": "close", "namespace": "agents"}], ["agents__close"]),
        ([FLAT, MCP], [{"type": "mcp", "server_label": "x"}], None),
        ([FLAT], [], None),
    ],
)
async def test_tools_of_every_type_may_be_among_those_that_are_allowed(
    served: House, engine_a: Any, tools: Any, allowed: Any, offered: list[str] | None
) -> None:
    """As in OpenAI's own example; those that cannot be offered are allowed in vain."""
    choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    async with served.client(await served.attempt()) as client:
        await client.responses.create(model="m", input="hi", tools=tools, tool_choice=choice)
        asked = await last(engine_a)
        assert asked.tool_choice == (offered and "auto")
        assert (asked.tools and [tool["function"]["name"] for tool in asked.tools]) == offered
        unknown = choice | {"tools": [{"type": "shell"}, {"type": "mcp", "server_label": "y"}]}
        with pytest.raises(
            openai.BadRequestError, match=r"no tool that can be offered is named '(shell|mcp)'"
        ):
            await client.responses.create(model="m", input="hi", tools=[FLAT], tool_choice=unknown)


async def test_where_no_tool_is_allowed_none_is_offered(served: House, engine_a: Any) -> None:
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
    attempt = await served.attempt()
    reply = await served.ask(attempt, tools=TOOLS, tool_choice=choice)
    asked = await last(engine_a)
    assert (asked.tools, asked.tool_choice, reply.choices[0].message.content) == (None, None, "a0")
    choice["allowed_tools"]["mode"] = "required"
    with pytest.raises(openai.BadRequestError, match="`tools` must be set"):
        await served.ask(attempt, tools=TOOLS, tool_choice=choice)


async def test_one_tool_call_at_a_time_is_passed_on_and_told(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        reply = await client.responses.create(model="m", input="hi", tools=[FLAT], parallel_tool_calls=False)
        assert reply.parallel_tool_calls is False
        assert (await last(engine_a)).parallel_tool_calls is False
        assert (await client.responses.create(model="m", input="hi")).parallel_tool_calls is True
    await served.ask(attempt, tools=TOOLS, parallel_tool_calls=False)
    assert (await last(engine_a)).parallel_tool_calls is False
    async with served.anthropic(attempt) as other:
        tool: Any = {"name": "add", "input_schema": OBJECT, "strict": True}
        choice: Any = {"type": "tool", "name": "add", "disable_parallel_tool_use": True}
        await other.messages.create(
            model="m", max_tokens=9, messages=say("hi"), tools=[tool], tool_choice=choice
        )
    asked = await last(engine_a)
    assert asked.parallel_tool_calls is False
    assert asked.tools[0]["function"]["strict"] is True


# --- formats and log-probabilities -----------------------------------------------------------------


@pytest.mark.parametrize("field", ["output_config", "output_format"])
async def test_a_message_is_held_to_the_schema_that_is_asked_for(
    served: House, engine_a: Any, field: str
) -> None:
    format = {"type": "json_schema", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}}}
    body = {
        "max_tokens": 9,
        "messages": say("hi"),
        field: {"format": format} if field == "output_config" else format,
    }
    status, answer = await served.post(orjson.dumps(body), (await served.attempt()).key, "/messages")
    assert (status, answer["content"][0]["text"]) == (200, '{"ok": true}')
    asked = (await last(engine_a)).response_format
    assert asked == {"type": "json_schema", "json_schema": {"name": "output", "schema": format["schema"]}}


async def test_a_responses_text_has_log_probabilities_where_they_are_asked_for(served: House) -> None:
    asked: Any = {"model": "m", "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with served.client(await served.attempt()) as client:
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            events = [event async for event in stream]
        plain = await client.responses.create(model="m", input="hi")
    assert whole.top_logprobs == 2
    for reply in (whole, events[-1].response):  # type: ignore[union-attr]
        told = reply.output[0].content[0].logprobs  # type: ignore[union-attr, index]
        assert [(each.token, each.logprob, [top.token for top in each.top_logprobs]) for each in told] == [
            ("a", -0.5, ["a", "z"]),
            ("0", -0.5, ["0", "z"]),
        ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [each.token for delta in deltas for each in delta.logprobs] == ["a", "0"]
    assert plain.output[0].content[0].logprobs == []  # type: ignore[union-attr, index]


# --- lineage ---------------------------------------------------------------------------------------


def made(name: str, arguments: str) -> Message:
    function = {"name": name, "arguments": arguments}
    call = {"id": "call-1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def outcome_after(dialect: Dialect, body: Any, said: Message, send_back: Callable[[Any], Any]) -> str:
    """What the call is that follows one whose answer was ``said``: ``send_back`` makes its body of the answer
    as it was told."""
    memory = LineageMemory()
    asked = dialect.parse(orjson.dumps(body))
    place = memory.place(ChatRequest("c1", asked.messages, Sampling(), asked.tools, attempt="r/1"))
    tokens = np.array([1])
    memory.remember(place, [Turn("c1/0", said, tokens, tokens, TextDigest.of("x"), True, True)])
    choice = Choice(0, said, "tool_calls" if said.get("tool_calls") else "stop", [1], [-0.5], [])
    told = dialect.reply(Head("resp_1", "toy", 0), asked, ChatReply([1], [choice]))
    again = dialect.parse(orjson.dumps(send_back(orjson.loads(orjson.dumps(told)))))
    return memory.place(
        ChatRequest("c2", again.messages, Sampling(), again.tools, attempt="r/1")
    ).outcome.value


@pytest.mark.parametrize("dumped", [False, True], ids=["as told", "by the SDK"])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("local_shell", '{"command": ["ls"]}'),
        ("local_shell", '{"command": ["ls"], "timeout_ms": 5}'),
        ("shell", '{"commands": ["ls"]}'),
        ("shell", '{"commands": ["ls"], "max_output_length": 9}'),
        ("apply_patch", '{"type": "delete_file", "path": "a"}'),
    ],
)
def test_a_call_of_openais_own_tool_comes_back_as_what_the_model_said(
    kind: str, arguments: str, dumped: bool
) -> None:
    """Whether the agent returns the item that it was told, or the SDK's with all its nulls."""
    asked = {"input": say("x"), "tools": [{"type": kind}]}
    output = {"type": f"{kind}_call_output", "id": "call-1", "call_id": "call-1", "output": "a"}

    def send_back(told: Any) -> Any:
        items = told["output"]
        if dumped:
            items = [item.model_dump() for item in openai.types.responses.Response(**told).output]
        return asked | {"input": [*say("x"), *items, output]}

    assert outcome_after(RESPONSES, asked, made(kind, arguments), send_back) == "continued"


def test_an_answer_in_which_nothing_is_said_comes_back_as_one() -> None:
    asked = {"messages": say("x"), "max_tokens": 9}
    said = {"role": "assistant", "content": ""}

    def send_back(told: Any) -> Any:
        assert told["content"] == []
        return asked | {"messages": [*say("x"), {"role": "assistant", "content": []}, *say("go on")]}

    assert outcome_after(MESSAGES, asked, said, send_back) == "continued"
    by_items = outcome_after(
        RESPONSES, {"input": "x"}, said, lambda told: {"input": [*say("x"), *told["output"], *say("go on")]}
    )
    assert by_items == "continued"


TAKES_ARGUMENTS: Any = {"type": "object", "properties": {"arguments": {"type": "string"}}}


@pytest.mark.parametrize("schema", [OBJECT, TAKES_ARGUMENTS], ids=["plain", "of such a name"])
@pytest.mark.parametrize(
    "arguments", ["{}", "", '{"x": 0.5}', '{"arguments": "{}"}', '{"arguments": "ls", "x": 1}']
)
def test_arguments_that_are_an_object_come_back_as_what_the_model_said(schema: Any, arguments: str) -> None:
    assert after_a_use(schema, arguments) == "continued"


@pytest.mark.parametrize(
    "arguments",
    ["[1]", '"x"', '{"x":', '{"x": 1e400}', '{"x": "\\ud800"}', '{"x": ' + "[" * 300 + "]" * 300 + "}", "ls"],
)
def test_arguments_that_are_no_object_come_back_as_what_the_model_said(arguments: str) -> None:
    """Told as an object, since Anthropic's API has no other, and read as what they were; but a tool whose own
    argument has the name that they are told by is given what it was given."""
    assert after_a_use(OBJECT, arguments) == "continued"
    assert after_a_use(TAKES_ARGUMENTS, '{"arguments": "ls"}') == "continued"


@pytest.mark.parametrize(
    "arguments",
    ['{"input": "x"}', '{"input": "[1, 2]"}', '"x"', "[1, 2]", '{"inp', '{"path": "x"}', "", "{}"],
)
def test_whatever_the_model_gives_a_tool_of_free_text_comes_back_as_what_it_said(arguments: str) -> None:
    """Also what is no object with the text in it, and is told as the text."""
    asked = {"input": "x", "tools": [PATCH]}
    output = {"type": "custom_tool_call_output", "call_id": "call-1", "output": "a"}
    chat = {"messages": say("x"), "tools": [{"type": "custom", "custom": {"name": "apply_patch"}}]}
    result = {"role": "tool", "tool_call_id": "call-1", "content": "a"}
    by_items = outcome_after(
        RESPONSES,
        asked,
        made("apply_patch", arguments),
        lambda told: asked | {"input": [*say("x"), *told["output"], output]},
    )
    by_messages = outcome_after(
        CHAT_COMPLETIONS,
        chat,
        made("apply_patch", arguments),
        lambda told: chat | {"messages": [*say("x"), told["choices"][0]["message"], result]},
    )
    assert (by_items, by_messages) == ("continued", "continued")


def after_a_use(schema: Any, arguments: str) -> str:
    """What the call is that follows one of a tool with that schema."""
    tool = {"name": "add", "input_schema": schema}
    asked = {"messages": say("x"), "max_tokens": 9, "tools": [tool]}
    result = {"type": "tool_result", "tool_use_id": "call-1", "content": "a"}

    def send_back(told: Any) -> Any:
        answers = [{"role": "assistant", "content": told["content"]}, {"role": "user", "content": [result]}]
        return asked | {"messages": [*say("x"), *answers]}

    return outcome_after(MESSAGES, asked, made("add", arguments), send_back)


# --- conversations ---------------------------------------------------------------------------------


async def test_blocks_of_every_kind_are_read(served: House, engine_a: Any) -> None:
    document: Any = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "D"},
    }
    found: Any = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "url": "u"}],
    }
    body: Any = {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [document, {"type": "text", "text": "hi"}]},
            {"role": "system", "content": "be brief"},
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                    found,
                    {"type": "text", "text": "so"},
                    {"type": "tool_use", "id": "t", "name": "add", "input": {}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [document]}]},
        ],
    }
    status, _ = await served.post(orjson.dumps(body), (await served.attempt()).key, "/messages")
    assert status == 200
    messages = (await last(engine_a)).messages
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "T\nD\nhi"),
        ("system", "be brief"),
        ("assistant", None),
        ("tool", '[{"type":"web_search_result","url":"u"}]'),
        ("assistant", "so"),
        ("tool", "T\nD"),
    ]
    assert messages[2]["tool_calls"][0]["function"] == {"name": "web_search", "arguments": '{"query":"q"}'}
    assert messages[4]["tool_calls"][0]["id"] == messages[5]["tool_call_id"] == "t"


async def test_a_tools_answer_that_the_agent_calls_an_error_is_a_tool_error(served: House) -> None:
    attempt = await served.attempt()
    async with served.anthropic(attempt) as client:
        tool: Any = {"name": "add", "input_schema": OBJECT}
        reply = await client.messages.create(model="m", max_tokens=9, messages=say("hi"), tools=[tool])
        result: Any = {
            "type": "tool_result",
            "tool_use_id": "call-1",
            "content": "the moon",
            "is_error": True,
        }
        history: Any = [
            *say("hi"),
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [result]},
        ]
        await client.messages.create(model="m", max_tokens=9, messages=history)
    first, _ = calls = served.calls(attempt)
    assert signals(Nesting(calls))[first.id, 0].tool_errors == 1


async def test_an_item_may_be_named_in_place_of_being_sent(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        first = await client.responses.create(model="m", input="think")
        refer: Any = [{"type": "item_reference", "id": item.id} for item in first.output]
        await client.responses.create(model="m", input=[*say("think"), *refer, *say("and?")])
        messages = (await last(engine_a)).messages
        unknown: Any = [{"type": "item_reference", "id": "msg_1"}, *say("x")]
        with pytest.raises(
            openai.BadRequestError, match="item_reference: this attempt has no response 'msg_1'"
        ):
            await client.responses.create(model="m", input=unknown)
    said = {"role": "assistant", "content": "a0", "reasoning": "hm"}
    assert messages == [*say("think"), said, *say("and?")]


async def test_an_answer_of_which_one_item_is_named_and_others_are_sent_is_told_once(
    served: House, engine_a: Any
) -> None:
    """As the AI SDK sends what was thought by its name and calls in full; whichever comes first, and with the
    tool's answer in between."""
    attempt = await served.attempt()
    async with served.client(attempt) as client:
        first = await client.responses.create(model="m", input="think", tools=[FLAT])
        thought, call = (item.model_dump(exclude_none=True) for item in first.output)
        named: Any = [{"type": "item_reference", "id": item["id"]} for item in (thought, call)]
        output: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
        sent: Any
        for sent in (
            [named[0], call, output],
            [thought, named[1], output],
            [named[0], output, call],
            [named[0], output, named[1]],
        ):
            await client.responses.create(model="m", input=[*say("think"), *sent], tools=[FLAT])
            messages = (await last(engine_a)).messages
            assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
            assert messages[1]["reasoning"] == "hm"
            assert [made["id"] for made in messages[1]["tool_calls"]] == [call["call_id"]]
        other = call | {"id": "item_1_resp_of_another", "call_id": "other"}
        await client.responses.create(model="m", input=[*say("think"), named[0], output, other])
    roles = [message["role"] for message in (await last(engine_a)).messages]
    assert roles == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    "options",
    [
        {"instructions": "be kind", "tools": [FLAT], "temperature": 0.5},
        {"tools": [AGENTS, SEARCH], "parallel_tool_calls": False, "tool_choice": "required"},
        {"tools": [PATCH], "metadata": {"a": "b"}},
        {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 9},
    ],
)
async def test_a_response_is_told_again_as_it_was_and_to_its_own_attempt(served: House, options: Any) -> None:
    attempt, stranger = await served.attempt(), await served.attempt()
    async with served.client(attempt) as client:
        first = await client.responses.create(model="m", input="hi", **options)
        again = await client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError, match="no response 'resp_x'"):
            await client.responses.retrieve("resp_x")
    assert again.model_dump() == first.model_dump()
    async with served.client(stranger) as other:
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(first.id)


# --- what cannot be asked --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/chat/completions", {"logit_bias": {"5": 100}}, "logit_bias: "),
        ("/chat/completions", {"modalities": ["text", "audio"]}, "modalities: "),
        ("/chat/completions", {"functions": [{"name": "x"}]}, "functions: "),
        ("/chat/completions", {"guided_json": {}}, "guided_json: "),
        ("/chat/completions", {"messages": show(IMAGE)}, "messages.0.content.0: image_url: "),
        ("/chat/completions", {"messages": show({"image_url": PIXEL})}, "messages.0.content.0: image_url: "),
        ("/chat/completions", {"messages": show({"type": "input_audio"})}, "input_audio: "),
        ("/chat/completions", {"messages": [{"role": "function", "content": "3"}]}, "messages.0.role: "),
        ("/responses", {"background": True}, "background: "),
        ("/responses", {"conversation": "c"}, "conversation: "),
        ("/responses", {"prompt": {"id": "p"}}, "prompt: "),
        ("/responses", {"input": show({"type": "input_image", "image_url": PIXEL})}, "image_url: "),
        ("/responses", {"input": [{"type": "compaction"}]}, "input.0: compaction: "),
        ("/responses", {"input": [{"type": "invented"}]}, "input.0: Input tag 'invented'"),
        ("/responses", {"tool_choice": {"type": "web_search_preview"}}, "tool_choice: "),
        ("/messages", {"container": "c"}, "container: "),
        ("/messages", {"messages": show({"type": "image", "source": ELSEWHERE})}, "image_url: "),
        ("/messages", {"messages": show({"type": "document", "source": ELSEWHERE})}, "file: "),
        ("/messages", {"messages": show({"type": "invented"})}, "messages.0.content.0: Input tag 'invented'"),
        ("/completions", {"suffix": "x"}, "suffix: "),
        ("/completions", {"best_of": 3}, "best_of: "),
        ("/completions", {"logit_bias": {"5": 1}}, "logit_bias: "),
    ],
)
async def test_what_would_be_missed_is_refused_by_name(
    served: House, path: str, body: dict[str, Any], names: str
) -> None:
    least: Any = {"messages": say("hi"), "input": "hi", "max_tokens": 9}
    if path == "/completions":
        least = {"prompt": "hi"}
    attempt = await served.attempt()
    status, answer = await served.post(orjson.dumps(least | body), attempt.key, path)
    assert (status, names in answer["error"]["message"]) == (400, True), answer
    assert served.calls(attempt) == []


async def test_an_answer_that_the_agent_begins_is_refused_and_where_it_says_nothing_is_none(
    served: House, engine_a: Any
) -> None:
    """The template would close it, and the model begin another. It may be counted."""
    attempt = await served.attempt()
    begun = [*say("Answer in JSON"), {"role": "assistant", "content": "{"}]
    async with served.anthropic(attempt) as client:
        with pytest.raises(anthropic.BadRequestError, match="begin the answer in /v1/completions"):
            await client.messages.create(model="m", max_tokens=9, messages=begun)
        assert (await client.messages.count_tokens(model="m", messages=begun)).input_tokens == 21
        assert served.calls(attempt) == []
        for nothing in ("", []):
            begun[-1]["content"] = nothing
            await client.messages.create(model="m", max_tokens=9, messages=begun)
            assert (await last(engine_a)).messages == begun[:1]


async def test_what_says_nothing_is_not_refused(served: House) -> None:
    nothing = {
        "logit_bias": {},
        "modalities": ["text"],
        "functions": [],
        "audio": None,
        "chat_template_kwargs": {},
    }
    key = (await served.attempt()).key
    assert (await served.post(orjson.dumps({"messages": say("hi")} | nothing), key))[0] == 200
    body = {"input": "hi", "background": False, "conversation": None, "prompt": None}
    assert (await served.post(orjson.dumps(body), key, "/responses"))[0] == 200


async def test_anthropics_beta_client_is_answered(served: House) -> None:
    async with served.anthropic(await served.attempt()) as client:
        reply = await client.beta.messages.create(
            model="m",
            max_tokens=9,
            messages=say("hi"),
            thinking={"type": "adaptive"},
            context_management={"edits": []},
            betas=["context-management-2025-06-27"],
        )
    assert isinstance(reply, anthropic.types.beta.BetaMessage)
