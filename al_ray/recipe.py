"""Recipes: read a YAML file, apply overrides, check it as a whole.

``load`` returns a ``Recipe`` that is complete and consistent in itself, or raises one
``RecipeError`` that lists every mistake with its path, its value and what would be right.
Nothing is started and neither torch, Ray nor vLLM is imported.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from al_ray import dotted
from al_ray.config import AnyStage, GrpoStage, Recipe, SupervisedStage
from al_ray.errors import Problem, RecipeError

DATA_VARIABLE = "AL_RAY_DATA"


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at ``path`` with ``overrides`` (``a.b=c``, lists by index) applied in order."""
    raw = _read(path)
    for override in overrides:
        _apply(raw, override)
    _fill_from_surroundings(raw, path)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(*(_problem(path, detail) for detail in error.errors())) from None
    problems = list(_inconsistencies(recipe))
    if problems:
        raise RecipeError(*(Problem(f"{path}: {p.where}", p.value, p.cure) for p in problems))
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; ``load`` reads it back as the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(ours: Recipe, theirs: Recipe) -> list[Problem]:
    """Where two recipes differ: path, our value, and a cure that names theirs."""
    return [
        Problem(path, ours_value, f"the run was started with {theirs_value!r}")
        for path, ours_value, theirs_value in _walk_differences(ours.model_dump(), theirs.model_dump(), "")
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(Problem("recipe", str(path), f"cannot be read: {error.strerror}")) from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(Problem(str(path), "not YAML", str(error))) from None
    if not isinstance(raw, dict):
        raise RecipeError(Problem(str(path), type(raw).__name__, "a recipe is a mapping of sections"))
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(Problem("--set", override, "write it as path=value, for example model.max_length=512"))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(Problem(f"--set {key}", text, f"not a YAML value: {error}")) from None
    *parents, last = key.split(".")
    node: Any = raw
    for name in parents:
        node = _child(node, name, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(Problem(f"--set {key}", override, f"what stands above {last!r} is not a section"))


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    if isinstance(node, dict):
        if node.get(name) is None:
            node[name] = {}
        return node[name]
    raise RecipeError(Problem(f"--set {key}", name, "what stands above it is not a section"))


def _index(node: list[Any], name: str, key: str) -> int:
    if name.isdecimal() and int(name) < len(node):
        return int(name)
    raise RecipeError(Problem(f"--set {key}", name, f"a number from 0 to {len(node) - 1} picks from the list"))


def _fill_from_surroundings(raw: dict[str, Any], path: Path) -> None:
    """What a recipe leaves to where it is run: the data's place, and paths beside the recipe."""
    data = raw.get("data")
    if isinstance(data, dict) and data.get("path") is None and os.environ.get(DATA_VARIABLE):
        data["path"] = os.environ[DATA_VARIABLE]
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(model.get("chat_template"), str):
        model["chat_template"] = str((path.parent / model["chat_template"]).resolve())


def _problem(path: Path, detail: ErrorDetails) -> Problem:
    stages = {"supervised", "grpo"}
    location = [str(part) for part in detail["loc"] if part not in stages]
    cure = detail["msg"]
    if detail["type"] == "extra_forbidden":
        cure = "no such key"
        close = difflib.get_close_matches(location[-1], _sibling_names(detail["loc"]), n=1)
        if close:
            cure += f"; did you mean {close[0]!r}?"
    elif detail["type"] == "missing":
        cure = "this key is required"
    value = "absent" if detail["type"] == "missing" else detail["input"]
    return Problem(f"{path}: {'.'.join(location) or 'recipe'}", value, cure)


def _sibling_names(location: tuple[int | str, ...]) -> list[str]:
    by_algorithm = {"supervised": SupervisedStage, "grpo": GrpoStage}
    section: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if part in by_algorithm:
            section = by_algorithm[str(part)]
            continue
        field = section.model_fields.get(part)
        if field is None:
            return []
        models = [t for t in (field.annotation, *get_args(field.annotation)) if _is_section(t)]
        section = models[0] if models else section
    return list(section.model_fields)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _inconsistencies(recipe: Recipe) -> Iterator[Problem]:
    model, agent = recipe.model, recipe.agent
    if model.chat_template and not Path(model.chat_template).is_file():
        yield Problem("model.chat_template", model.chat_template, "no such file beside the recipe")
    if Path(model.path).is_absolute() or model.path.startswith("."):
        if not (Path(model.path) / "config.json").is_file():
            yield Problem("model.path", model.path, "no model folder (with a config.json) there")
    if agent.sampling.max_tokens >= model.max_length:
        yield Problem("agent.sampling.max_tokens", agent.sampling.max_tokens,
                      f"leaves no room for a prompt: model.max_length is {model.max_length}")  # fmt: skip
    for where, path in _dotted_paths(recipe):
        try:
            if not callable(dotted.load(path, where)):
                yield Problem(where, path, "names something that cannot be called")
        except RecipeError as error:
            yield from error.problems
    for index, stage in enumerate(recipe.stages):
        yield from _stage_inconsistencies(recipe, stage, f"stages.{index}")
    if recipe.engines.tensor_parallel > 1 and recipe.placement.device == "cpu":
        yield Problem("engines.tensor_parallel", recipe.engines.tensor_parallel,
                      "is 1 on CPU; use engines.replicas to use more cores")  # fmt: skip


def _stage_inconsistencies(recipe: Recipe, stage: AnyStage, where: str) -> Iterator[Problem]:
    if stage.optimizer.warmup_steps >= stage.steps:
        yield Problem(f"{where}.optimizer.warmup_steps", stage.optimizer.warmup_steps,
                      f"is less than the stage's steps, {stage.steps}")  # fmt: skip
    if isinstance(stage, GrpoStage):
        if recipe.agent.sampling.temperature == 0:
            yield Problem("agent.sampling.temperature", 0,
                          "above 0, or the rollouts of a group are all alike and nothing is learnt")  # fmt: skip


def _dotted_paths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "data.load", recipe.data.load
    yield "agent.run", recipe.agent.run
    if recipe.agent.evaluate:
        yield "agent.evaluate", recipe.agent.evaluate
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            yield f"stages.{index}.demonstrate", stage.demonstrate


def _walk_differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            yield from _walk_differences(ours.get(key), theirs.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _walk_differences(*pair, f"{path}.{index}")
    elif ours != theirs:
        yield path, ours, theirs
