"""A conversation goes on with the tokens that were sampled, or the reason why not is told.

Chat templates and tokenizers are real; what is sampled is chosen here, so that it can be awkward.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from al_ray.errors import RecipeError
from al_ray.models import folders
from al_ray.traces.messages import Message
from al_ray.types import ChatRequest, Lineage, LineageOutcome, Sampling
from tests.support.models.speaker import (
    CHATML,
    HERMES,
    LLAMA3,
    MISTRAL,
    QWEN3,
    SMOLLM2_TOOLS,
    SPECIAL,
    Speaker,
    byte_level_tokenizer,
    from_javascript,
    said,
    tokens,
    user,
)

TOKENIZER = byte_level_tokenizer()
END = TOKENIZER.token_to_id("<|im_end|>")
STABLE = [CHATML, HERMES, SMOLLM2_TOOLS]
TEMPLATE_ENDS = [(CHATML, "<|im_end|>"), (QWEN3, "<|im_end|>"), (LLAMA3, "<|eot_id|>")]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]
BYTES = st.lists(st.integers(len(SPECIAL), TOKENIZER.get_vocab_size() - 1), min_size=1, max_size=12)
RESPONSES = BYTES | BYTES.map(lambda ids: [*ids, END]) | st.just([END])


def spelt(text: str) -> list[int]:
    """``text`` a byte a token, which is not how the tokenizer would write it."""
    return [id for character in text for id in TOKENIZER.encode(character, add_special_tokens=False).ids]


def continued(parent: str, reply_tokens: list[int]) -> Lineage:
    return Lineage(LineageOutcome.CONTINUED, parent, len(reply_tokens))


@pytest.mark.parametrize(("template", "end"), TEMPLATE_ENDS)
async def test_what_was_sampled_stays_though_its_text_would_be_tokenised_otherwise(
    template: str, end: str
) -> None:
    """Three calls; the prompt of each is the tokens of the last one and the new message, and reads as the
    template says."""
    speaker = Speaker(template, TOKENIZER)
    messages: list[Message] = [user("hello")]
    last = await speaker.call(messages, [*spelt("hello 123"), TOKENIZER.token_to_id(end)])
    assert last.lineage == Lineage(LineageOutcome.NEW)
    for number in (1, 2):
        messages += [said(last), user(f"hello {number}")]
        reply = await speaker.call(messages, [*spelt("12 hello"), TOKENIZER.token_to_id(end)])
        assert reply.lineage == continued(f"c{number}/0", tokens(last))
        assert reply.prompt_ids[: len(tokens(last))] == tokens(last)
        assert speaker.decode(reply.prompt_ids) == speaker.text(messages, None, True)
        assert reply.prompt_ids != speaker.tokenize(speaker.text(messages, None, True))
        last = reply


@given(st.lists(RESPONSES, min_size=2, max_size=4), st.sampled_from(STABLE))
@settings(max_examples=100, deadline=None)
async def test_any_bytes_that_were_sampled_stay_whether_they_are_text_or_not(
    responses: list[list[int]], template: str
) -> None:
    """Also where a response was cut off: then the template ends the turn."""
    speaker = Speaker(template, TOKENIZER)
    messages: list[Message] = [user("?")]
    last = await speaker.call(messages, responses[0])
    for number, response in enumerate(responses[1:], start=1):
        messages += [said(last), user("more")]
        reply = await speaker.call(messages, response)
        begun = tokens(last)
        assert reply.lineage == continued(f"c{number}/0", begun)
        assert reply.prompt_ids[: len(begun)] == begun
        end = "" if begun[-1] == END else "<|im_end|>"
        new = f"{end}\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
        assert reply.prompt_ids[len(begun) :] == speaker.tokenize(new)
        last = reply


@pytest.mark.parametrize(
    ("template", "sampled"),
    [
        (HERMES, '<tool_call>{"name":"add","arguments":{"a":1.0,"b":"é"}}</tool_call>'),
        (HERMES, 'So:\n\n<tool_call>\n{"arguments": {"a": 1, "b": "\\u00e9"}, "name": "add"}\n</tool_call>'),
        (QWEN3, '<tool_call>{"name":"add","arguments":{"a":1,"b":2}}</tool_call>'),
        (SMOLLM2_TOOLS, '[add(a="\\u00e9")]'),
        (LLAMA3, "  hello\n"),
    ],
)
async def test_a_message_comes_back_in_another_shape_and_is_the_same_message(
    template: str, sampled: str
) -> None:
    """Another client's nulls, ids and JSON, and the template's own layout, are not what the model said."""
    speaker = Speaker(template, TOKENIZER)
    end = "<|eot_id|>" if template is LLAMA3 else "<|im_end|>"
    tools = None if template is LLAMA3 else TOOLS
    first = await speaker.call([user("?")], sampled + end, tools=tools)
    answer = {"role": "user" if tools is None else "tool", "content": "3", "tool_call_id": "mine-call-0"}
    second = await speaker.call([user("?"), from_javascript(said(first)), answer], end, tools=tools)
    assert second.lineage == continued("c1/0", tokens(first))
    assert second.prompt_ids[: len(tokens(first))] == tokens(first)


@pytest.mark.parametrize("keeps", [True, False])
async def test_thinking_stays_while_tools_are_called_whether_the_agent_keeps_it_or_not(keeps: bool) -> None:
    speaker = Speaker(QWEN3, TOKENIZER, reasons=True)
    calling = '<think>hello</think>\n\n<tool_call>{"name": "add", "arguments": {}}</tool_call><|im_end|>'
    messages: list[Message] = [user("?")]
    for number in range(3):
        reply = await speaker.call(messages, [*spelt(calling[:-10]), END], tools=TOOLS)
        assert reply.lineage.outcome is (LineageOutcome.CONTINUED if number else LineageOutcome.NEW)
        shown = dict(said(reply))
        assert shown["reasoning"] == "hello" if keeps else shown.pop("reasoning")
        messages += [shown, {"role": "tool", "content": "1"}]
    assert speaker.decode(reply.prompt_ids).count("<think>hello</think>") == 2


async def test_a_template_that_strips_thinking_once_the_user_speaks_opens_a_branch() -> None:
    speaker = Speaker(QWEN3, TOKENIZER, reasons=True)
    first = await speaker.call([user("?")], "<think>\n12\n</think>\n\nhello<|im_end|>")
    messages = [user("?"), said(first), user("again")]
    second = await speaker.call(messages, "<think>\n\n</think>\n\n12<|im_end|>")
    assert second.lineage == Lineage(LineageOutcome.TEMPLATE)
    assert second.prompt_ids == speaker.tokenize(speaker.text(messages, None, True))


async def test_a_template_that_never_shows_thinking_opens_a_branch() -> None:
    speaker = Speaker(CHATML, TOKENIZER, reasons=True)
    first = await speaker.call([user("?")], "<think>12</think>hello<|im_end|>")
    second = await speaker.call([user("?"), said(first), user("again")], [END])
    assert second.lineage == Lineage(LineageOutcome.TEMPLATE)


async def test_a_new_date_opens_a_branch() -> None:
    speaker = Speaker(LLAMA3, TOKENIZER)
    first = await speaker.call([user("?")], "hello<|eot_id|>")
    messages: list[Message] = [user("?"), said(first), user("again")]
    speaker.date = "2 May 2026"
    second = await speaker.call(messages, "hello<|eot_id|>")
    assert second.lineage == Lineage(LineageOutcome.TEMPLATE)
    third = await speaker.call([*messages, said(second), user("again")], "hello<|eot_id|>")
    assert third.lineage == continued("c2/0", tokens(second))


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
async def test_a_template_that_moves_the_system_prompt_opens_a_branch(system: list[Message]) -> None:
    """And only where there is one."""
    speaker = Speaker(MISTRAL, TOKENIZER)
    first = await speaker.call([*system, user("?")], " hello</s>")
    second = await speaker.call([*system, user("?"), said(first), user("again")], " hello</s>")
    assert second.lineage == (
        Lineage(LineageOutcome.TEMPLATE) if system else continued("c1/0", tokens(first))
    )


async def test_a_turn_that_a_stop_string_cut_is_tokenised_again() -> None:
    """The agent was not shown all that was sampled, and its last token may be one of which it saw a part."""
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], spelt("12 hello"), stop="lo")
    assert said(first)["content"] == "12 hel"
    messages = [user("?"), said(first), user("again")]
    second = await speaker.call(messages, [END])
    assert second.lineage == Lineage(LineageOutcome.RETOKENISED)
    assert second.prompt_ids == speaker.tokenize(speaker.text(messages, None, True))


@pytest.mark.parametrize("sampled", ["12 hello", "12 hello<|im_end|>"])
async def test_a_stop_string_that_was_not_sampled_cuts_nothing(sampled: str) -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], sampled, stop="zz")
    second = await speaker.call([user("?"), said(first), user("again")], [END])
    assert second.lineage == continued("c1/0", tokens(first))


async def test_a_special_token_that_the_agent_was_not_shown_is_not_put_into_its_conversation() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], "hello<|im_start|>hello<|im_end|>")
    assert said(first)["content"] == "hellohello"
    second = await speaker.call([user("?"), said(first), user("again")], [END])
    assert second.lineage == Lineage(LineageOutcome.RETOKENISED)


async def test_a_cut_tool_call_is_kept_as_the_text_that_it_was() -> None:
    speaker = Speaker(HERMES, TOKENIZER)
    first = await speaker.call([user("?")], spelt('<tool_call>{"name": "ad'), tools=TOOLS)
    second = await speaker.call([user("?"), said(first), user("go on")], [END], tools=TOOLS)
    assert second.lineage == continued("c1/0", tokens(first))
    assert second.prompt_ids[: len(tokens(first)) + 1] == [*tokens(first), END]


async def test_arguments_that_the_template_leaves_out_open_a_branch() -> None:
    speaker = Speaker(HERMES, TOKENIZER)
    first = await speaker.call(
        [user("?")], '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>', tools=TOOLS
    )
    speaker.template = HERMES.replace("(call.function.arguments | tojson)", "'{}'")
    second = await speaker.call([user("?"), said(first), user("go on")], [END], tools=TOOLS)
    assert second.lineage == Lineage(LineageOutcome.TEMPLATE)


async def test_the_tokens_of_a_branch_that_no_template_could_keep_go_on_from_there() -> None:
    """After a branch was opened, the calls that follow continue it."""
    speaker = Speaker(QWEN3, TOKENIZER, reasons=True)
    calling = '<think>hello</think><tool_call>{"name": "add", "arguments": {}}</tool_call><|im_end|>'
    first = await speaker.call([user("?")], "<think>\n12\n</think>\n\nhello<|im_end|>", tools=TOOLS)
    messages = [user("?"), said(first), user("again")]
    second = await speaker.call(messages, calling, tools=TOOLS)
    messages += [said(second), {"role": "tool", "content": "1"}]
    third = await speaker.call(messages, [END], tools=TOOLS)
    assert [reply.lineage.outcome for reply in (first, second, third)] == ["new", "template", "continued"]
    assert third.prompt_ids[: len(tokens(second))] == tokens(second)


async def test_a_tokenizer_that_makes_no_text_continues_nothing() -> None:
    speaker = Speaker(CHATML, TOKENIZER)
    first = await speaker.call([user("?")], "hello<|im_end|>")
    messages = [user("?"), said(first), user("again")]
    asked = ChatRequest("c2", messages, Sampling(), attempt="r/1")
    place = speaker.continuation.place(asked)
    prompt = await speaker.continuation.prompt(asked, place, None, [1, 2])
    assert (prompt.ids, prompt.lineage) == ([1, 2], Lineage(LineageOutcome.OTHER))


@pytest.mark.slow
@pytest.mark.parametrize("template", [SMOLLM2_TOOLS, None])
async def test_smollm2_goes_on_from_tokens_that_its_tokenizer_would_not_have_written(
    template: str | None,
) -> None:
    """With its own template, and with the one of the recipes."""
    try:
        folder = folders.resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    except RecipeError as error:
        pytest.skip(str(error))
    loaded = AutoTokenizer.from_pretrained(folder)
    speaker = Speaker(template or loaded.chat_template, loaded.backend_tokenizer)
    sampled = [id for letter in "The answer is ### 42 ###" for id in speaker.tokenize(letter)]
    end = loaded.convert_tokens_to_ids("<|im_end|>")
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, user("What is 6 x 7?")]
    first = await speaker.call(messages, [*sampled, end])
    messages += [said(first), user("Are you sure?")]
    second = await speaker.call(messages, [*sampled, end])
    assert second.lineage == continued("c1/0", tokens(first))
    text = speaker.text(messages, None, True)
    assert speaker.decode(second.prompt_ids) == text
    assert len(speaker.tokenize(text)) < len(second.prompt_ids)


async def test_a_turn_of_which_the_agent_was_shown_one_tool_call_alone_opens_a_branch() -> None:
    """It is not told of the others, so the model should not see them in what it said."""
    speaker = Speaker(HERMES, TOKENIZER)
    calls = [
        f'<tool_call>\n{{"name": "add", "arguments": {{"a": {number}}}}}\n</tool_call>' for number in (1, 2)
    ]
    both = "\n".join(calls) + "<|im_end|>"
    for one_call, outcome in ((False, "continued"), (True, "retokenised")):
        attempt = f"r/{one_call}"
        first = await speaker.call([user("?")], both, tools=TOOLS, attempt=attempt, one_call=one_call)
        result = {"role": "tool", "tool_call_id": "call-0", "content": "3"}
        messages = [user("?"), said(first), result]
        second = await speaker.call(messages, "12<|im_end|>", tools=TOOLS, attempt=attempt)
        assert second.lineage.outcome == outcome
        assert ('"a": 2' in speaker.decode(second.prompt_ids)) is not one_call
