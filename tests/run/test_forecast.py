"""How long a run takes is told from its own steps, or from an earlier run's, and held against the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from al_ray.recipe import Recipe, loading
from al_ray.recipe.schedule import stage_spans
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.run.folder import RunFolder
from al_ray.run.forecast import SEEN, forecast, mean_of_further, of_earlier_run
from tests.support.runs import toy

STEPS = 20


def recipe_in(folder: Path, **changes: Any) -> Recipe:
    content = toy.recipe(Path("model"), folder / "out")
    grpo = {**content["stages"][1], "steps": STEPS}
    changed = {"stages": [grpo], "evaluation": {"every": 5}, "checkpoint": {"every": 10}}
    return Recipe.model_validate(content | changed | changes)


def steps(seconds: Sequence[float]) -> list[dict[str, Any]]:
    return [{"step": step, "time/step": taken} for step, taken in enumerate(seconds, 1)]


def test_the_mean_of_further_steps_is_where_it_was_foreseen_as_often_as_is_said() -> None:
    """In 95 of 100 runs whose steps take normally distributed times, as far as 4,000 of them tell."""
    draw, inside = np.random.default_rng(0), 0
    for _ in range(4000):
        seen, further = draw.normal(30, 4, SEEN), draw.normal(30, 4, 12)
        found = mean_of_further(seen.tolist(), 12)
        inside += found.low <= further.mean() <= found.high
    assert stats.binomtest(inside, 4000, 0.95).pvalue > 1e-4


def test_the_interval_is_that_of_students_distribution() -> None:
    seen = [3.0, 5.0, 4.0, 6.0, 4.5, 2.5]
    found = mean_of_further(seen, 7)
    half = stats.t.ppf(0.975, 5) * np.std(seen, ddof=1) * math.sqrt(1 / 6 + 1 / 7)
    assert found.expected == pytest.approx(np.mean(seen))
    assert (found.low, found.high) == pytest.approx((np.mean(seen) - half, np.mean(seen) + half), rel=1e-3)


def test_it_is_told_when_enough_steps_are_known_and_with_what_is_due_beside_them(tmp_path: Path) -> None:
    """The first step, in which much is done once, does not count; the last checkpoint's and evaluation's time
    are those of the next."""
    recipe = recipe_in(tmp_path)
    [span] = stage_spans(recipe)
    lines = [{"step": 0, "time/evaluation": 3.0}, *steps([99.0] + [2.0] * SEEN)]
    assert forecast(recipe, span, SEEN, lines[:-1]) is None
    found = forecast(recipe, span, SEEN + 1, lines)
    assert found is not None
    left = STEPS - SEEN - 1
    evaluations, checkpoints = len({10, 15, 20}), len({10, 20})
    assert (found.step.low, found.step.high) == (2.0, 2.0)
    assert found.rest.expected == 2.0 * left + 3.0 * evaluations
    lines.insert(1, {"step": 0, "time/checkpoint": 5.0})
    later = forecast(recipe, span, SEEN + 1, lines)
    assert later is not None and later.rest.expected == found.rest.expected + 5.0 * checkpoints
    assert later.told(8) == (
        f"grpo: {left} steps more at 2 (2 to 2) s, in all 47 (47 to 47) s, 0.104 (0.104 to 0.104) GPU-hours"
    )
    assert later.compared(180.0, 8) == (
        f"grpo: 47 (47 to 47) s were foreseen after step {SEEN + 1}, 3 min it took, 0.4 GPU-hours"
    )
    assert "GPU" not in later.told(0) + later.compared(180.0, 0)
    assert forecast(recipe, span, STEPS, steps([1.0] * STEPS)) is None


def test_a_step_that_is_repeated_with_the_rollouts_that_are_there_tells_nothing_of_others(
    tmp_path: Path,
) -> None:
    recipe = recipe_in(tmp_path)
    [span] = stage_spans(recipe)
    taken = [9.0, 6.0, 6.0, 0.5, 0.5, 6.0, 6.0, 6.0]
    lines = [{**line, "rollout/recorded": float(line["time/step"] < 1)} for line in steps(taken)]
    assert forecast(recipe, span, 7, lines[:7]) is None
    found = forecast(recipe, span, 8, lines)
    assert found is not None and (found.step.low, found.step.high) == (6.0, 6.0)


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., None]:
    """Writes a run of so many steps, each of so many seconds, as another life left it."""

    def write(name: str, done: int, seconds: float, **changes: Any) -> None:
        path = tmp_path / "out" / "toy" / name
        folder = RunFolder(path)
        path.mkdir(parents=True)
        (path / ".rayignore").write_text("*")
        folder.recipe_file.write_text(loading.dump(recipe_in(tmp_path, **changes)))
        sink = JsonlSink(path, None)
        sink.log(0, {"time/evaluation": 30.0})
        for line in steps([seconds] * done):
            sink.log(line["step"], {"time/step": line["time/step"]})
        sink.close(ok=True)

    return write


def test_before_a_run_starts_an_earlier_one_of_the_same_recipe_tells(
    tmp_path: Path, ended: Callable[..., None]
) -> None:
    """The newest that has ended; its seed may be another."""
    recipe = recipe_in(tmp_path)
    assert of_earlier_run(recipe, 8) is None
    ended("other", STEPS, 1.0, health={"equal_groups": 0.5})
    ended("unended", STEPS - 1, 1.0)
    assert of_earlier_run(recipe, 8) is None
    ended("first", STEPS, 6.0, seed=7)
    assert of_earlier_run(recipe, 8) == (
        "as first of the same recipe: grpo 6 (6 to 6) s a step, in all 2.5 min, 0.333 GPU-hours"
    )


def test_an_earlier_run_that_repeated_steps_is_told_as_if_it_had_not(
    tmp_path: Path, ended: Callable[..., None]
) -> None:
    ended("first", STEPS - 5, 6.0)
    sink = JsonlSink(tmp_path / "out" / "toy" / "first", STEPS)
    for step in range(STEPS - 5, STEPS):
        sink.log(step + 1, {"time/step": 0.5, "rollout/recorded": 1.0})
    sink.close(ok=True)
    assert of_earlier_run(recipe_in(tmp_path), 8) == (
        "as first of the same recipe: grpo 6 (6 to 6) s a step, in all 2.5 min, 0.333 GPU-hours"
    )


def test_an_earlier_run_of_the_recipe_has_a_copy_of_its_chat_template(
    tmp_path: Path, ended: Callable[..., None]
) -> None:
    """Under another path; a run that had another template, or has lost it, is another."""
    (tmp_path / "x.jinja").write_text("{{ messages }}")
    recipe = recipe_in(tmp_path, model={"path": "model", "chat_template": str(tmp_path / "x.jinja")})
    for name, template in (("first", "{{ messages }}"), ("other", "{{ other }}"), ("lost", None)):
        ended(name, STEPS, 6.0, model={"path": "model", "chat_template": "chat_template.jinja"})
        if template is not None:
            (tmp_path / "out" / "toy" / name / "chat_template.jinja").write_text(template)
    assert str(of_earlier_run(recipe, 0)).startswith("as first of the same recipe: grpo 6 (6 to 6) s")


def test_an_earlier_run_that_cannot_be_read_keeps_no_other_from_its_start(
    tmp_path: Path, ended: Callable[..., None]
) -> None:
    """Whatever is wrong with it; one that can be read tells instead."""
    ended("damaged", STEPS, 6.0)
    with (tmp_path / "out" / "toy" / "damaged" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew\n')
    recipe = recipe_in(tmp_path)
    assert of_earlier_run(recipe, 0) is None
    ended("whole", STEPS, 6.0)
    (tmp_path / "out" / "toy" / "damaged" / "recipe.yaml").touch()
    assert str(of_earlier_run(recipe, 0)).startswith("as whole of the same recipe: grpo 6 (6 to 6) s")
