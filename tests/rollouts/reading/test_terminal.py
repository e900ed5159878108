"""Rollouts as a person reads them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import RenderableType

from al_ray.database.backends import sqlite_url
from al_ray.database.query import Query
from al_ray.database.writer import Ask, Database
from al_ray.errors import UserError
from al_ray.reports.console import terminal
from al_ray.rollouts.reading import conversation, search
from al_ray.rollouts.reading import terminal as rollout_view
from al_ray.traces import semconv
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)

SYSTEM = {"role": "system", "content": "Compute. [bold]Not markup[/bold]"}
USER = {"role": "user", "content": "What is 2 + 3?"}
CALLING = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "5"}
ANSWER = {"role": "assistant", "content": "The answer is 5."}


TRACEBACK = """Traceback (most recent call last):
  File "/srv/al_ray/actors/runner/actor.py", line 168, in _play
    output = await self._output(job)
  File "/home/me/agent.py", line 3, in solve
    raise ValueError("no [b]")
ValueError: no [b]
"""


def _call(number: int, messages: list[JSON], answer: JSON, version: int) -> Span:
    attributes = {
        semconv.INPUT_MESSAGES: messages,
        semconv.OUTPUT_MESSAGES: [answer],
        semconv.FINISH_REASONS: ["stop"],
        semconv.INPUT_TOKENS: 11,
        semconv.OUTPUT_TOKENS: 2,
        semconv.CHOICES: [{"ids": [7, 8], "logprobs": [-0.25, -0.75], "versions": [[version, 0, 2]]}],
    }
    return Span(f"call-{number}", "r/0", 1, SpanKind.CALL, "chat m", 10.0, 11.5, attributes, number)


def _rollout() -> Rollout:
    request = RolloutRequest("r/0", "step-000003", "r", Task("t-7", {"question": "What is 2 + 3?"}))
    # The agent sends the model's answer back with the keys that its client library adds.
    again = [SYSTEM, USER, {**CALLING, "content": "", "refusal": None}, RESULT]
    spans = [
        Span("reward", "r/0", 1, SpanKind.REWARD, "reward", 12.0, 12.0, {semconv.REWARD: 1.0}, 2),
        _call(1, again, ANSWER, 4),
        _call(0, [SYSTEM, USER], CALLING, 3),
    ]
    attempt = Attempt("r/0", 1, "key", AttemptStatus.SUCCEEDED, "runner 0", 0.0, 3.5, output={"answer": 5})
    return Rollout(request, RolloutStatus.SUCCEEDED, [attempt], spans)


def _printed(renderable: RenderableType) -> str:
    file = io.StringIO()
    terminal(file).print(renderable)
    return file.getvalue()


def test_every_message_is_shown_once_and_in_order() -> None:
    text = _printed(rollout_view.show(_rollout()))
    pieces = [
        "Compute.",
        "user",
        '-> add({"a": 2, "b": 3})  c1',
        "(3 messages as before)",
        "tool_call_id: c1",
        "The answer is 5.",
        "reward 1 (reward)",
        "final reward 1",
    ]
    positions = [text.index(piece) for piece in pieces]
    assert positions == sorted(positions)
    assert text.count("Compute.") == text.count("-> add(") == text.count("The answer is 5.") == 1


def test_a_call_tells_tokens_reason_version_logprob_and_seconds() -> None:
    text = _printed(rollout_view.show(_rollout()))
    assert "call 2: 11 prompt tokens, 1.50 s" in text
    assert "(2 tokens, policy version 4, mean logprob -0.500, stop)" in text


def test_a_call_that_was_answered_from_a_record_says_so() -> None:
    first, *others = reversed(_rollout().spans)
    replayed = replace(first, attributes={**first.attributes, semconv.REPLAYED: "another"})
    text = _printed(rollout_view.show(replace(_rollout(), spans=[replayed, *others])))
    assert "call 1: 11 prompt tokens, from the record" in text and "call 2: 11 prompt tokens, 1.50 s" in text


def test_an_error_is_shown_once_with_the_agents_own_frames() -> None:
    """An agent that fails twice alike says so."""
    failed = [Attempt("r/0", n, "k", AttemptStatus.FAILED, "w", 0.0, 2.0, TRACEBACK) for n in (1, 2)]
    text = _printed(rollout_view.show(replace(_rollout(), attempts=failed)))
    assert text.count("/home/me/agent.py") == text.count("ValueError: no [b]") == 1
    assert "actors/runner" not in text and "... 1 frame of libraries and of al_ray" in text
    assert "as attempt 1" in text[text.index("attempt 2: failed") :]


def test_an_attempt_tells_status_time_error_and_output() -> None:
    request = RolloutRequest("r/0", "b", "r", Task("t", {}))
    failed = Attempt("r/0", 1, "k", AttemptStatus.FAILED, "w", 0.0, 2.0, "ValueError: [red]bad[/red]")
    text = _printed(rollout_view.show(Rollout(request, RolloutStatus.FAILED, [failed])))
    assert "attempt 1: failed" in text and "2.0 s" in text and "ValueError: [red]bad[/red]" in text
    assert "no reward" in text


def test_text_of_agents_is_neither_markup_nor_cut_nor_able_to_steer_the_terminal() -> None:
    long = "[bold]" + "x" * 5000 + "\x1b[2J\rend"
    request = RolloutRequest("r/0", "b", "r", Task("t", {"question": long}))
    text = _printed(rollout_view.show(Rollout(request, RolloutStatus.QUEUED)))
    assert "[bold]" + "x" * 5000 + "\\x1b[2J\\rend" in text
    assert "\x1b" not in text and "\r" not in text


def test_a_rewritten_history_is_shown_from_where_it_differs() -> None:
    rewritten = _call(2, [SYSTEM, {"role": "user", "content": "summary"}], ANSWER, 4)
    rollout = _rollout()
    text = _printed(
        rollout_view.show(Rollout(rollout.request, rollout.status, (), [*rollout.spans, rewritten]))
    )
    assert "(1 messages as before)" in text and text.count("Compute.") == 1 and "summary" in text


def test_the_transcript_is_the_conversation() -> None:
    assert conversation.transcript(_rollout()) == "\n\n".join(
        [
            "[system]\nCompute. [bold]Not markup[/bold]",
            "[user]\nWhat is 2 + 3?",
            '[assistant]\n-> add({"a": 2, "b": 3})  c1',
            "[tool]\ntool_call_id: c1\n5",
            "[assistant]\nThe answer is 5.",
        ]
    )


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Two rollouts, the first one ended with a reward of 0.5 after a call."""
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    task = Task("t", {"question": "q " * 100})
    with database.begin() as connection:
        names = ("step-000000/0/0", "step-000000/0/1")
        database.enqueue(connection, [RolloutRequest(name, "step-000000", "g", task) for name in names])
        ((claim,),) = database.claim(connection, [Ask("w", "claim-1", 1)], 0.0, 9.0, 9.0)
        name = claim.request.id
        database.append(connection, [[Span("c", name, 1, SpanKind.CALL, "chat", 0.0, 1.0, {})]])
        reward = Span("s", name, 1, SpanKind.REWARD, "reward", 1.0, 1.0, {semconv.REWARD: 0.5})
        ended = Attempt(name, 1, "", AttemptStatus.SUCCEEDED, ended_at=1.0)
        assert database.finish(connection, [(ended, [reward])]) == [True]
    return database


