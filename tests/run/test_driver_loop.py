"""The order of a run's events, without the parts: stages, steps, checkpoints, evaluations."""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest

from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.errors import CheckpointError, DiskError, LearnerLostError
from al_ray.evaluation.evaluate import summary
from al_ray.evaluation.scores import Result
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import StageSpan, span_of_step, stage_spans
from al_ray.reports.console import Console
from al_ray.reports.health import Health
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.rollouts.agent_error import AgentError
from al_ray.rollouts.outcome import Outcome
from al_ray.run.driver import Run
from al_ray.run.folder import RunFolder
from al_ray.run.policy import Policy
from al_ray.run.stages.batch import Batch, Lesson
from al_ray.run.stages.stage import Stage
from al_ray.types import Task, Trajectory, UpdateReport

RECIPE = Recipe.model_validate(
    {
        "name": "loop",
        "model": {"path": "nobody/none"},
        "data": {"load": "some:tasks"},
        "agent": {"run": "some:agent"},
        "checkpoint": {"every": 1},
        "stages": [
            {
                "algorithm": "supervised",
                "steps": 2,
                "demonstrate": "some:teacher",
                "optimizer": {"learning_rate": 2e-3},
            },
            {"algorithm": "grpo", "steps": 2, "optimizer": {"learning_rate": 1e-3}},
        ],
    }
)


