"""The picture of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_ray.errors import DiskError, UserError
from al_ray.recipe import Recipe
from al_ray.reports import plot
from al_ray.reports.jsonl_sink import JsonlSink
from tests.support.machines.processes import files_up_to

RECIPE = Recipe.model_validate(
    {
        "name": "calc_x",
        "model": {"path": "m"},
        "data": {"load": "envs.calc:load"},
        "agent": {"run": "envs.calc:agent"},
        "stages": [
            {
                "algorithm": "supervised",
                "steps": 2,
                "demonstrate": "envs.calc:demonstrate",
                "optimizer": {"learning_rate": 1e-4},
            },
            {"algorithm": "grpo", "steps": 30, "optimizer": {"learning_rate": 1e-5}},
        ],
    }
)


def _picture_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


def test_a_run_with_rewards_and_accuracy_has_both_panels(tmp_path: Path) -> None:
    metrics = JsonlSink(tmp_path, None)
    metrics.log(0, {"eval/accuracy": 0.1, "eval/stderr": 0.02})
    accuracy_alone = _picture_size(plot.plot_run(RECIPE, tmp_path))
    for step in range(3, 33):
        metrics.log(step, {"reward/mean": step / 33})
    metrics.log(32, {"eval/accuracy": 0.9, "eval/stderr": float("nan")})
    path = plot.plot_run(RECIPE, tmp_path)
    assert path == tmp_path / "progress.png"
    assert _picture_size(path)[1] > accuracy_alone[1]


def test_a_disk_that_takes_no_picture_is_told_and_the_one_before_stays(tmp_path: Path) -> None:
    metrics = JsonlSink(tmp_path, None)
    metrics.log(0, {"eval/accuracy": 0.1, "eval/stderr": 0.02})
    before = plot.plot_run(RECIPE, tmp_path).read_bytes()
    with (
        files_up_to(64),
        pytest.raises(DiskError, match=r"progress.png: it could not be written: .*too large"),
    ):
        plot.plot_run(RECIPE, tmp_path)
    assert (tmp_path / "progress.png").read_bytes() == before


def test_of_several_values_of_a_step_the_last_is_drawn() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 4, "eval/accuracy": 0.5, "eval/stderr": 0.1},
        {"step": 0, "eval/accuracy": 0.2, "eval/stderr": None},
        {"step": 4, "eval/accuracy": 0.6, "eval/stderr": 0.1},
        {"step": 4, "reward/mean": 0.3},
    ]
    assert plot._series(lines, "eval/accuracy", "eval/stderr") == [(0, 0.2, 0.0), (4, 0.6, 0.1)]


def test_the_moving_mean_of_a_constant_is_that_constant() -> None:
    assert plot._moving_mean([2.0] * 9, 5) == [2.0] * 9
    assert plot._moving_mean([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]


def test_a_run_without_numbers_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no reward and no accuracy"):
        plot.plot_run(RECIPE, tmp_path)