def test_the_table_tells_rewards_and_an_excerpt_of_the_task(database: Database) -> None:
    header, done, waiting = _printed(
        rollout_view.rollouts_table(database.find_rollouts(Query(), [SpanKind.REWARD]).items)
    ).splitlines()
    assert header.split() == ["rollout", "batch", "status", "attempts", "seconds", "reward", "task"]
    assert done.split()[:6] == ["step-000000/0/0", "step-000000", "succeeded", "1", "1.0", "0.5"]
    assert waiting.split()[:6] == ["step-000000/0/1", "step-000000", "queued", "0", "-", "-"]
    assert done.rstrip().endswith("...") and len(done) < 200


def test_rewards_are_read_without_calls(database: Database) -> None:
    rewarded = database.find_rollouts(Query(), [SpanKind.REWARD]).items
    assert [[span.kind for span in rollout.spans] for rollout in rewarded] == [["reward"], []]
    assert not any(rollout.spans for rollout in database.find_rollouts(Query()).items)


def test_a_rollout_is_found_by_the_beginning_of_its_id(database: Database) -> None:
    assert search.find(database, "step-000000/0/1").id == "step-000000/0/1"


@pytest.mark.parametrize("prefix", ["step", "stap-000000/0/0"])
def test_an_ambiguous_or_unknown_id_is_answered_with_those_there_are(database: Database, prefix: str) -> None:
    with pytest.raises(UserError, match="step-000000/0/0, step-000000/0/1") as error:
        search.find(database, prefix)
    assert prefix in str(error.value)


