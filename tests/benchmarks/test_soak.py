"""Nothing is lost, doubled or mistaken while everything is killed; and the soak would see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_ray.traces import semconv
from al_ray.types import Attempt, AttemptStatus, Rollout, RolloutStatus, Span, SpanKind
from benchmarks.agents.scripted import expected, prompt_ids
from benchmarks.faults.soak import Faults, Progress, reckon, requests
from tests.support.machines.processes import run


@pytest.mark.slow
def test_rollouts_survive_whatever_is_killed(tmp_path: Path) -> None:
    """``benchmarks.faults.soak``, in small: each kind of process is killed twice."""
    code, output = run(["benchmarks.faults.soak", "--rollouts", "100", "--kills", "10"], tmp_path)
    result = json.loads(output.splitlines()[-1])
    assert code == 0, output
    assert (result["rollouts"], sum(result["kills"].values())) == (100, 10)
    assert result["attempts"]["succeeded"] >= 98, result


WANTED = requests(4, seed=1)


def history() -> tuple[list[Rollout], list[Span], list[list[str]]]:
    """Of rollouts without a flaw, as a store has it and as agents were told."""
    rollouts, told = [], []
    for request in WANTED:
        attempt = Attempt(request.id, 1, f"key-of-{request.id}", AttemptStatus.SUCCEEDED)
        spans = _spans(attempt, request.task.data)
        rollouts.append(Rollout(request, RolloutStatus.SUCCEEDED, [attempt], spans))
        for span in spans[:-1]:
            texts = [message["content"] for message in span.attributes.get(semconv.OUTPUT_MESSAGES, ())]
            told.append([attempt.key, span.id, *(texts or [""])])
    return rollouts, [span for rollout in rollouts for span in rollout.spans], told


def _spans(attempt: Attempt, task: Any) -> list[Span]:
    want = expected(task)
    spans: list[Span] = []

    def add(kind: SpanKind, attributes: dict[str, Any]) -> str:
        sequence = len(spans)
        name = f"{attempt.rollout_id}/{sequence}"
        spans.append(
            Span(name, attempt.rollout_id, attempt.number, kind, kind, 0.0, 0.0, attributes, sequence)
        )
        return name

    said: list[str] = []
    for number, (question, answer) in enumerate(zip(want.questions, want.answers, strict=True)):
        said.append(question)
        ids = list(answer.encode())
        choice = {"ids": ids, "logprobs": [0.0] * len(ids), "versions": [[1, 0, len(ids)]]}
        call = add(
            SpanKind.CALL,
            {
                semconv.INPUT_MESSAGES: [{"role": "user", "content": text} for text in said],
                semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": answer}],
                semconv.FINISH_REASONS: ["stop"],
                semconv.PROMPT_IDS: prompt_ids(said),
                semconv.CHOICES: [choice],
            },
        )
        said.append(answer)
        if number == 0:
            add(SpanKind.REWARD, {semconv.REWARD: want.step_reward, semconv.REWARD_CALL: call})
    add(SpanKind.REWARD, {semconv.REWARD: want.reward})
    return spans


def reckoned(
    rollouts: Sequence[Rollout], spans: Sequence[Span], told: Sequence[Sequence[str]], delivered: Any = None
) -> Faults:
    progress = Progress(len(WANTED), {rollout.id: rollout for rollout in delivered or rollouts})
    return reckon(WANTED, progress, rollouts, spans, told)


def test_the_soak_finds_no_fault_where_there_is_none() -> None:
    assert reckoned(*history()).counts == {"lost": 0, "doubled": 0, "mistaken": 0}


def _other_reward(rollout: Rollout) -> Rollout:
    *before, last = rollout.spans
    return replace(rollout, spans=[*before, replace(last, attributes={semconv.REWARD: 0.5})])


def _still_running(rollout: Rollout) -> Rollout:
    return replace(rollout, status=RolloutStatus.RUNNING)


def _decided_twice(rollout: Rollout) -> Rollout:
    return replace(rollout, attempts=[*rollout.attempts, replace(rollout.attempts[0], number=2)])


def _rewarded_twice(rollout: Rollout) -> Rollout:
    last = rollout.spans[-1]
    return replace(rollout, spans=[*rollout.spans, replace(last, id="again", sequence=last.sequence + 1)])


def _without_its_first_call(rollout: Rollout) -> Rollout:
    return replace(rollout, spans=rollout.spans[1:])


def _failed_with_a_reward(rollout: Rollout) -> Rollout:
    failed = replace(rollout.attempts[0], status=AttemptStatus.FAILED)
    return replace(rollout, status=RolloutStatus.FAILED, attempts=[failed])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_other_reward, "mistaken"),
        (_still_running, "lost"),
        (_decided_twice, "doubled"),
        (_rewarded_twice, "mistaken"),
        (_without_its_first_call, "mistaken"),
        (_failed_with_a_reward, "mistaken"),
    ],
)
def test_the_soak_sees_a_rollout_that_is_not_as_it_must_be(
    change: Callable[[Rollout], Rollout], fault: str
) -> None:
    first, *others = history()[0]
    _, spans, told = history()
    counts = reckoned([change(first), *others], spans, told).counts
    assert counts[fault] >= 1


def test_the_soak_sees_what_is_missing_forgotten_doubled_or_anothers() -> None:
    rollouts, spans, told = history()
    assert reckoned(rollouts[1:], [], []).counts["lost"] == 1
    assert reckoned(rollouts, spans, told, delivered=rollouts[1:]).counts["lost"] == 1
    assert reckoned(rollouts, spans[1:], told).counts["lost"] == 1
    assert reckoned(rollouts, spans, [[told[0][0], told[0][1], "other"], *told[1:]]).counts["lost"] == 1
    assert reckoned(rollouts, [*spans, replace(spans[0], id="again")], told).counts["doubled"] == 1
    strange = replace(spans[0], attributes=spans[0].attributes | {semconv.INPUT_MESSAGES: [{"content": "?"}]})
    assert reckoned(rollouts, [strange, *spans[1:]], told).counts["mistaken"] == 1