def events_of_a_run(restored: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ``Run.train`` does, in order, when ``restored`` steps were done before."""
    events: list[str] = []

    async def restore(run: Run) -> int:
        return restored

    async def enter(run: Run, stage: Any) -> None:
        events.append(f"enter {stage.settings.algorithm} at {stage.spec.optimizer.learning_rate}")

    async def step(run: Run, span: StageSpan, stage: Stage, number: int) -> None:
        events.append(f"step {number}")

    async def save(run: Run, done: int) -> None:
        events.append(f"save {done}")

    async def evaluate(run: Run, done: int) -> None:
        events.append(f"evaluate {done}")

    methods: dict[str, Any] = {
        "_restore": restore,
        "_recall": lambda run: None,
        "_enter": enter,
        "_step": step,
        "_save": save,
        "_evaluate": evaluate,
        "_evaluate_if_missing": evaluate,
    }
    for name, method in methods.items():
        monkeypatch.setattr(Run, name, method)
    nothing: Any = None
    health = Health(RECIPE.health, Path("run"))
    asyncio.run(Run(RECIPE, nothing, nothing, nothing, nothing, nothing, (), (), health).train())
    return events


def test_every_stage_starts_with_an_optimizer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or reinforcement goes on with the spent schedule of the imitation before it."""
    entered = [event for event in events_of_a_run(0, monkeypatch) if event.startswith("enter")]
    assert entered == ["enter supervised at 0.002", "enter grpo at 0.001"]


def test_a_run_does_each_thing_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ["evaluate 0", "enter supervised at 0.002", "step 0", "save 1", "step 1", "save 2", "evaluate 2"]
    second = ["enter grpo at 0.001", "step 2", "save 3", "step 3", "save 4", "evaluate 4"]
    assert events_of_a_run(0, monkeypatch) == first + second


@pytest.mark.parametrize("restored", [1, 3])
def test_a_run_resumed_within_a_stage_keeps_its_optimizer(
    restored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = events_of_a_run(restored, monkeypatch)
    assert events[1] == f"step {restored}"


@pytest.mark.parametrize(("restored", "told_after"), [(0, 6), (8, 9)])
def test_what_a_stage_will_take_is_told_once_and_held_against_the_clock_at_its_end(
    restored: int, told_after: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When enough steps are known, those of earlier lives among them."""
    sink, told = JsonlSink(tmp_path, None), io.StringIO()
    for number in range(restored):
        sink.log(number + 1, {"time/step": 1.0})

    async def step(run: Run, span: StageSpan, stage: Stage, number: int) -> None:
        sink.log(number + 1, {"time/step": 1.0})

    async def done(*_: Any) -> int:
        return restored

    monkeypatch.setattr(Run, "_step", step)
    for name in ("_restore", "_enter", "_save", "_evaluate", "_evaluate_if_missing"):
        monkeypatch.setattr(Run, name, done)
    monkeypatch.setattr(Run, "_recall", lambda run: None)
    grpo = RECIPE.stages[1].model_copy(update={"steps": 12})
    recipe = RECIPE.model_copy(update={"stages": [grpo]})
    health, nothing = Health(recipe.health, Path("run")), cast(Any, None)
    run = Run(recipe, RunFolder(tmp_path), nothing, nothing, sink, Console(told), (), (), health, gpus=8)
    asyncio.run(run.train())
    sink.close(ok=True)
    left = 12 - told_after
    foreseen, compared = told.getvalue().splitlines()
    assert foreseen.startswith(f"forecast    grpo: {left} steps more at 1 (1 to 1) s, in all {left} ({left} ")
    assert f"s were foreseen after step {told_after}, " in compared and "GPU-hours" in compared


def test_an_evaluation_without_a_score_is_none_when_a_run_is_resumed(tmp_path: Path) -> None:
    """It is evaluated anew, rather than shown as a number."""
    lines = [{"step": 0, "eval/accuracy": 0.5}, {"step": 2, "eval/accuracy": None}, {"step": 2}]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    nothing: Any = None
    run = Run(RECIPE, RunFolder(tmp_path), nothing, nothing, nothing, nothing, (), (), nothing)
    assert list(run._evaluations.made()) == [0]


def test_a_run_resumed_between_stages_enters_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    assert events_of_a_run(2, monkeypatch)[:3] == ["evaluate 2", "enter grpo at 0.001", "step 2"]


def test_a_run_whose_learners_are_lost_goes_on_from_the_last_checkpoint_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lost in step 1, which is done again; a step in which they are lost each time ends the run."""
    lost, always = iter([True]), iter(lambda: True, False)
    for losses, expected in ((lost, ["step 0", "step 1", "restart", "step 0", "step 1"]), (always, None)):
        events: list[str] = []

        async def step(run: Run, span: StageSpan, stage: Stage, number: int) -> None:
            events.append(f"step {number}")  # noqa: B023
            if number == 1 and next(losses, False):  # noqa: B023
                raise LearnerLostError("a learner died")

        async def nothing(*_: Any) -> int:
            return 0

        async def restart() -> None:
            events.append("restart")  # noqa: B023

        for name in ("_restore", "_enter", "_save", "_evaluate", "_evaluate_if_missing"):
            monkeypatch.setattr(Run, name, nothing)
        monkeypatch.setattr(Run, "_step", step)
        policy: Any = SimpleNamespace(restart_learners=restart)
        metrics: Any = SimpleNamespace(rewind=lambda step: None)
        console: Any = SimpleNamespace(warning=lambda text: None)
        health = Health(RECIPE.health, Path("run"))
        none: Any = None
        run = Run(RECIPE, none, none, policy, metrics, console, (), (), health)
        if expected is not None:
            asyncio.run(run.train())
            assert events[: len(expected)] == expected
        else:
            with pytest.raises(LearnerLostError):
                asyncio.run(run.train())
            assert events.count("restart") == 5


async def nothing(*_: Any) -> None: ...


def train(
    monkeypatch: pytest.MonkeyPatch,
    restore: Callable[..., Any],
    step: Callable[..., Any],
    restart: Callable[..., Any] = nothing,
    rewind: Callable[[int], None] = lambda step: None,
) -> None:
    """A run that does nothing but these."""
    for name in ("_enter", "_save", "_evaluate", "_evaluate_if_missing"):
        monkeypatch.setattr(Run, name, nothing)
    monkeypatch.setattr(Run, "_restore", restore)
    monkeypatch.setattr(Run, "_recall", lambda run: None)
    monkeypatch.setattr(Run, "_step", step)
    policy: Any = SimpleNamespace(restart_learners=restart)
    metrics: Any = SimpleNamespace(rewind=rewind)
    console: Any = SimpleNamespace(warning=lambda text: None)
    none: Any = None
    health = Health(RECIPE.health, Path("run"))
    asyncio.run(Run(RECIPE, none, none, policy, metrics, console, (), (), health).train())


def test_a_run_that_gets_on_between_losses_of_learners_goes_on_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on nodes that are taken away now and then: here the learners are lost five times at each step."""
    losses = dict.fromkeys(range(4), 5)
    saved = 0

    async def restore(run: Run) -> int:
        return saved

    async def step(run: Run, span: StageSpan, stage: Stage, number: int) -> None:
        nonlocal saved
        if losses[number]:
            losses[number] -= 1
            raise LearnerLostError("a learner died")
        run._done = saved = number + 1

    train(monkeypatch, restore, step)
    assert saved == 4 and set(losses.values()) == {0}


def test_learners_that_are_lost_as_they_load_a_checkpoint_or_are_started_anew_are_followed_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When a run is resumed, and when it goes back."""
    events: list[str] = []
    lost_at = ["restore", "restore", "restart", "step 1"]

    def happens(event: str) -> None:
        events.append(event)
        if lost_at and lost_at[0] == event:
            lost_at.pop(0)
            raise LearnerLostError("a learner died")

    async def restore(run: Run) -> int:
        happens("restore")
        return 1

    async def restart() -> None:
        happens("restart")

    async def step(run: Run, span: StageSpan, stage: Stage, number: int) -> None:
        happens(f"step {number}")

    train(monkeypatch, restore, step, restart, lambda step: events.append(f"rewind to {step}"))
    assert lost_at == []
    lost = ["restore", "restart", "restore", "restart", "restart", "restore", "rewind to 1", "step 1"]
    assert events == [*lost, "restart", "restore", "rewind to 1", "step 1", "step 2", "step 3"]


@pytest.mark.parametrize(("kept", "taken_back"), [([], (1, 1)), ([1, 2], (3, 3))])
def test_what_later_steps_and_evaluations_asked_for_is_taken_back_before_weights_are_older(
    kept: list[int], taken_back: tuple[int, int], tmp_path: Path
) -> None:
    """Or the weights of the checkpoint would answer an evaluation of later ones."""
    events: list[Any] = []

    async def withdraw(step: int, evaluation: int) -> None:
        events.append((step, evaluation))

    async def load(folder: int) -> None:
        events.append(f"load {folder}")

    folder: Any = SimpleNamespace(path=tmp_path, checkpoints=lambda: kept, checkpoint=lambda step: step)
    agents: Any = SimpleNamespace(withdraw=withdraw)
    policy: Any = SimpleNamespace(load=load)
    console: Any = SimpleNamespace(note=lambda text: None)
    nothing: Any = None
    run = Run(RECIPE, folder, agents, policy, nothing, console, (), (), nothing)
    assert asyncio.run(run._restore()) == max(kept, default=0)
    assert events == [taken_back, *[f"load {step}" for step in kept[-1:]]]


def test_a_run_goes_on_after_an_evaluation_of_a_single_task_which_has_no_interval(tmp_path: Path) -> None:
    """JSON has no number for what cannot be told."""
    found = {"eval/accuracy": 0.3, "eval/stderr": math.nan, "eval/tasks": 1, "time/evaluation": 1.0}
    gain = {"eval/gain": 0.1, "eval/gain_low": math.nan, "eval/gain_high": math.nan}
    sink = JsonlSink(tmp_path, None)
    sink.log(2, {**found, **gain})
    sink.close(ok=True)
    told = io.StringIO()
    folder: Any = SimpleNamespace(path=tmp_path)
    nothing: Any = None
    run = Run(RECIPE, folder, nothing, nothing, nothing, Console(told), (), (), nothing)
    [(step, values)] = run._evaluations.made().items()
    run._evaluations.show(step, values)
    assert "0.3000 ± nan, 1 tasks, 1.0 s; +0.1000 (-) since the one before" in told.getvalue()


def with_checkpoints(told: io.StringIO, seconds: float = 0.0) -> tuple[Run, list[int]]:
    """A run that has nothing but those, each of which takes so long, and the steps of which one is written,
    by a thread, as learners write it: whoever is cancelled leaves it at work."""
    saved: list[int] = []

    def write(step: int) -> None:
        time.sleep(seconds)
        saved.append(step)

    async def save(step: int) -> None:
        await asyncio.to_thread(write, step)

    policy: Any = SimpleNamespace(save=save)
    folder: Any = SimpleNamespace(
        checkpoints=lambda: saved, checkpoint=lambda step: step, prune_checkpoints=lambda keep: None
    )
    metrics: Any = SimpleNamespace(log=lambda step, values: None)
    nothing: Any = None
    return Run(RECIPE, folder, nothing, policy, metrics, Console(told), (), (), nothing), saved


async def test_when_a_node_is_to_go_what_whole_steps_have_learnt_is_written_once() -> None:
    """Neither nothing, nor what is there, nor a part of an update."""
    run, saved = with_checkpoints(io.StringIO())
    await run._save_what_is_done()
    assert saved == []
    run._done = 1
    for _ in range(2):
        await run._save_what_is_done()
    assert saved == [1]
    async with run._steady:  # an update
        saving = asyncio.create_task(run._save_what_is_done())
        await asyncio.sleep(0.01)
        run._done = 2
    await saving
    assert saved == [1, 2]


async def test_a_checkpoint_for_a_node_that_is_to_go_is_tried_once_a_step_and_its_failure_told_once() -> None:
    """Not every second as long as the node is there, while updates wait."""
    tried: list[int] = []

    async def save(step: int) -> None:
        tried.append(step)
        raise CheckpointError("no room")

    policy: Any = SimpleNamespace(save=save)
    folder: Any = SimpleNamespace(checkpoints=list, checkpoint=lambda step: step)
    nothing: Any = None
    told = io.StringIO()
    run = Run(RECIPE, folder, nothing, policy, nothing, Console(told), (), (), nothing)
    for run._done in (5, 5, 6, 6):
        await run._save_what_is_done()
    assert tried == [5, 6]
    assert told.getvalue().count("no checkpoint of step") == 2
    with pytest.raises(CheckpointError):
        await run._save(6)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (120.0, "interrupted after step 3; --resume"),
        (0.05, "no checkpoint of the last steps: not within 0.05 s"),
    ],
)
async def test_who_interrupts_a_run_that_writes_a_checkpoint_waits_for_that_one(
    limit: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as may be waited: it is not written twice, and what is told of it is so."""
    monkeypatch.setattr("al_ray.run.driver._LEAVE_SECONDS", limit)
    words = io.StringIO()
    run, saved = with_checkpoints(words, 0.5)
    run._done = 3
    saving = asyncio.create_task(run._to_its_end(run._save(3)))
    await asyncio.sleep(0.1)
    saving.cancel()
    await run._leave()
    assert told in words.getvalue()
    assert saved == [3] * (limit > 1)
    await asyncio.sleep(1)
    assert saved == [3]


async def test_who_interrupts_a_run_as_its_critic_learns_keeps_that_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The critic's learning and the update are one thing, which is ended."""
    asked: list[Any] = []

    class Learners:
        def fit_critic(self, features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
            time.sleep(0.3)
            asked.append("fit the critic")
            return {"critic/loss": 0.5}

        def update(self, *batch: Any) -> UpdateReport:
            asked.append("update")
            return UpdateReport(1, {"optim/loss": 2.0})

        def save(self, folder: str) -> None:
            asked.append(f"save {folder}")

    def tell(run: Run, span: Any, step: int, batch: Any, report: UpdateReport, times: Any) -> None:
        asked.append(report.metrics)

    monkeypatch.setattr(Run, "_tell", tell)
    run, _ = with_checkpoints(io.StringIO())
    parts: Any = SimpleNamespace()
    learners: Any = Learners()
    run.policy = Policy(parts, parts, learners)
    batch = Batch((), CrossEntropy(), lesson=Lesson(np.zeros((1, 2)), np.ones(1)))
    learning = asyncio.create_task(run._to_its_end(run._learn(stage_spans(RECIPE)[1], 3, batch, {})))
    await asyncio.sleep(0.1)
    learning.cancel()
    await run._leave()
    assert asked == ["fit the critic", "update", {"optim/loss": 2.0, "critic/loss": 0.5}, "save 3"]


@pytest.mark.parametrize("failing", ["update", "tell"])
async def test_what_an_update_that_failed_has_left_is_no_checkpoint_of_the_step_before(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited to write one for a node that is to go, or interrupts the run just then: a resumed run
    would take the step twice."""

    async def update(batch: Batch) -> UpdateReport:
        await asyncio.sleep(0.05)
        if failing == "update":
            raise RuntimeError("out of memory")
        return UpdateReport(4, {})

    def tell(*_: Any) -> None:
        raise DiskError("no room for metrics")

    monkeypatch.setattr(Run, "_tell", tell)
    told = io.StringIO()
    run, saved = with_checkpoints(told)
    cast(Any, run.policy).update = update
    run._done = 3
    learning = asyncio.create_task(run._learn(stage_spans(RECIPE)[1], 4, Batch((), CrossEntropy()), {}))
    await asyncio.sleep(0.01)
    saving = asyncio.create_task(run._save_what_is_done())
    with pytest.raises(RuntimeError if failing == "update" else DiskError):
        await learning
    await saving
    await run._leave()
    assert saved == []
    assert "no checkpoint of step 3: the update of step 4 has failed" in told.getvalue()
    assert "no checkpoint of the last steps" in told.getvalue()


async def test_who_interrupts_a_run_before_it_has_loaded_its_checkpoint_is_told_of_that_ones_step() -> None:
    folder: Any = SimpleNamespace(checkpoints=lambda: [10, 12])
    told = io.StringIO()
    nothing: Any = None
    run = Run(RECIPE, folder, nothing, nothing, nothing, Console(told), (), (), nothing)
    await run._leave()
    assert "interrupted after step 12; --resume goes on from there" in told.getvalue()


def test_a_run_that_cannot_hear_of_nodes_that_are_to_go_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its next step: nobody would be told otherwise that no checkpoint is written for them."""

    async def heed(*_: Any) -> None:
        raise OSError("cannot be heard")

    async def nothing(*_: Any) -> int:
        await asyncio.sleep(0)
        return 0

    monkeypatch.setattr("al_ray.run.driver.heed", heed)
    for name in ("_restore", "_enter", "_evaluate_if_missing"):
        monkeypatch.setattr(Run, name, nothing)
    none: Any = None
    run = Run(RECIPE, none, none, none, none, none, (), (), Health(RECIPE.health, Path("run")))
    with pytest.raises(OSError, match="cannot be heard"):
        asyncio.run(run.train())


async def test_an_evaluation_that_this_process_has_made_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run that goes on has made before is, once."""
    asked: list[int] = []

    async def evaluated(recipe: Recipe, agents: Any, tasks: Any, step: int, progress: Any) -> Any:
        asked.append(step)
        task = Task("t", {})
        episode = Trajectory("r", "g", task.id, (), step / 10, rewards={"reward": step / 10})
        return summary(recipe, [Result(task, "g", episode, Outcome("r"))])

    async def serve() -> None:
        pass

    monkeypatch.setattr("al_ray.run.evaluations.evaluate", evaluated)
    told = {"step": 2, "eval/accuracy": 0.2, "eval/stderr": 0.0, "eval/tasks": 1, "time/evaluation": 1.0}
    sink = JsonlSink(tmp_path, None)
    sink.log(2, told)
    policy: Any = SimpleNamespace(serve=serve)
    nothing: Any = None
    console, health = Console(io.StringIO()), Health(RECIPE.health, tmp_path)
    run = Run(RECIPE, RunFolder(tmp_path), nothing, policy, cast(Any, sink), console, (), (), health)
    await run._evaluate(4)
    await run._evaluate(6)
    sink.close(ok=True)
    assert asked == [4, 2, 6]
    assert [run._evaluations.made()[step]["eval/gain"] for step in (4, 6)] == pytest.approx([0.2, 0.2])


TRAINED_WELL = {"step": 2, "health/failed": 0.5, "health/without_calls": 0.0}
EVALUATED_WELL = {"step": 0, "eval/accuracy": 0.5, "eval/without_calls": 0}
ALL_FAILED = {"step": 2, "health/failed": 1.0, "health/without_calls": 0.0}


@pytest.mark.parametrize(
    ("line", "step", "failed_reward", "ends"),
    [  # of a batch by the model's doing, of one by others', of an evaluation by others'
        (ALL_FAILED, 3, None, (True, True, True)),
        (TRAINED_WELL, 3, None, (False, False, False)),
        (EVALUATED_WELL, 3, None, (False, True, False)),
        (ALL_FAILED, 3, -1.0, (False, True, True)),
        (ALL_FAILED, 0, None, (False, True, True)),
        (ALL_FAILED, 2, None, (True, True, True)),
    ],
)
def test_a_run_whose_rollouts_all_failed_ends_unless_that_teaches_or_such_ones_were_better_before(
    line: dict[str, Any], step: int, failed_reward: float | None, ends: tuple[bool, ...], tmp_path: Path
) -> None:
    """What a model fails at before it was shown how, after 0 of the recipe's two supervised steps, says
    nothing; and an evaluation that went well says of a batch that its agents can do it, as far as it is the
    model's to do."""
    (tmp_path / "metrics.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    transitions = RECIPE.transitions.model_copy(update={"failed_reward": failed_reward})
    recipe = RECIPE.model_copy(update={"transitions": transitions})
    nothing: Any = None
    run = Run(recipe, RunFolder(tmp_path), nothing, nothing, nothing, nothing, (), (), nothing)
    coming = span_of_step(recipe, step)
    found = []
    for by_model, of_evaluation in ((True, False), (False, False), (False, True)):
        failed = [Outcome("r", AgentError("ValueError: no answer"), by_model=by_model)]
        error = run._useless("evaluation", failed, coming, of_evaluation=of_evaluation)
        found.append(error is not None)
    assert tuple(found) == ends
