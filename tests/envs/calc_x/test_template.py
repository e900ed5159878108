"""SmolLM2's chat template for tools: stable prefixes, few tokens, calls that vLLM reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from al_ray.envs.calc_x import agent, data
from al_ray.envs.calc_x.demonstrations import demonstrate
from al_ray.errors import RecipeError
from al_ray.models import folders
from al_ray.types import JSON

TEMPLATE = (Path(__file__).parents[3] / "recipes" / "smollm2_tools.jinja").read_text(encoding="utf-8")
Messages = Sequence[Mapping[str, JSON]]


def render(messages: Messages, tools: Sequence[Any] | None = None, generate: bool = False) -> str:
    """As vLLM does it, which gives the template the arguments of calls as objects."""
    copies = json.loads(json.dumps(list(messages)))
    for message in copies:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    rendered, _ = render_jinja_template(
        [copies], tools=tools, chat_template=TEMPLATE, add_generation_prompt=generate
    )
    return str(rendered[0])


def call(name: str, **arguments: JSON) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


CONVERSATION: Messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How many?\n"},
    {"role": "assistant", "content": " Let me see. ", "tool_calls": [call("calculator", expression="1+1")]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "tool_calls": [call("a", é='"\n<'), call("b", y=[1, {"z": None}], a=1.5)]},
    {"role": "tool", "content": "error: no tool 'a'"},
    {"role": "tool", "content": ""},
    {"role": "assistant", "content": "### 2 ###"},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": ""},
]


@pytest.mark.parametrize("tools", [None, [agent.CALCULATOR]])
@pytest.mark.parametrize("start", [0, 1])
def test_a_longer_conversation_begins_with_the_shorter_one(tools: Any, start: int) -> None:
    """With and without tools and system message, what was rendered once never changes."""
    messages = CONVERSATION[start:]
    for end in range(1, len(messages)):
        longer = render(messages[: end + 1], tools)
        assert longer.startswith(render(messages[:end], tools))
        if messages[end]["role"] == "assistant":
            generated = longer.removeprefix(render(messages[:end], tools, generate=True))
            assert generated != longer and generated.endswith("<|im_end|>\n")


def test_a_parsed_call_is_rendered_as_the_text_it_was_parsed_from() -> None:
    """vLLM's own parser of Python calls, then the template, give back the canonical text."""
    parsers = pytest.importorskip("vllm.tool_parsers.pythonic_tool_parser")
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    request = protocol.ChatCompletionRequest(messages=[{"role": "user", "content": "?"}])
    for generated in (
        '[calculator(expression="(22-14)/4")]',
        '[a(text="é\\"\\n"), b(y=[1, 2], a=null, c={"d": true})]',
        "[now()]",
        "[calculator(22-14]",
        "### 2 ###",
    ):
        parser = parsers.PythonicToolParser(_AnyTokenizer())
        message = parser.extract_tool_calls(generated, request).model_dump(exclude_none=True)
        assert message.pop("tools_called") == generated.endswith(")]")
        messages = [{"role": "user", "content": "?"}, {"role": "assistant"} | message]
        assert render(messages).endswith(f"<|im_start|>assistant\n{generated}<|im_end|>\n")


class _AnyTokenizer:
    """The parser asks for a tokenizer but reads text."""

    def get_vocab(self) -> dict[str, int]:
        return {}


def test_tools_are_declared_by_their_whole_signature() -> None:
    """Names, types, what may be left out, what a schema says besides, and the description."""
    properties = {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    weather = {"name": "weather", "description": "Look out.", "parameters": parameters}
    tools = [{"type": "function", "function": weather}, {"type": "function", "function": {"name": "now"}}]
    assert render([{"role": "user", "content": "?"}], tools).startswith(
        "<|im_start|>system\nTools:\n"
        'weather(city: string, unit?: {"type": "string", "enum": ["C", "F"]}): Look out.\nnow()\nCall: '
    )


def test_nothing_is_added_where_there_is_no_system_message_and_no_tool() -> None:
    """The prompt is the message."""
    assert render([{"role": "user", "content": "?"}]) == "<|im_start|>user\n?<|im_end|>\n"


@pytest.mark.slow
def test_the_agent_costs_few_tokens() -> None:
    """At most 60 tokens besides the question, and 130 for a whole single calculation of the samples."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folders.resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))
    except RecipeError as error:
        pytest.skip(str(error))
    assert len(tokenizer(render(agent.opening(""), [agent.CALCULATOR], generate=True)).input_ids) <= 60
    for task in data.load(None, "train", max_calls=1).tasks:
        shown = demonstrate(task.data)
        assert len(tokenizer(render(shown.messages, shown.tools)).input_ids) <= 130
