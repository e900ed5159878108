"""What one engine promises: exact tokens, honest log-probabilities, OpenAI messages.

The model is taught, in a second or two, one answer with a tool call and one without, so that both
can be relied on.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import ray
import torch
from ray.actor import ActorHandle
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from al_ray.actors.engine import lineage
from al_ray.actors.engine.pool import EnginePool
from al_ray.errors import BadRequestError, ContextLengthError
from al_ray.machines.placement import SharedSeat
from al_ray.types import (
    ChatReply,
    ChatRequest,
    Choice,
    CompletionRequest,
    Lineage,
    LineageOutcome,
    Sampling,
    VersionSpan,
)
from tests.support.models import watched_engine as watched
from tests.support.models.engine_inputs import engine_spec
from tests.support.models.fake_engine import TOO_LONG

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

MAX_LENGTH = 400
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}]
ASK = [{"role": "user", "content": "add 1"}]
GREET = [{"role": "user", "content": "hi"}]
CALLING = {
    "role": "assistant",
    "content": "So: ",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
}
GREETING = {"role": "assistant", "content": "hello"}
GREEDY = Sampling(temperature=0.0, max_tokens=100)
PATTERN = {"type": "string", "pattern": "(" * 60_000 + "a" + ")" * 60_000}
DEEP = {"type": "json_schema", "json_schema": {"name": "x", "schema": PATTERN}}
MANY = {"enum": [f"value {i}" for i in range(100_000)]}
HOSTILE = {"type": "function", "function": {"name": "add", "parameters": MANY}}
"""What vLLM's grammar compiler dies of, and what it is busy with for a minute."""
NESTED = {"name": "add", "arguments": '{"a": ' + "[" * 5000 + "]" * 5000 + "}"}
DEEP_CALL = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": NESTED}]}
TOO_LONG_FOR_THE_MODEL = f"This model's maximum context length is {MAX_LENGTH} tokens"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_model)


