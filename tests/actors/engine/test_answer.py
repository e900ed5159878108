"""What one choice says, read from its tokens by vLLM's own parsers: whole, and as it streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from al_ray.types import Choice

if TYPE_CHECKING:  # imported where it is used: every worker that collects the tests would import it
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def said(tokenizer: PreTrainedTokenizerFast) -> Any:
    """The choice whose text is ``text``, generated at once or token by token."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager

    from al_ray.actors.engine.answer import Answer

    parser_class = ParserManager.get_parser(
        tool_parser_name="hermes", enable_auto_tools=True, model_name="toy", tokenizer=tokenizer
    )
    assert parser_class is not None

    def of(text: str, reason: str, *, stream: bool, **fields: Any) -> Choice:
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], tools=tools, **fields)
        answer = Answer(request, [1], 0, parser_class(tokenizer, request.tools), None)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if not stream:
            return answer.complete(output(text, ids, reason))
        deltas = [answer.extend(output(tokenizer.decode([id]), [id], None)).delta for id in ids[:-1]]
        deltas.append(answer.extend(output(tokenizer.decode(ids[-1:]), ids[-1:], reason)).delta)
        orjson.dumps(deltas)  # what the agent is sent
        return answer.choice()

    return of


def output(
    text: str, ids: list[int], reason: str | None, flat: FlatLogprobs | None = None
) -> CompletionOutput:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput

    if flat is None:
        flat = FlatLogprobs()
        for token in ids:
            flat.append_fast([token], [-1.0], iter([1]), [text])
    return CompletionOutput(0, text, ids, 0.0, flat, finish_reason=reason)


both = pytest.mark.parametrize("stream", [False, True])


@both
def test_a_budget_that_ends_within_a_tool_call_or_after_it_is_length(said: Any, stream: bool) -> None:
    """An agent that is told that there is a call to make would make one that was not said to its end."""
    assert said(ADD[:-30], "length", stream=stream).finish_reason == "length"
    assert said(ADD, "length", stream=stream).finish_reason == "length"
    assert said(ADD, "stop", stream=stream).finish_reason == "tool_calls"


@both
def test_half_a_surrogate_pair_is_told_as_a_character_that_everybody_can_hold(
    said: Any, stream: bool
) -> None:
    r"""JSON can write ``\\ud83d`` alone; in arguments and in a name."""
    for half in (r"\ud83d", r"\ude00 x"):
        choice = said(ADD.replace("1", f'"{half}"'), "stop", stream=stream)
        [call] = choice.message["tool_calls"]
        orjson.dumps(choice.message)
        assert not any("\ud800" <= c <= "\udfff" for c in call["function"]["arguments"])
    pair = said(ADD.replace("1", r'"\ud83d\ude00"'), "stop", stream=stream)
    assert json.loads(pair.message["tool_calls"][0]["function"]["arguments"]) == {"a": "\U0001f600"}
    named = said(ADD.replace("add", r"a\ud83d"), "stop", stream=stream)
    orjson.dumps(named.message)


@both
def test_an_agent_that_takes_one_tool_call_at_a_time_is_shown_one(said: Any, stream: bool) -> None:
    both_calls = said(ADD + "\n" + ADD, "stop", stream=stream)
    assert (len(both_calls.message["tool_calls"]), both_calls.calls_left_out) == (2, 0)
    one = said(ADD + "\n" + ADD, "stop", stream=stream, parallel_tool_calls=False)
    assert (len(one.message["tool_calls"]), one.calls_left_out) == (1, 1)
    assert one.response_ids == both_calls.response_ids


def test_the_likeliest_tokens_are_different_tokens_and_none_is_lost() -> None:
    """vLLM tells the sampled token first and, where it is among the likeliest, again."""
    from vllm.logprobs import FlatLogprobs

    from al_ray.actors.engine.answer import Answer

    flat = FlatLogprobs()
    flat.append_fast([5, 5, 6, 7], [-0.1, -0.1, -2.5, -4.0], iter([1, 1, 2, 3]), ["a", "a", "b", "c"])
    flat.append_fast([9, 5, 6, 7], [-7.0, -0.1, -2.5, -4.0], iter([4, 1, 2, 3]), ["z", "a", "b", "c"])
    answer = Answer(None, [1], 0, None, top_logprobs=3)
    choice = answer.complete(output("az", [5, 9], "stop", flat))
    assert [(told.token, told.logprob) for told in choice.token_logprobs] == [("a", -0.1), ("z", -7.0)]
    assert [told.top for told in choice.token_logprobs] == [[("a", -0.1), ("b", -2.5), ("c", -4.0)]] * 2
