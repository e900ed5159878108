"""What is logged is what the table of metrics lists."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.data.mixture import SOURCE
from al_ray.evaluation.estimates import estimate
from al_ray.evaluation.evaluate import Evaluation
from al_ray.evaluation.scores import Result
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import stage_spans
from al_ray.reports.names import EVALUATION, STEP
from al_ray.rollouts.agent_error import AgentError
from al_ray.rollouts.outcome import Outcome
from al_ray.run.stages.batch import Batch
from al_ray.run.step_report import evaluation_values, step_values
from al_ray.types import Signals, Task, Trajectory, Transition, UpdateReport
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing, unlisted

SPAN = stage_spans(Recipe.model_validate(toy.recipe(Path("model"), Path("out"))))[1]


def test_a_step_is_logged_with_what_batch_and_learners_told_its_times_and_its_speed() -> None:
    batch = Batch((), CrossEntropy(), metrics={"rollout/count": 4, "rollout/sampled_tokens": 20})
    report = UpdateReport(3, {"optim/loss": 0.5, "learner/computed_tokens": 100.0})
    times = {"rollouts": 2.0, "update": 4.0, "step": 6.0}
    values = step_values(SPAN, batch, report, times)
    assert unlisted(values) == [] and missing(STEP, values) == set()
    assert {**batch.metrics, **report.metrics, "time/step": 6.0}.items() <= values.items()
    assert values["perf/generated_tokens_per_s"] == 10 and values["perf/trained_tokens_per_s"] == 25
    again = replace(batch, metrics={**batch.metrics, "rollout/recorded": 0.5})
    assert "perf/generated_tokens_per_s" not in step_values(SPAN, again, report, times), (
        "in the time of others"
    )
    ahead = replace(SPAN, stage=SPAN.stage.model_copy(update={"staleness": 1}))
    assert step_values(ahead, batch, report, times)["perf/generated_tokens_per_s"] == pytest.approx(20 / 6)


def test_a_step_that_sampled_and_computed_nothing_has_no_speed() -> None:
    """As a supervised one without rows."""
    report = UpdateReport(3, {"learner/computed_tokens": 0.0})
    values = step_values(SPAN, Batch((), CrossEntropy()), report, {"rollouts": 0.0, "update": 0.0})
    assert missing(STEP, values) == {"perf/generated_tokens_per_s", "perf/trained_tokens_per_s"}


def test_an_evaluation_is_logged_with_every_score_and_its_failures() -> None:
    scores = {"reward": estimate([0.0, 1.0]), "em": estimate([1.0, 1.0, 0.0, 0.0])}
    calls = [Transition("c", "", (), (), (), 0, signals=Signals(truncated=cut)) for cut in (1, 0, 0, 0)]
    episode, task = Trajectory("r", "g", "t", calls, 1.0, rewards={"reward": 1.0}), Task("t", {})
    results = [
        Result(task, "g", episode, Outcome("r")),
        Result(task, "g", None, Outcome("s", AgentError("timed_out"), called=False)),
    ]
    found = Evaluation("reward", 1, results, scores, {}, {"ValueError": 2, "timed_out": 1})
    values = evaluation_values(found, 9.0, found.by_task)
    assert unlisted(values) == [] and missing(EVALUATION, values) == set()
    assert (values["eval/accuracy"], values["eval/em"], values["eval/failed"]) == (0.5, 0.5, 3)
    assert (values["eval/tasks"], values["time/evaluation"]) == (2, 9.0)
    assert (values["eval/without_calls"], values["eval/truncated"]) == (1, 0.25)


def test_a_metric_that_is_called_as_what_an_evaluation_tells_of_itself_is_told_beside_it() -> None:
    own = [metric.key.removeprefix("eval/") for metric in EVALUATION if "NAME" not in metric.key]
    scores = {"reward": estimate([0.5]), **{name: estimate([7.0]) for name in own}}
    without = evaluation_values(Evaluation("reward", 1, [], {"reward": estimate([0.5])}, {}, {}), 9.0)
    values = evaluation_values(Evaluation("reward", 1, [], scores, {}, {}), 9.0)
    assert unlisted(values) == []
    assert pytest.approx(values, nan_ok=True) == {**without, **{f"eval/rewards/{name}": 7.0 for name in own}}


def test_what_was_gained_is_of_the_tasks_that_have_a_score_in_both_evaluations() -> None:
    """Each counts once, however many samples it has."""

    def evaluated(rewards: dict[str, list[float | None]]) -> Evaluation:
        results = [
            Result(
                Task(task, {}),
                task,
                None
                if reward is None
                else Trajectory("r", "g", task, (), reward, rewards={"reward": reward}),
                Outcome("r"),
            )
            for task, given in rewards.items()
            for reward in given
        ]
        return Evaluation("reward", 2, results, {}, {}, {})

    before = evaluated({"a": [0.0, 1.0], "b": [1.0, 1.0], "c": [None], "d": [0.0]})
    after = evaluated({"a": [1.0, 1.0], "b": [0.0, 1.0], "c": [1.0], "e": [1.0], "f": [0.5]})
    gain = after.gain(before.by_task)
    assert gain is not None and (gain.value, gain.tasks) == (0.0, 2)
    assert evaluation_values(after, 9.0, before.by_task)["eval/gain"] == 0.0
    assert after.gain({"z": 1.0}) is None
    assert "eval/gain" not in evaluation_values(after, 9.0)


def test_an_evaluation_of_several_sources_tells_of_each() -> None:
    of_each = {"a": {"reward": estimate([0.0, 1.0])}, "b": {}}
    found = Evaluation("reward", 1, [], {"reward": estimate([0.5])}, {SOURCE: of_each}, {})
    values = evaluation_values(found, 9.0)
    assert unlisted(values) == []
    assert {key: value for key, value in values.items() if "source" in key} == {"eval/source/a": 0.5}


def test_an_evaluation_in_which_all_failed_is_logged_as_not_a_number() -> None:
    values = evaluation_values(Evaluation("reward", 1, (), {}, {}, {"ValueError": 4}), 9.0)
    assert math.isnan(values["eval/accuracy"]) and math.isnan(values["eval/stderr"])
    assert (values["eval/tasks"], values["eval/failed"]) == (0, 4)