def rendered(tokenizer: PreTrainedTokenizerFast, *args: Any, **kwargs: Any) -> list[int]:
    text = tokenizer.apply_chat_template(*args, tokenize=False, **kwargs)
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.fixture(scope="module")
def taught(tiny_model: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: Any) -> Path:
    """The tiny model's folder after it has learnt the two answers by heart."""
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    rows = [rendered(tokenizer, [*ASK, CALLING], tools=TOOLS), rendered(tokenizer, [*GREET, GREETING])]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = sum(model(ids, labels=ids).loss for ids in map(torch.tensor, ([row] for row in rows)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(taught: Path, ray_cluster: None) -> AsyncIterator[ActorHandle]:
    spec = engine_spec(taught, max_length=MAX_LENGTH, tool_parser="hermes")
    pool = EnginePool(spec, [SharedSeat({"num_cpus": 1})])
    await pool.start()
    yield pool.admitted()[0]
    await pool.shutdown()


async def streamed(engine: ActorHandle, request: ChatRequest) -> tuple[list[dict[str, Any]], ChatReply]:
    *pieces, reply = [
        await piece async for piece in engine.stream.options(num_returns="streaming").remote(request)
    ]
    return [dict(piece.delta) for piece in pieces], reply


def assert_whole(choice: Choice) -> None:
    """Every token has its log-probability and its version."""
    assert len(choice.logprobs) == len(choice.response_ids) > 0
    assert choice.versions == [VersionSpan(0, 0, len(choice.response_ids))]


async def test_a_reply_holds_the_exact_tokens_the_end_of_turn_included(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    reply = await engine.chat.remote(ChatRequest("call", GREET, GREEDY))
    [choice] = reply.choices
    assert reply.prompt_ids == rendered(tokenizer, GREET, add_generation_prompt=True)
    assert choice.response_ids == tokenizer("hello<|im_end|>", add_special_tokens=False).input_ids
    assert choice.message == GREETING and choice.finish_reason == "stop"
    assert_whole(choice)


async def test_a_tool_call_is_parsed_and_its_tokens_are_kept(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    reply = await engine.chat.remote(ChatRequest("call", ASK, GREEDY, tools=TOOLS))
    [choice] = reply.choices
    [call] = choice.message["tool_calls"]
    assert choice.finish_reason == "tool_calls"
    assert call["function"]["name"] == "add" and json.loads(call["function"]["arguments"]) == {"a": 1}
    assert call["type"] == "function" and call["id"]
    whole = rendered(tokenizer, [*ASK, CALLING], tools=TOOLS)
    assert [*reply.prompt_ids, *choice.response_ids] == whole[
        : len(reply.prompt_ids) + len(choice.response_ids)
    ]
    assert_whole(choice)


async def test_without_leave_to_call_tools_the_markup_is_plain_text(engine: ActorHandle) -> None:
    request = ChatRequest("call", ASK, GREEDY, tools=TOOLS, tool_choice="none")
    [choice] = (await engine.chat.remote(request)).choices
    assert "tool_calls" not in choice.message and "<tool_call>" in choice.message["content"]
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("tools", [None, TOOLS])
async def test_a_stream_adds_up_to_the_reply_that_is_given_at_once(engine: ActorHandle, tools: Any) -> None:
    request = ChatRequest("call", ASK if tools else GREET, GREEDY, tools=tools)
    [whole] = (await engine.chat.remote(request)).choices
    deltas, reply = await streamed(engine, request)
    [choice] = reply.choices
    assert len(deltas) > 1 and deltas[0]["role"] == "assistant"
    assert choice.response_ids == whole.response_ids and choice.finish_reason == whole.finish_reason
    assert choice.logprobs == pytest.approx(whole.logprobs, abs=1e-5)
    text = "".join(delta.get("content", "") for delta in deltas)
    assert (
        text.strip() == (choice.message["content"] or "").strip() == (whole.message["content"] or "").strip()
    )
    calls, expected = choice.message.get("tool_calls", []), whole.message.get("tool_calls", [])
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [
        json.loads(c["function"]["arguments"]) for c in expected
    ]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", [])]
    assert [piece["id"] for piece in pieces if piece.get("id")] == [call["id"] for call in calls]
    assert_whole(choice)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
async def test_logprobs_are_those_of_the_distribution_that_was_sampled(
    engine: ActorHandle, taught: Path, temperature: float, top_p: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=40, seed=7)
    reply = await engine.chat.remote(ChatRequest("call", [{"role": "user", "content": "?!x"}], sampling))
    [choice] = reply.choices
    prompt, response = list(reply.prompt_ids), torch.tensor(choice.response_ids)
    model = LlamaForCausalLM.from_pretrained(taught)
    logits = model(torch.tensor([[*prompt, *choice.response_ids]])).logits[0, len(prompt) - 1 : -1].detach()
    p = (logits / temperature).softmax(-1)
    ordered = p.sort(-1, descending=True)
    outside = torch.zeros_like(p, dtype=torch.bool).scatter(
        -1, ordered.indices, ordered.values.cumsum(-1) - ordered.values >= top_p
    )
    p = p.masked_fill(outside, 0)
    expected = (p / p.sum(-1, keepdim=True)).gather(1, response[:, None])[:, 0].log()
    torch.testing.assert_close(torch.tensor(choice.logprobs), expected, atol=2e-4, rtol=0)


async def test_logprobs_of_given_tokens_equal_those_of_transformers(
    engine: ActorHandle, taught: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = rendered(tokenizer, [*ASK, CALLING], tools=TOOLS)
    scores = LlamaForCausalLM.from_pretrained(taught)(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    expected = scores.gather(1, torch.tensor(tokens)[1:, None])[:, 0]
    found = torch.tensor(await engine.logprobs.remote(tokens))
    torch.testing.assert_close(found, expected.detach(), atol=2e-4, rtol=0)


async def test_choices_of_one_call_are_drawn_independently(engine: ActorHandle) -> None:
    """Streamed or not. A seed must not harm: on CPU it is without effect, since vLLM dies of it."""
    messages = [{"role": "user", "content": "zq"}]
    request = ChatRequest("call", messages, Sampling(temperature=2.0, max_tokens=20, seed=5, n=3))
    whole = await engine.chat.remote(request)
    _, from_stream = await streamed(engine, request)
    for reply in (whole, from_stream):
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert len({tuple(choice.response_ids) for choice in reply.choices}) == 3
        for choice in reply.choices:
            assert_whole(choice)


async def test_several_greedy_choices_are_the_one_that_there_is(engine: ActorHandle) -> None:
    """Whole and streamed, and the next call continues it."""
    one = await engine.chat.remote(ChatRequest("c1", GREET, GREEDY))
    request = ChatRequest("c3", GREET, replace(GREEDY, n=3), attempt="greedy/1")
    _, of_stream = await streamed(engine, request)
    for reply in (await engine.chat.remote(request), of_stream):
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert all(choice.response_ids == one.choices[0].response_ids for choice in reply.choices)
    messages = [*GREET, of_stream.choices[2].message, *ASK]
    continued = await engine.chat.remote(replace(request, id="c4", messages=messages))
    assert continued.lineage.outcome is LineageOutcome.CONTINUED


async def test_a_conversation_is_rendered_as_the_models_template_says(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    as_json = [
        {**call, "id": "c", "function": {"name": "add", "arguments": '{"a": 1}'}}
        for call in CALLING["tool_calls"]
    ]
    messages = [
        *ASK,
        {**CALLING, "tool_calls": as_json},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    plain = [*ASK, CALLING, {"role": "tool", "content": "2"}]
    expected = rendered(tokenizer, plain, tools=TOOLS, add_generation_prompt=True)
    assert await engine.render.remote(messages, TOOLS, True) == expected
    [(prompt_ids, response_ids)] = await engine.render_calls.remote(messages, TOOLS)
    reply = await engine.chat.remote(ChatRequest("call", ASK, GREEDY, tools=TOOLS))
    assert (prompt_ids, response_ids) == (reply.prompt_ids, reply.choices[0].response_ids)


async def test_a_conversation_goes_on_with_the_tokens_that_were_sampled(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also those that are no text, so that what the agent was shown is other tokens."""
    asked = [{"role": "user", "content": "zq"}]
    wild = Sampling(temperature=2.0, max_tokens=20, n=8)
    first = await engine.chat.remote(ChatRequest("wild", asked, wild, attempt="r/1"))
    special = set(tokenizer.all_special_ids)
    unread = 0
    for choice in first.choices:
        if special.intersection(choice.response_ids[:-1]):
            continue
        messages = [*asked, choice.message, *GREET]
        second = await engine.chat.remote(
            ChatRequest(f"after-{choice.index}", messages, GREEDY, attempt="r/1")
        )
        # Two choices may say the same; which of them the agent has cannot be known, and makes no difference.
        same = [other for other in first.choices if lineage.same(other.message, choice.message)]
        choice = next(other for other in same if second.lineage.parent == f"wild/{other.index}")
        begun = [*first.prompt_ids, *choice.response_ids]
        assert second.prompt_ids[: len(begun)] == begun
        assert (second.lineage.outcome, second.lineage.reused_tokens) == ("continued", len(begun))
        end = [] if choice.response_ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
        new = tokenizer("\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
        assert second.prompt_ids[len(begun) :] == [*end, *new.input_ids]
        unread += second.prompt_ids != rendered(tokenizer, messages, add_generation_prompt=True)
    assert unread, "every choice was the usual tokens of its text: sample more of them"


async def test_a_conversation_goes_on_with_the_tokens_of_an_answer_that_was_given_elsewhere(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Once the engine was told of it; to another attempt's, it is only text."""
    asked = [{"role": "user", "content": "zq"}]
    request = ChatRequest("elsewhere", asked, GREEDY, attempt="elsewhere/1")
    spelt = [*tokenizer("<|endoftext|>hello", add_special_tokens=False).input_ids[1:], tokenizer.eos_token_id]
    prompt = [*rendered(tokenizer, asked, add_generation_prompt=True)]
    choice = Choice(0, GREETING, "stop", spelt, [-1.0] * len(spelt), [VersionSpan(0, 0, len(spelt))])
    await engine.remember.remote(request, ChatReply(prompt, [choice]))
    messages = [*asked, GREETING, *GREET]
    for attempt, outcome in (("elsewhere/1", "continued"), ("elsewhere/2", "other")):
        reply = await engine.chat.remote(ChatRequest(f"in {attempt}", messages, GREEDY, attempt=attempt))
        assert reply.lineage.outcome == outcome
        if outcome == "continued":
            begun = [*prompt, *spelt]
            assert reply.lineage == Lineage(LineageOutcome.CONTINUED, "elsewhere/0", len(begun))
            assert reply.prompt_ids[: len(begun)] == begun


@pytest.mark.parametrize("streams", [False, True])
async def test_a_tool_call_goes_on_with_its_own_tokens(engine: ActorHandle, streams: bool) -> None:
    """Though the agent's client writes the call in its own way."""
    attempt = f"tools/{streams}"
    request = ChatRequest(f"call-{streams}", ASK, GREEDY, tools=TOOLS, attempt=attempt)
    first = (await streamed(engine, request))[1] if streams else await engine.chat.remote(request)
    [choice] = first.choices
    function = {"name": "add", "arguments": '{ "a":1 }'}
    sent = {
        "role": "assistant",
        "content": [{"type": "text", "text": "So:"}],
        "refusal": None,
        "tool_calls": [{"id": "mine", "type": "function", "function": function}],
    }
    messages = [*ASK, sent, {"role": "tool", "tool_call_id": "mine", "content": "2"}]
    second = await engine.chat.remote(ChatRequest("next", messages, GREEDY, tools=TOOLS, attempt=attempt))
    begun = [*first.prompt_ids, *choice.response_ids]
    assert second.prompt_ids[: len(begun)] == begun
    assert second.lineage == Lineage(LineageOutcome.CONTINUED, f"{request.id}/0", len(begun))


async def test_a_turn_that_a_stop_string_cut_opens_a_branch(engine: ActorHandle) -> None:
    cut = replace(GREEDY, stop=("ll",))
    first = await engine.chat.remote(ChatRequest("cut", GREET, cut, attempt="stop/1"))
    assert first.choices[0].message["content"] == "he"
    messages = [*GREET, first.choices[0].message, *ASK]
    second = await engine.chat.remote(ChatRequest("next", messages, GREEDY, attempt="stop/1"))
    assert second.lineage == Lineage(LineageOutcome.RETOKENISED)
    assert second.prompt_ids == await engine.render.remote(messages, None, True)


async def test_a_response_ends_where_the_context_does(engine: ActorHandle) -> None:
    messages = [{"role": "user", "content": "x" * (MAX_LENGTH - 30)}]
    sampling = Sampling(max_tokens=10**6, temperature=2.0, seed=1, n=4)
    reply = await engine.chat.remote(ChatRequest("call", messages, sampling))
    cut = [choice for choice in reply.choices if choice.finish_reason == "length"]
    assert cut
    assert {len(reply.prompt_ids) + len(choice.response_ids) for choice in cut} == {MAX_LENGTH}


async def test_a_demanded_tool_is_called_whatever_the_model_would_say(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    """As far as a grammar can demand it: the model may still ramble in the arguments until it is cut."""
    for tool_choice in ("required", {"type": "function", "function": {"name": "add"}}):
        request = ChatRequest("call", GREET, GREEDY, tools=TOOLS, tool_choice=tool_choice)
        [choice] = (await engine.chat.remote(request)).choices
        assert tokenizer.decode(choice.response_ids).startswith('<tool_call>\n{"name": "add"')
        assert_whole(choice)


@pytest.mark.parametrize("strict", [None, True, False])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
async def test_a_demanded_tools_arguments_fit_its_schema_also_where_the_agent_asks_for_no_strictness(
    engine: ActorHandle, strict: bool | None, choice: Any
) -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [3]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    function = {"name": "pick", "parameters": parameters}
    tools = [{"type": "function", "function": function if strict is None else function | {"strict": strict}}]
    wild = Sampling(temperature=2.0, max_tokens=200, n=8)  # greedily, it writes white space without end
    request = ChatRequest("call", GREET, wild, tools=tools, tool_choice=choice, parallel_tool_calls=False)
    for reply in (await engine.chat.remote(request), (await streamed(engine, request))[1]):
        whole = [each.message for each in reply.choices if each.finish_reason == "tool_calls"]
        assert whole
        for message in whole:
            [call] = message["tool_calls"]
            arguments = json.loads(call["function"]["arguments"])
            assert arguments.keys() == {"a", "b"} and arguments["a"] in (1, 2) and arguments["b"] == 3


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {"a": {"type": "integer"}}}])
async def test_a_demanded_tool_that_describes_no_arguments_is_given_an_object(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast, parameters: Any
) -> None:
    function = {"name": "add"} if parameters is None else {"name": "add", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    request = ChatRequest("call", GREET, GREEDY, tools=tools, tool_choice="required")
    [choice] = (await engine.chat.remote(request)).choices
    assert tokenizer.decode(choice.response_ids).startswith('<tool_call>\n{"name": "add", "arguments": {')


async def test_a_stream_that_is_cut_within_a_tool_call_is_length_as_the_whole_answer_is(
    engine: ActorHandle,
) -> None:
    request = ChatRequest("call", ASK, replace(GREEDY, max_tokens=40), tools=TOOLS)
    [whole] = (await engine.chat.remote(request)).choices
    [choice] = (await streamed(engine, request))[1].choices
    assert (whole.finish_reason, choice.finish_reason) == ("length", "length")


async def test_half_a_surrogate_pair_in_an_earlier_tool_call_does_not_stop_the_conversation(
    engine: ActorHandle,
) -> None:
    function = {"name": "add", "arguments": r'{"a": "\ud83d"}'}
    calls = [{"id": "c", "type": "function", "function": function}]
    told = [{"role": "assistant", "content": None, "tool_calls": calls}]
    result = [{"role": "tool", "tool_call_id": "c", "content": "2"}]
    reply = await engine.chat.remote(ChatRequest("call", [*ASK, *told, *result], GREEDY, tools=TOOLS))
    assert_whole(reply.choices[0])


async def test_an_answer_has_the_format_that_is_asked_for(engine: ActorHandle) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"const": "yes"}}}
    request = ChatRequest("call", GREET, GREEDY, response_format=wanted)
    [choice] = (await engine.chat.remote(request)).choices
    assert json.loads(choice.message["content"]) == "yes"
    assert_whole(choice)


async def test_a_token_to_which_a_grammar_leaves_no_other_has_probability_1(engine: ActorHandle) -> None:
    """Exactly, by which the loss knows it; here all but the first letter."""
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"enum": ["yes", "no"]}}}
    request = ChatRequest("call", GREET, replace(GREEDY, temperature=1.0), response_format=wanted)
    [choice] = (await engine.chat.remote(request)).choices
    assert choice.finish_reason == "stop"
    assert [logprob < 0 for logprob in choice.logprobs] == [i == 1 for i in range(len(choice.logprobs))]


TEMPERATURE = 0.7
FREE = Sampling(temperature=TEMPERATURE, max_tokens=60, n=4)
VERDICT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("request_", "constrained"),
    [
        (ChatRequest("call", GREET, FREE), False),
        (ChatRequest("call", GREET, replace(FREE, stop=("l", "e"))), False),
        (ChatRequest("call", ASK, replace(FREE, stop=('"a"',)), tools=TOOLS), False),
        (ChatRequest("call", GREET, FREE, tools=TOOLS, tool_choice="none"), False),
        (ChatRequest("call", GREET, FREE, response_format={"type": "text"}), False),
        (ChatRequest("call", GREET, FREE, response_format={"type": "json_object"}), True),
        (ChatRequest("call", GREET, FREE, response_format=VERDICT), True),
        (ChatRequest("call", GREET, FREE, tools=TOOLS, tool_choice="required"), True),
    ],
    ids=["plain", "stop", "tools and stop", "no tools", "text", "object", "schema", "tool"],
)
async def test_recorded_log_probabilities_are_the_learners_unless_the_reply_says_that_a_grammar_held_it(
    engine: ActorHandle, taught: Path, request_: ChatRequest, constrained: bool
) -> None:
    """Then they are of what the grammar allowed, and nowhere below the learner's: that is what it took."""
    model = LlamaForCausalLM.from_pretrained(taught).eval()
    for reply in (await engine.chat.remote(request_), (await streamed(engine, request_))[1]):
        assert reply.constrained == constrained
        taken = []
        for choice in reply.choices:
            whole = torch.tensor([[*reply.prompt_ids, *choice.response_ids]])
            with torch.no_grad():
                scores = (model(whole).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
            own = scores.gather(1, whole[0, 1:, None])[len(reply.prompt_ids) - 1 :, 0]
            taken += (torch.tensor(choice.logprobs) - own).tolist()
            assert_whole(choice)
        assert min(taken) > -1e-3
        assert (max(taken) > 0.5) == constrained


async def test_likely_tokens_are_told_without_disturbing_what_is_recorded(engine: ActorHandle) -> None:
    [plain] = (await engine.chat.remote(ChatRequest("call", GREET, GREEDY))).choices
    request = ChatRequest("call", GREET, GREEDY, top_logprobs=3)
    [choice] = (await engine.chat.remote(request)).choices
    assert plain.token_logprobs == []
    assert choice.logprobs == pytest.approx(plain.logprobs, abs=1e-5)
    assert "".join(token.token for token in choice.token_logprobs).startswith("hello")
    assert [token.logprob for token in choice.token_logprobs] == choice.logprobs
    for token in choice.token_logprobs:
        assert len({text for text, _ in token.top}) == 3 and token.top[0] == (token.token, token.logprob)


async def test_a_raw_prompt_is_continued_as_it_stands(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = rendered(tokenizer, GREET, add_generation_prompt=True)
    text = tokenizer.decode(ids)
    for prompt in (text, ids):
        reply = await engine.chat.remote(CompletionRequest("call", prompt, GREEDY))
        [choice] = reply.choices
        assert reply.prompt_ids == ids
        assert choice.message["content"] == "hello"
        assert_whole(choice)
    with pytest.raises(BadRequestError, match="prompt: 99999 is no token id"):
        await engine.chat.remote(CompletionRequest("call", [99999], GREEDY))


async def test_the_stop_sequence_that_ended_an_answer_is_told(engine: ActorHandle) -> None:
    request = ChatRequest("call", GREET, replace(GREEDY, stop=("ll",)))
    [choice] = (await engine.chat.remote(request)).choices
    assert (choice.message["content"], choice.finish_reason, choice.stop) == ("he", "stop", "ll")


@pytest.mark.parametrize(
    "request_of",
    [
        ChatRequest("c", [{"role": "user", "content": "x" * 10**6}], GREEDY),
        ChatRequest("c", [{"role": "user", "content": "x "}] * 200_000, GREEDY),
        CompletionRequest("c", "to be " * 10**6, GREEDY),
        CompletionRequest("c", [5] * 10**6, GREEDY),
    ],
    ids=["a long message", "many messages", "a long text", "many tokens"],
)
async def test_what_is_far_too_long_is_refused_as_such_by_its_size_alone(
    engine: ActorHandle, tokenizer: PreTrainedTokenizerFast, request_of: ChatRequest | CompletionRequest
) -> None:
    """Agents know it by its class, and some clients by its words. The engine tokenises no text that is longer
    than so many of the longest tokens, and reads no more messages than there may be tokens."""
    await engine.__ray_call__.remote(watched.watch)
    with pytest.raises(ContextLengthError, match=TOO_LONG_FOR_THE_MODEL):
        await engine.chat.remote(ray.put(request_of))
    reply = await engine.chat.remote(ChatRequest("call", GREET, GREEDY))
    assert reply.choices[0].message == GREETING
    longest_text, most_messages = await engine.__ray_call__.remote(watched.unwatch)
    assert 0 < longest_text <= MAX_LENGTH * max(map(len, tokenizer.get_vocab()))
    assert 0 < most_messages <= MAX_LENGTH


@pytest.mark.parametrize(
    "request_of",
    [
        ChatRequest("c", [{"role": "user", "content": "x" * 10 * MAX_LENGTH}], GREEDY),
        CompletionRequest("c", "x" * 10 * MAX_LENGTH, GREEDY),
    ],
    ids=["a message", "a text"],
)
async def test_while_what_is_too_long_is_tokenised_the_engine_goes_on(
    engine: ActorHandle, request_of: ChatRequest | CompletionRequest
) -> None:
    """The tokenizer is held with it until the engine has asked vLLM's core meanwhile whether it lives. (New
    calls wait for the one thread in which vLLM tokenises.)"""
    await engine.__ray_call__.remote(watched.watch, 5 * MAX_LENGTH)
    refused = engine.chat.remote(request_of)
    while not await engine.__ray_call__.remote(watched.is_held):
        pass
    await engine.ping.remote()
    assert await engine.__ray_call__.remote(watched.let_go), "the engine stood still all the while"
    with pytest.raises(ContextLengthError, match=TOO_LONG_FOR_THE_MODEL):
        await refused
    await engine.__ray_call__.remote(watched.unwatch)


async def test_the_engine_without_a_model_refuses_what_is_too_long_in_this_engines_words(
    engine: ActorHandle,
) -> None:
    with pytest.raises(ContextLengthError, match=re.escape(TOO_LONG)):
        await engine.chat.remote(ChatRequest("c", [{"role": "user", "content": "x" * MAX_LENGTH}], GREEDY))


async def test_a_schema_that_is_not_plain_holds_the_answer_to_it(engine: ActorHandle) -> None:
    """It was compiled elsewhere first."""
    schema = {"type": "string", "pattern": "no{3}"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    [choice] = (await engine.chat.remote(ChatRequest("call", GREET, GREEDY, response_format=wanted))).choices
    assert json.loads(choice.message["content"]) == "nooo"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": [{"role": "user", "content": "x" * MAX_LENGTH}]}, "token"),
        ({"response_format": DEEP}, "response_format: the schema has 120001 characters|bytes"),
        ({"tools": [HOSTILE], "tool_choice": "required"}, "tools.0: the schema has 100000|bytes"),
        ({"sampling": Sampling(stop=("x",) * 100_000)}, "stop: at most 64 sequences"),
        ({"messages": [{"content": "hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages"),
        (
            {"messages": [*GREET, DEEP_CALL, {"role": "tool", "tool_call_id": "c", "content": "2"}]},
            "messages",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tools"),
        ({"sampling": Sampling(n=0)}, "n must be"),
        ({"sampling": Sampling(top_p=2.0)}, "top_p"),
    ],
)
async def test_a_request_that_no_engine_could_serve_is_the_callers_mistake(
    engine: ActorHandle, change: dict[str, Any], message: str
) -> None:
    request = replace(ChatRequest("call", GREET, GREEDY), **change)
    with pytest.raises(BadRequestError, match=message):
        await engine.chat.remote(request)
    with pytest.raises(BadRequestError, match=message):
        await streamed(engine, request)
