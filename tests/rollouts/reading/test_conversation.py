"""Which messages of a call no call before it has told."""

from __future__ import annotations

from datetime import date
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from al_ray.rollouts.reading.conversation import fresh_messages
from al_ray.traces import semconv
from al_ray.types import JSON, Span, SpanKind

texts = st.sampled_from("ab")


def call(sent: list[str], answers: list[str]) -> Span:
    """Whose messages are these texts."""
    shown: list[JSON] = [{"role": "user", "content": text} for text in sent]
    said: list[JSON] = [{"content": text, "role": "user", "refusal": None} for text in answers]
    told: dict[str, JSON] = {semconv.INPUT_MESSAGES: shown, semconv.OUTPUT_MESSAGES: said}
    return Span("c", "r", 1, SpanKind.CALL, "chat", 0.0, 0.0, told)


@given(st.lists(st.tuples(st.lists(texts, max_size=4), st.lists(texts, max_size=2)), max_size=6))
def test_what_the_longest_earlier_conversation_has_told_is_left_out(
    said: list[tuple[list[str], list[str]]],
) -> None:
    """By each call compared with every earlier one; keys without a value, and their order, do not count. A
    call without an answer has told nothing."""
    for number, (_, fresh) in enumerate(fresh_messages([call(*each) for each in said])):
        sent, _ = said[number]
        earlier = [[*before, answer] for before, answers in said[:number] for answer in answers]
        alike = [len([*takewhile(lambda p: p[0] == p[1], zip(sent, each, strict=False))]) for each in earlier]
        assert [message["content"] for message in fresh] == sent[max(alike, default=0) :]


def test_what_is_sent_back_in_another_shape_is_not_told_again() -> None:
    """Without what was thought, with arguments laid out anew, in parts, under another clock."""

    def told(place: int, sent: list[JSON], answer: JSON) -> Span:
        system = {"role": "system", "content": f"Current time: {date.fromtimestamp(place)} 09:00:{place:02}"}
        said: dict[str, JSON] = {
            semconv.INPUT_MESSAGES: [system, *sent],
            semconv.OUTPUT_MESSAGES: [answer],
        }
        return Span(f"c{place}", "r", 1, SpanKind.CALL, "chat", place, place, said)

    def asks(arguments: str, **more: JSON) -> JSON:
        function = {"name": "add", "arguments": arguments}
        return {"role": "assistant", "tool_calls": [{"id": "1", "function": function}], **more}

    question: JSON = {"role": "user", "content": "1 + 1?"}
    history = [question, asks('{"a":1}'), {"role": "tool", "tool_call_id": "1", "content": "2"}]
    parts = {"role": "assistant", "content": [{"type": "text", "text": "2"}]}
    calls = [
        told(0, [question], asks('{"a": 1}', content=None, reasoning="one and one")),
        told(1, history, {"role": "assistant", "content": "2\n", "reasoning": "as it says"}),
        told(2, [*history, parts, question], {"role": "assistant", "content": "2"}),
    ]
    assert [len(fresh) for _, fresh in fresh_messages(calls)] == [2, 1, 1]
