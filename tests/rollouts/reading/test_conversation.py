"""Which messages of a call no call before it has told."""

from __future__ import annotations

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
