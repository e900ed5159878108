"""What is found out about a recipe's tasks before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from al_ray.data.mixture import sources_of
from al_ray.data.tasks import load_tasks
from al_ray.errors import DataError, RecipeError
from al_ray.recipe import Recipe, SourceSection, loading
from tests.support.machines.processes import ROOT


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


@pytest.mark.parametrize(
    ("share", "told"),
    [
        ("0.001", "data.validation_share: 0.001: none of the 48 tasks falls into it: raise it"),
        ("0.999", "data.validation_share: 0.999: all of the 48 tasks fall into it: lower it"),
    ],
)
def test_a_share_that_leaves_one_side_without_tasks_is_told_with_what_falls_into_it(
    share: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        load_tasks(loaded(f"validation_share={share}"))


SOURCES = "sources={plain: {weight: 3}, short: {options: {max_question_chars: 60}}}"


def test_every_source_names_its_tasks_and_takes_what_it_leaves_out_from_the_whole() -> None:
    whole, short = load_tasks(loaded()), load_tasks(loaded("options.max_question_chars=60"))
    recipe = loaded(SOURCES)
    tasks = load_tasks(recipe)
    for split in ("train", "held_out"):
        found = getattr(tasks, split)
        assert [(task.id, task.data["data_source"]) for task in found] == [
            *((f"plain/{task.id}", "plain") for task in getattr(whole, split)),
            *((f"short/{task.id}", "short") for task in getattr(short, split)),
        ], "of the held out as many of each"
    assert [line.split(": ")[0] for line in tasks.left_out] == ["plain"] * 2 + ["short"] * 2
    plain, shorter = sources_of(recipe.data, tasks.train)
    assert (len(plain.tasks), plain.weight) == (len(whole.train), 3)
    assert (len(shorter.tasks), shorter.weight) == (len(short.train), 1)


def test_what_one_source_holds_out_another_may_not_train_on() -> None:
    """Two of the same rows, of which one keeps a share apart."""
    with pytest.raises(DataError, match=r"data\.sources: .*'part/.*' is 'whole/.*one source holds out"):
        load_tasks(loaded("sources={whole: {}, part: {validation_share: 0.5}}"))


def test_a_mistake_in_a_source_is_told_by_its_place() -> None:
    with pytest.raises(RecipeError, match=r"data\.sources\.a\.options\.max: 3: no such key"):
        loaded("sources={a: {options: {max: 3}}}")
    with pytest.raises(RecipeError, match=r"data\.sources\.b\.load: None: name the environment's"):
        loaded("load=null", "sources={a: {load: 'al_ray.envs.calc_x.data:load'}, b: {}}")
    with pytest.raises(RecipeError, match=r"data\.load: None: name the environment's task loader"):
        loaded("load=null")
    with pytest.raises(DataError, match=r"data\.sources\.a\.options: .*no train task is left"):
        load_tasks(loaded("sources={a: {options: {sources: [absent]}}}"))


LOADERS = """
from al_ray.protocols import Demonstration
from al_ray.types import Task

def data(i):
    return {"question": str(i)}

def dicts(path, split):
    return [{"id": "a", "question": "1"}]

def fails(path, split):
    return open(f"/absent/{split}.jsonl").read()

def exits(path, split):
    raise SystemExit("give --data")

def one_id(path, split):
    return [Task("same", data(i), split) for i in range(6)]

def both_splits(path, split):
    return [Task(f"t{i}", data(i), split) for i in range(3)]

def nothing(path, split):
    pass

def none_held_out(path, split):
    return [Task("a", data(1), split)] if split == "train" else []

def no_json(path, split):
    return [Task(f"{split}-0", {"when": {1, 2}}, split)]

def dated(path, split):
    import datetime

    return [Task(f"{split}-0", {"when": datetime.date(2026, 11, 30)}, split)]

def half_a_character(path, split):
    return [Task(f"{split}-0", {"question": "\\ud800"}, split)]

def half_an_id(path, split):
    return [Task(f"{split}-\\ud800", data(0), split)]

def with_nul(path, split):
    return [Task(f"{split}-\\x00", data(0), split)]

def from_pandas(path, split):
    return [Task(f"{split}-0", {"answers": [1.0, {"score": float("nan")}]}, split)]

def numbered(path, split):
    return [Task(i, data(i), split) for i in range(20)]

def no_mapping(path, split):
    return [Task(f"{split}-0", "what is 1 + 1?", split)]

