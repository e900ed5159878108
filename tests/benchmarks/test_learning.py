"""The learning benchmark: its tables say what was measured, and no job is taken for another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from al_ray.evaluation.estimates import estimate, over_seeds_and_tasks, paired
from al_ray.recipe import TransitionsSection
from al_ray.traces import semconv
from al_ray.traces.reward_span import reward_attributes
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)
from benchmarks.learning import arms, report
from benchmarks.learning.report import CONTROL, IMITATION, REINFORCEMENT, UNTRAINED, Results

SETS = ("stages.0.steps=3",)


def job(scores: Mapping[str, float], *, steps: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    before = {"step": 0, "scores": dict.fromkeys(scores, 0.0), "failed": 0, "unscored": 0}
    after = {"step": 9, "scores": scores, "failed": 2, "unscored": 1}
    return {"evaluations": [before, after], "steps": steps, "gflops": 1.0, "load": 0.0, "versions": {}}


def tasks(*values: float) -> dict[str, float]:
    return {f"t{number}": value for number, value in enumerate(values)}


def test_a_gain_of_one_seed_has_the_interval_of_pairs_and_not_that_of_a_share() -> None:
    """Or one task more of two hundred would prove that it learns."""
    before, after = [0.0] * 200, [1.0, *[0.0] * 199]
    found = Results("r", {(IMITATION, 1): job(tasks(*before)), (REINFORCEMENT, 1): job(tasks(*after))})
    gained = found.gain(REINFORCEMENT, IMITATION)
    assert gained is not None and gained.over_all == paired(before, after)
    assert gained.over_all.low < 0 < gained.over_all.high


def test_seeds_that_are_all_alike_count_as_one() -> None:
    """As those of an untrained model, whose answers are greedy."""
    found = Results("r", {(IMITATION, seed): job(tasks(*[0.0] * 200)) for seed in (1, 2, 3)})
    mean = found.mean(UNTRAINED)
    assert mean is not None and mean.over_all == estimate([0.0] * 200) and mean.over_all.high > 0.01


def test_the_means_by_seed_are_over_the_tasks_that_the_mean_is_over() -> None:
    jobs = {
        (IMITATION, 1): job(tasks(0.0, 0.0, 0.0)),
        (IMITATION, 2): job(tasks(0.0, 0.0)),
        (REINFORCEMENT, 1): job(tasks(1.0, 0.0, 1.0)),
        (REINFORCEMENT, 2): job(tasks(0.0, 1.0, 1.0)),
    }
    found = Results("r", jobs).gain(REINFORCEMENT, IMITATION)
    assert found is not None and found.by_seed == [0.5, 0.5]
    assert found.over_all == over_seeds_and_tasks([[1.0, 0.0], [0.0, 1.0]])
    assert Results("r", {**jobs, (IMITATION, 2): job({"u": 1.0})}).gain(REINFORCEMENT, IMITATION) is None


def test_a_step_without_a_reward_takes_its_time_all_the_same(tmp_path: Path) -> None:
    lines = [
        {"step": step, "reward/mean": reward, "time/step": 60.0 * minutes}
        for step, reward, minutes in ((1, 0.1, 10), (2, None, 10), (3, 0.3, 1))
    ]
    found = Results("r", {(REINFORCEMENT, 1): job(tasks(1.0), steps=lines)})
    assert found.curve(REINFORCEMENT, 1) == {1: (0.1, 10.0), 3: (0.3, 21.0)}
    assert found.minutes(REINFORCEMENT, 1) == 21.0


def test_a_report_is_of_any_number_of_arms(tmp_path: Path) -> None:
    """And of seeds that have nothing in common, or a reward at no step that the others have."""
    names = [IMITATION, REINFORCEMENT, CONTROL, *(f"arm{number}" for number in range(6))]
    for number, name in enumerate(names):
        for seed in (1, 2):
            line = {"step": seed, "reward/mean": 0.5, "time/step": 1.0}
            found = job(tasks(1.0, number / 9) if seed == 1 else {"u": 0.0}, steps=[line])
            arms._write(
                tmp_path / "results" / "r" / f"{name}-{seed}.json", found | {"arm": name, "seed": seed}
            )
    report.write(tmp_path)
    told = (tmp_path / report.FILE).read_text()
    assert all(f"| {name} |" in told for name in (UNTRAINED, *names)) and (tmp_path / "r.png").exists()
    with pytest.raises(SystemExit, match="has no results"):
        report.write(tmp_path / "another")


def test_where_all_tasks_are_worth_the_same_no_interval_is_told(tmp_path: Path) -> None:
    found = job(tasks(0.5, 0.5)) | {"arm": IMITATION, "seed": 1}
    arms._write(tmp_path / "results" / "r" / f"{IMITATION}-1.json", found)
    report.write(tmp_path)
    told = (tmp_path / report.FILE).read_text()
    assert "| 0.500 (-) |" in told and "| +0.500 (-) |" in told and "nan" not in told


def ended(name: str, status: AttemptStatus, *spans: Span) -> Rollout:
    request = RolloutRequest(name, "b", "g", Task(name[0], {}))
    well = status is AttemptStatus.SUCCEEDED
    return Rollout(
        request,
        RolloutStatus.SUCCEEDED if well else RolloutStatus.FAILED,
        [Attempt(name, 1, "k", status)],
        spans,
    )


def test_a_rollout_that_fails_by_its_models_doing_is_worth_what_the_recipe_says() -> None:
    """Or an arm would look the better the more it breaks its agent; what the machine did is left out."""
    attributes = {semconv.REPLAYED: "recorded"}
    call = Span("c", "r", 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes)
    given = Span("d", "r", 1, SpanKind.REWARD, "reward", 0.0, 1.0, reward_attributes({"reward": 1.0}))
    rollouts = [
        ended("a1", AttemptStatus.SUCCEEDED, given),
        ended("a2", AttemptStatus.FAILED, call),
        ended("b1", AttemptStatus.FAILED, call),
        ended("c1", AttemptStatus.UNRESPONSIVE, call),
    ]
    whole = {rollout.id: rollout for rollout in rollouts}.__getitem__
    found = arms.scored(rollouts, whole, TransitionsSection())
    assert found == {"scores": {"a": 0.5, "b": 0.0}, "failed": 2, "unscored": 1}
    worse = arms.scored(rollouts, whole, TransitionsSection(failed_reward=-1.0))
    assert worse["scores"] == {"a": 0.0, "b": -1.0}


def calls_of(job: arms.Job, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is run for the job, up to its end, which is not made."""
    asked: list[list[str]] = []

    def call(job: arms.Job, verb: str, arguments: Sequence[str]) -> None:
        asked.append([verb, *arguments])
        raise SystemExit("killed")

    monkeypatch.setattr(arms, "_call", call)
    with pytest.raises(SystemExit, match="killed"):
        arms.do(job)
    return asked


