"""Conversations for trainers of chat models, from what was recorded of rollouts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from unittest.mock import Mock

import datasets
import orjson
import pyarrow.parquet as pq
import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.query import Page
from al_ray.database.writer import Database
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.exporting.dialogues import dialogues, preference
from al_ray.rollouts.exporting.files import export
from al_ray.rollouts.exporting.tables import TABLES, Export
from al_ray.rollouts.reading.search import Search
from al_ray.traces import semconv
from al_ray.types import JSON, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task
from tests.support.runs.recorded import record_samples

SYSTEM: JSON = {"role": "system", "content": "Add."}
ASKED: JSON = {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}
TOOL: JSON = {"type": "function", "function": {"name": "add", "parameters": {}}}
CALLS: JSON = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "[1, 1]"}}],
    "refusal": None,
}
RESULT: JSON = {"role": "tool", "tool_call_id": "c1", "content": "2"}


def call(place: int, sent: list[JSON], answer: JSON) -> Span:
    attributes = {
        semconv.INPUT_MESSAGES: sent,
        semconv.OUTPUT_MESSAGES: [answer],
        semconv.TOOL_DEFINITIONS: [TOOL],
        semconv.CHOICES: [{"ids": [7], "logprobs": [-1.0], "versions": [[0, 0, 1]]}],
    }
    return Span(f"c{place}", "r", 1, SpanKind.CALL, "chat", place, place + 0.5, attributes, place)


def rollout(*spans: Span, reward: float = 0.0) -> Rollout:
    given = Span("w", "r", 1, SpanKind.REWARD, "reward", 9.0, 9.0, {semconv.REWARD: reward}, 99)
    return Rollout(RolloutRequest("r", "b", "g", Task("t", {})), RolloutStatus.SUCCEEDED, (), [*spans, given])


def said(text: str) -> JSON:
    return {"role": "assistant", "content": text}


def test_calls_that_go_on_are_one_conversation_and_what_begins_anew_is_another() -> None:
    """In the shape that chat templates know: parts are text, and what is not there is left out."""
    begun = call(0, [SYSTEM, ASKED], CALLS)
    gone_on = call(1, [SYSTEM, ASKED, CALLS, RESULT], said("2"))
    anew = call(2, [ASKED], said("two"))
    first, second = dialogues(rollout(begun, gone_on, anew))
    told = CALLS["tool_calls"]
    assert first.messages == [
        SYSTEM,
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": told},
        RESULT | {"content": "2"},
        said("2"),
    ]
    assert second.messages == [{"role": "user", "content": "1 + 1?"}, said("two")]
    assert first.tools == [TOOL]


def test_what_the_model_thought_is_told_also_where_the_agent_does_not_send_it_again() -> None:
    begun = call(0, [ASKED], said("2") | {"reasoning": "one and one"})
    gone_on = call(1, [ASKED, said("2"), ASKED], said("still 2") | {"reasoning": "as before"})
    [only] = dialogues(rollout(begun, gone_on))
    asked = {"role": "user", "content": "1 + 1?"}
    first = said("2") | {"reasoning_content": "one and one"}
    assert only.messages == [asked, first, asked, said("still 2") | {"reasoning_content": "as before"}]


def clocked(place: int, seconds: int) -> JSON:
    """The system's message of a call that was made at ``call``'s place of its day."""
    return {
        "role": "system",
        "content": f"Add.\nCurrent time: {date.fromtimestamp(place)} 09:00:{seconds:02}",
    }


@pytest.mark.parametrize(
    "back",
    [
        {"tool_calls": [{**CALLS["tool_calls"][0], "function": {"name": "add", "arguments": "[1,1.0]"}}]},
        {"tool_calls": [{**CALLS["tool_calls"][0], "id": "other"}]},
        {"content": " \n"},
        {"reasoning": None, "reasoning_content": ""},
    ],
    ids=["layout", "ids", "white space", "reasoning"],
)
def test_a_conversation_goes_on_however_the_agent_sends_it_back(back: JSON) -> None:
    """As it goes on in the engine: its messages are as they were said, under the ids that it went on with."""
    answer = CALLS | {"reasoning": "one and one"}
    sent_back = CALLS | back
    result = RESULT | {"tool_call_id": sent_back["tool_calls"][0]["id"]}
    history = [ASKED, sent_back, result]
    begun = call(0, [clocked(0, 1), ASKED], answer)
    gone_on = call(1, [clocked(1, 2), *history], said("2\n"))
    ended = call(2, [clocked(2, 3), *history, said("2"), ASKED], said("still 2"))
    [only] = dialogues(rollout(begun, gone_on, ended))
    assert [message["role"] for message in only.messages] == [
        *("system", "user", "assistant", "tool", "assistant", "user", "assistant")
    ]
    assert only.messages[0] == clocked(0, 1)
    [told] = only.messages[2]["tool_calls"]
    assert told == CALLS["tool_calls"][0] | {"id": result["tool_call_id"]}
    assert only.messages[2]["reasoning_content"] == "one and one"
    assert only.messages[3]["tool_call_id"] == told["id"]


def test_what_an_agent_did_not_wait_for_is_no_answer() -> None:
    cut = call(0, [ASKED], said("tw"))
    cut = replace(cut, attributes={**cut.attributes, semconv.FINISH_REASONS: [semconv.ABORTED]})
    [only] = dialogues(rollout(cut, call(1, [ASKED], said("two"))))
    assert only.messages[-1] == said("two")


def test_a_judges_calls_are_no_conversation_of_the_models() -> None:
    answered = rollout(call(0, [ASKED], said("two")))
    for mode, count in (("train", 1), ("judge", 0)):
        told = replace(answered, request=replace(answered.request, mode=mode))
        records = Mock(find_rollouts=Mock(return_value=Page([told], None)))
        source = Export(records, Search(), TransitionsSection())
        assert len([*TABLES["conversations"][1](source)]) == count


def test_two_rollouts_part_where_they_say_something_else_and_not_by_ids_or_the_clock() -> None:
    """What the model thought is a part of what it is preferred for."""
    other = CALLS | {"tool_calls": [{**CALLS["tool_calls"][0], "id": "c2"}]}
    history = [ASKED, other, RESULT | {"tool_call_id": "c2"}]
    good = rollout(
        call(0, [clocked(0, 1), ASKED], CALLS),
        call(1, [clocked(1, 2), ASKED, CALLS, RESULT], said("2")),
        reward=1.0,
    )
    bad = rollout(call(0, [clocked(0, 5), ASKED], other), call(1, [clocked(1, 6), *history], said("3")))
    found = preference([bad, good], "reward")
    assert found is not None and len(found.prompt) == 4
    assert (found.chosen, found.rejected) == ([said("2")], [said("3")])
    thought = rollout(
        call(0, [clocked(0, 5), ASKED], other | {"reasoning": "hm"}),
        call(1, [clocked(1, 6), *history], said("3")),
    )
    found = preference([thought, good], "reward")
    assert found is not None and len(found.prompt) == 2


def test_the_best_of_a_group_is_preferred_to_the_worst_from_where_they_part() -> None:
    """From an answer on; nothing where none is better, nothing is shared, or they differ in nothing."""
    good = rollout(
        call(0, [SYSTEM, ASKED], CALLS), call(1, [SYSTEM, ASKED, CALLS, RESULT], said("2")), reward=1.0
    )
    bad = rollout(call(0, [SYSTEM, ASKED], CALLS), call(1, [SYSTEM, ASKED, CALLS, RESULT], said("3")))
    found = preference([bad, good], "reward")
    assert found is not None and (found.better, found.worse) == (good, bad)
    assert [message["role"] for message in found.prompt] == ["system", "user", "assistant", "tool"]
    assert (found.chosen, found.rejected) == ([said("2")], [said("3")])
    other = rollout(
        call(0, [SYSTEM, ASKED], CALLS), call(1, [SYSTEM, ASKED, CALLS, RESULT | {"content": "5"}], said("5"))
    )
    found = preference([other, good], "reward")
    assert found is not None and len(found.prompt) == 2, "an answer begins what differs"
    assert preference([good, good], "reward") is None
    unlucky = rollout(*good.spans[:2], reward=0.0)
    assert preference([unlucky, good], "reward") is None
    assert preference([good, rollout(call(0, [ASKED], said("2")))], "reward") is None


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_trainers_read_what_is_exported(tmp_path: Path, suffix: str) -> None:
    """As Hugging Face datasets, by the columns that trainers of conversations and preferences look for."""
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    samples = {"t1": [(1.0, ["a", "b"]), (0.0, ["a", "c"])], "t2": [(1.0, ["d"]), (1.0, ["e"])]}
    record_samples(database, "eval/step-000000", samples)
    source = Export(database, Search(), TransitionsSection())
    files = {what: tmp_path / f"{what}.{suffix}" for what in ("conversations", "preferences")}
    counts = {what: export(source, what, None, file) for what, file in files.items()}
    good = Export(database, Search(min_reward=1.0), TransitionsSection())
    assert export(good, "conversations", None, tmp_path / "good.jsonl") == 3
    database.close()
    assert counts == {"conversations": 4, "preferences": 1}
    kind = "json" if suffix == "jsonl" else "parquet"
    loaded = datasets.load_dataset(
        kind, data_files=str(files["conversations"]), cache_dir=str(tmp_path / "c")
    )
    row = loaded["train"][0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user", "assistant"]
    assert (row["reward"], row["tools"], row["task_id"]) == (1.0, "[]", "t1")
    if suffix == "parquet":
        [pair] = pq.read_table(files["preferences"]).to_pylist()
    else:
        [pair] = map(orjson.loads, files["preferences"].read_bytes().splitlines())
    assert [message["content"] for message in pair["prompt"]] == ["t1?", "a", "go on"]
    assert [[message["content"] for message in pair[side]] for side in ("chosen", "rejected")] == [
        ["b"],
        ["c"],
    ]
    assert (pair["score_chosen"], pair["score_rejected"]) == (1.0, 0.0)
