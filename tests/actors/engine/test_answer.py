"""What one choice says, read from its tokens by vLLM's own parsers: whole, and as it streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from al_ray.traces.messages import without_ids
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
        outputs = [output(tokenizer.decode([id]), [id], None) for id in ids[:-1]]
        outputs.append(output(tokenizer.decode(ids[-1:]), ids[-1:], reason))
        deltas = [answer.extend(piece, stops=False).delta for piece in outputs]
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


THOUGHT = "I add two and two.</think>The answer is 4."


@pytest.fixture(scope="module")
def thinking(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer whose model thinks."""
    folder = tmp_path_factory.mktemp("thinking")
    tokenizer.save_pretrained(folder)
    thinking = AutoTokenizer.from_pretrained(folder)
    thinking.add_tokens(["<think>", "</think>"])
    return thinking


@pytest.mark.parametrize("parser", ["deepseek_r1", "qwen3"])
@pytest.mark.parametrize("stop", [(), ("\nObservation:",), ("4", "\nObservation:"), ("<",), ("think>",)])
@pytest.mark.parametrize(
    "text", [THOUGHT, THOUGHT + ADD, "I add" + ADD, "</think>" + ADD + "\nObservation: 4"]
)
def test_stop_strings_change_nothing_of_what_a_stream_adds_up_to(
    thinking: PreTrainedTokenizerFast, parser: str, stop: tuple[str, ...], text: str
) -> None:
    """vLLM holds the text back, not the tokens, in which parsers look for the end of a thought."""
    from vllm import SamplingParams
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    from al_ray.actors.engine.answer import Answer

    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], tools=tools)
    parser_class = ParserManager.get_parser("hermes", parser, True, "toy", tokenizer=thinking)
    assert parser_class is not None
    whole, streamed = (Answer(request, [1], 0, parser_class(thinking, request.tools), None) for _ in range(2))
    params = SamplingParams(stop=list(stop))
    core = EngineCoreRequest("c", [1], None, params, None, 0.0, None, None, None)
    detokenizer = FastIncrementalDetokenizer(thinking, core)
    ids = thinking(text, add_special_tokens=False).input_ids
    deltas: list[Any] = []
    for place, token in enumerate(ids):
        ended = detokenizer.update([token], False) is not None or place == len(ids) - 1
        piece = output(detokenizer.get_next_output_text(ended, True), [token], "stop" if ended else None)
        deltas.append(streamed.extend(piece, stops=bool(stop)).delta)
        if ended:
            break
    told = whole.complete(output(detokenizer.get_next_output_text(True, False), ids[: place + 1], "stop"))
    assert without_ids(streamed.choice().message) == without_ids(told.message)
    for name in ("reasoning", "content"):
        said = "".join(delta.get(name, "") for delta in deltas)
        assert said == (told.message.get(name) or "")
    called = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    arguments = "".join(call.get("arguments", "") for call in called)
    assert arguments == "".join(call["function"]["arguments"] for call in told.message.get("tool_calls", ()))
