"""What is found out about a recipe's tasks before anything starts."""

from __future__ import annotations

import pytest

from al_ray.data.tasks import load_tasks
from al_ray.errors import DataError
from al_ray.recipe import Recipe, loading
from tests.processes import ROOT


def loaded(*overrides: str) -> Recipe:
    return loading.load(ROOT / "recipes" / "calc_x_cpu.yaml", [f"data.{override}" for override in overrides])


@pytest.fixture(autouse=True)
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AL_RAY_DATA", raising=False)


def test_what_a_loader_left_out_is_told_by_split_and_reason() -> None:
    tasks = load_tasks(loaded("options.max_question_chars=60"))
    lines = [line.split(": ")[0].split(" ", 1) for line in tasks.left_out]
    assert [where for _, where in lines] == ["rows of train left out", "rows of validation left out"]
    assert int(lines[0][0]) == 64 - len(tasks.train)
    assert "with a question of more than 60 characters" in tasks.left_out[0]


def test_options_that_no_row_passes_are_an_error() -> None:
    """Training on nothing is refused, with the options that caused it and what they left out."""
    with pytest.raises(DataError, match=r"absent.*no train task is left.*64 of other sources"):
        load_tasks(loaded("options.sources=[absent]"))


def test_a_dataset_without_a_validation_split_gives_a_share_of_its_training_tasks() -> None:
    """Nothing is both trained on and held out, and the loader is not asked for a split that it lacks."""
    whole = load_tasks(loaded())
    tasks = load_tasks(loaded("validation_share=0.25"))
    train, held_out = ({task.id for task in found} for found in (tasks.train, tasks.held_out))
    assert train | held_out == {task.id for task in whole.train} and not train & held_out
    assert {task.split for task in tasks.held_out} == {"validation"}