def test_operations_are_shown_around_what_they_enclose_and_rewards_under_their_call() -> None:
    """Though an operation is recorded when it ends, after all that is in it."""
    around = {semconv.OPERATION: "invoke_agent", semconv.AGENT_NAME: "solver"}
    tool = {semconv.OPERATION: "execute_tool", semconv.TOOL_CALL_ID: "c1", semconv.PARENT_ID: "agent"}
    step = {semconv.REWARD: 0.25, semconv.REWARD_CALL: "call-0"}
    first = _call(0, [SYSTEM, USER], CALLING, 3)
    calls = [replace(first, attributes={**first.attributes, semconv.PARENT_ID: "agent"})]
    spans = [
        *calls,
        Span("t", "r/0", 1, SpanKind.EVENT, "add", 0.0, 0.1, {**tool, semconv.ERROR_TYPE: "KeyError"}, 1),
        Span("agent", "r/0", 1, SpanKind.EVENT, "run", 0.0, 3.0, around, 2),
        Span(
            "out", "r/0", 1, SpanKind.EVENT, semconv.AGENT_OUTPUT, 3.0, 3.0, {semconv.STDOUT: "hello\nyou"}, 3
        ),
        Span("step", "r/0", 1, SpanKind.REWARD, "step", 3.0, 3.0, step, 4),
        Span("reward", "r/0", 1, SpanKind.REWARD, "reward", 3.0, 3.0, {semconv.REWARD: 1.0}, 5),
    ]
    rollout = _rollout()
    text = _printed(rollout_view.show(replace(rollout, spans=spans)))
    happened = [line for line in text[text.index("solver") :].splitlines() if line.strip()]
    assert happened == [
        "solver, 3.00 s",
        "  call 1 of solver: 11 prompt tokens, 1.50 s",
        "    system",
        "      Compute. [bold]Not markup[/bold]",
        "    user",
        "      What is 2 + 3?",
        "    assistant  (2 tokens, policy version 3, mean logprob -0.500, stop, tool_errors 1)",
        '      -> add({"a": 2, "b": 3})  c1',
        "    reward 0.25 (step)",
        "  add, 0.10 s",
        "    gen_ai.tool.call.id: c1",
        "    error.type: KeyError",
        "the agent printed, 0.00 s",
        "  stdout: hello",
        "  you",
        "reward 1 (reward)",
        "final reward 1.25",
    ]


def test_a_hosted_call_is_shown_with_what_is_known_of_it() -> None:
    attributes = {semconv.INPUT_MESSAGES: [USER], semconv.OUTPUT_MESSAGES: [ANSWER]}
    hosted = Span("h", "r/0", 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes, 0)
    text = _printed(rollout_view.show(replace(_rollout(), spans=[hosted])))
    assert "call 1: 1.00 s" in text and "  assistant\n    The answer is 5." in text
