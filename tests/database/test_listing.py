"""What is asked of the database for a list of rollouts; on both databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from al_ray.database.listing import Listing
from al_ray.database.writer import Ask, Database
from al_ray.traces import semconv
from al_ray.types import JSON, AttemptStatus, RolloutRequest, Span, SpanKind, Task

TOOL_CALL = {"id": "call-42", "type": "function", "function": {"name": "add", "arguments": '{"to": "nine"}'}}
SPANS: Mapping[str, Mapping[str, JSON]] = {
    "a call": {
        semconv.INPUT_MESSAGES: [{"role": "user", "content": [{"type": "text", "text": 'Say "4\n+ 4"'}]}],
        semconv.OUTPUT_MESSAGES: [
            {"role": "assistant", "content": None, "reasoning": "I add.", "tool_calls": [TOOL_CALL]}
        ],
        semconv.FINISH_REASONS: ["tool_calls"],
        semconv.PROMPT_IDS: [42, 4242],
        semconv.CHOICES: [{"ids": [42], "logprobs": [-0.42], "versions": [[42, 0, 1]]}],
        semconv.OUTPUT_TOKENS: 42,
        semconv.TRACE_ID: "42ab",
    },
    "a tool": {semconv.TOOL_NAME: "add", semconv.TOOL_CALL_RESULT: {"sum": 17}},
    "an output": {semconv.STDOUT: "checked 42 times\nGrüße\n"},
}


@pytest.fixture
def listing(store_url: str) -> Iterator[Listing]:
    """Of a run with a rollout for each of ``SPANS``, called so."""
    database = Database(store_url)
    with database.begin() as connection:
        requests = [RolloutRequest(name, "b", "g", Task("t", {"question": "Why l'école?"})) for name in SPANS]
        database.enqueue(connection, requests)
        database.claim(connection, [Ask("w", "all", 9)], 1.0, 30.0, 31.0)
        for name, attributes in SPANS.items():
            span = Span(f"{name}/s", name, 1, SpanKind.EVENT, "s", 1.0, 2.0, attributes)
            database.append(connection, [[span]])
    database.close()
    listing = Listing(store_url)
    yield listing
    listing.close()


@pytest.mark.parametrize(
    "text, where",
    [
        ("42", {"an output"}),
        ("logprobs", set()),
        ("gen_ai", set()),
        ("tool_calls", set()),
        ("assistant", set()),
        ("-0.4", set()),
        ('"4\n+', {"a call"}),
        ("i ADD.", {"a call"}),
        ("add", {"a call", "a tool"}),
        ('{"to": "nine', {"a call"}),
        ("17", {"a tool"}),
        ("wHy", {*SPANS}),
        ("L'ÉCOLE", {*SPANS}),
        ("GRÜSSE", {"an output"}),
    ],
)
def test_a_text_is_found_where_somebody_said_it(listing: Listing, text: str, where: set[str]) -> None:
    """In tasks, messages, tools and what was printed: not in tokens, names, roles, counts or ids."""
    assert listing.with_text([*SPANS], text) == where


def test_an_error_is_found_in_whatever_case(store_url: str) -> None:
    database = Database(store_url)
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest(name, "b", "g", Task("t", {})) for name in "ab"])
        ((failed, *_),) = database.claim(connection, [Ask("w", "all", 9)], 1.0, 30.0, 31.0)
        error = "ValueError: 50% étrange"
        ended = replace(failed.attempt, status=AttemptStatus.FAILED, ended_at=2.0, error=error)
        database.finish(connection, [(ended, ())])
    database.close()
    listing = Listing(store_url)
    for text, found in (("valueerror", {"a"}), ("ÉTRANGE", {"a"}), ("5_%", set()), ("\0", set())):
        assert listing.with_error(text) == found
    listing.close()