def lazily(path, split):
    for i in range(3):
        yield Task(f"{split}-{i}", data(i), split)

def teach_badly(task):
    return [{"role": "user", "content": task["absent"]}]

def teach_nothing(task):
    return Demonstration([{"role": "user", "content": task["question"]}])

def teach_no_more(task):
    raise SystemExit(0)

def teach_otherwise(task):
    return [{"role": "user", "content": task["question"]}]

def says_a_source(path, split):
    return [Task(f"{split}-0", {"data_source": "elsewhere"}, split)]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A recipe with a loader of the user's own, and a teacher if one is named."""
    (tmp_path / "own_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_loaders", raising=False)

    def own(load: str, teach: str | None = None) -> Recipe:
        recipe = loaded(f"load=own_loaders:{load}", "options={}")
        evaluation = recipe.evaluation.model_copy(update={"by": []})
        recipe = recipe.model_copy(update={"evaluation": evaluation})
        if teach is None:
            return recipe.model_copy(update={"stages": recipe.stages[1:]})
        stage = recipe.stages[0].model_copy(update={"demonstrate": f"own_loaders:{teach}"})
        return recipe.model_copy(update={"stages": [stage, *recipe.stages[1:]]})

    return own


@pytest.mark.parametrize(
    ("load", "told"),
    [
        ("dicts", r"data.load own_loaders:dicts, task 0 of train: \{.*of type dict; it must be an al_ray"),
        ("fails", r"failed on the split 'train': FileNotFoundError: .*own_loaders.py, line 12\)"),
        ("exits", r"failed on the split 'train': SystemExit: give --data \(.*own_loaders.py, line 15\)"),
        (
            "one_id",
            r"one_id, train: 'same': is the id of 6 tasks, those at 0, 1, 2, 3, 4: each needs its own",
        ),
        ("both_splits", r"train and validation: \"'t0', 't1', 't2'\": 3 ids are in both: .*validation_share"),
        ("nothing", r"data.load: 'own_.*: gave a NoneType for the split 'train'; it must be a list of Tasks"),
        ("none_held_out", r"data.load: 'own_.*: gave no task of the split 'validation'; .*data.path, None"),
        ("no_json", r"task 0 of train, data: 'train-0': must be JSON, .*Type is not JSON serializable: set"),
        ("dated", r"task 0 of train, data: 'train-0': must be JSON, .*not JSON serializable: datetime.date"),
        ("half_a_character", r"task 0 of train, data: 'train-0': must be JSON, .*surrogates"),
        ("half_an_id", r"task 0 of train, id: 'train-\\ud800': holds half a surrogate pair"),
        ("with_nul", r"task 0 of train, id: 'train-\\x00': holds NUL, which"),
        ("from_pandas", r"task 0 of train, data.answers.1.score: nan: is no number in JSON: write null"),
        ("numbered", r"task 4 of train, id: 4: must be a text that names the task\n.*15 more so"),
        ("no_mapping", r"data: 'what is 1 \+ 1\?': must be a mapping"),
    ],
)
def test_what_a_loader_does_wrong_is_told_by_place_with_the_cure(
    own: Callable[..., Recipe], load: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        load_tasks(own(load))


def test_a_source_whose_tasks_name_another_is_refused(own: Callable[..., Recipe]) -> None:
    recipe = own("says_a_source")
    data = recipe.data.model_copy(update={"sources": {"a": SourceSection()}})
    with pytest.raises(DataError, match=r"data.sources.a.load, data_source: 'elsewhere': .*'train-0'.*'a'"):
        load_tasks(recipe.model_copy(update={"data": data}))


def test_a_loader_may_give_its_tasks_one_by_one(own: Callable[..., Recipe]) -> None:
    assert [task.id for task in load_tasks(own("lazily")).train] == ["train-0", "train-1", "train-2"]


@pytest.mark.parametrize(
    ("teach", "told"),
    [
        (
            "teach_badly",
            r"stages.0.demonstrate: .*failed on the task 'train-0': KeyError: 'absent' \(.*line 60",
        ),
        ("teach_nothing", "teach_nothing': has no message of the assistant for the task 'train-0'"),
        ("teach_no_more", r"failed on the task 'train-0': SystemExit: 0 \(.*own_loaders.py"),
        ("teach_otherwise", "gave a list for the task 'train-0'; it must be a Demonstration"),
    ],
)
def test_a_teacher_is_tried_on_the_first_task(own: Callable[..., Recipe], teach: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_tasks(own("lazily", teach))