def test_a_job_goes_on_only_with_the_settings_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is done only with those. One that was killed before its run had a recipe begins anew."""
    recipe = Path("recipes/calc_x_cpu.yaml").absolute()
    job = arms.Job(tmp_path, recipe, IMITATION, 1, SETS)
    job.run.mkdir(parents=True)
    for _ in range(2):
        ((verb, file, *rest),) = calls_of(job, monkeypatch)
        assert (verb, file) == ("train", str(recipe)) and SETS[0] in rest and "--resume" not in rest
    for name in ("recipe.yaml", ".rayignore"):
        (job.run / name).touch()
    ((_, file, *rest),) = calls_of(job, monkeypatch)
    assert file == str(job.run / "recipe.yaml") and "--resume" in rest
    other = arms.Job(tmp_path, recipe, IMITATION, 1, ("stages.0.steps=99",))
    with pytest.raises(SystemExit, match=r"steps=3.*steps=99.*another --folder"):
        arms.do(other)
    arms._write(job.result, {"set": [*SETS]})
    arms.do(job)
    job.begun.unlink()
    with pytest.raises(SystemExit, match=r"steps=3.*steps=99.*another --folder"):
        arms.do(other)


def test_a_result_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "results" / "r").mkdir(parents=True)
    with pytest.raises(TypeError):
        arms._write(tmp_path / "results" / "r" / "x.json", {"a": object()})
    assert report.read(tmp_path) == [] and not [*tmp_path.rglob("*.json")]
    arms._write(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("told", ["untrained: a=1", ": a=1", "-b c: a=1", "control: a=1", "x:", "x/y: a=1"])
def test_an_arm_has_a_name_of_its_own(told: str) -> None:
    with pytest.raises(SystemExit, match="a name of its own"):
        arms.arms([told])
    assert arms.arms(["air: a=1; b=2"]) == {REINFORCEMENT: (), "air": ("a=1", "b=2")}


def test_recipes_of_imitation_and_what_follows_are_compared_and_no_others() -> None:
    assert arms._of_two_stages("calc_x_cpu", ()).name == "calc_x_cpu.yaml"
    with pytest.raises(SystemExit, match="its stages are grpo"):
        arms._of_two_stages("own_agent", ())
