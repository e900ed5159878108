"""Recipes: read a YAML file, apply overrides, check it as a whole.

``load`` returns a ``Recipe`` that is complete and consistent in itself, or raises one
``RecipeError`` that lists every mistake with its path, its value and what would be right.
Nothing is started and neither torch, Ray nor vLLM is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from al_ray.errors import Problem, RecipeError
from al_ray.recipe import Recipe, checks
from al_ray.recipe.section import CURES, no_such_key
from al_ray.recipe.stages import STAGES
from al_ray.types import JSON

DATA_VARIABLE = "AL_RAY_DATA"
_DECIDES_NOTHING = ("output", "engines", "learners", "placement", "checkpoint", "wandb", "health")
"""Sections that say where and how a run computes, or what it tells of itself, not what it does: a run may
go on with others."""
_BESIDE_THE_RECIPE = (
    ("model", "chat_template"),
    ("agent", "folder"),
    ("agent", "python"),
    ("agent", "requirements"),
)
"""Paths that are relative to the recipe, beside policies' adapters and sandboxes' mounts."""
_SHOWN: Final = 80
"""Characters of what cannot be read."""
_SECRET: Final = "***"
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at ``path`` with ``overrides`` (``a.b=c``, lists by index) applied in order."""
    return _loaded(_read(path), path, overrides)


def load_changed(path: Path, overrides: Sequence[str]) -> Recipe:
    """As ``load``, of a recipe that ``dump`` has written to ``path``: what an algorithm chose is no choice of
    whoever changes it, so another algorithm chooses anew."""
    recipe = reload(path)
    stages: list[JSON] = [stage.as_chosen() for stage in recipe.stages]
    return _loaded({**recipe.model_dump(mode="json"), "stages": stages}, path, overrides)


def reload(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """As ``load``, of a recipe of another time, as a run's, or place: what it names on this machine is not
    looked at."""
    return _loaded(_read(path), path, overrides, elsewhere=True)


def _loaded(raw: dict[str, Any], path: Path, overrides: Sequence[str], *, elsewhere: bool = False) -> Recipe:
    """``elsewhere``: this machine's variable, files and code are not looked at."""
    wrong = [problem for override in overrides for problem in _apply(raw, override)]
    data = raw.get("data")
    variable = None if elsewhere else os.environ.get(DATA_VARIABLE)
    if variable and isinstance(data, dict) and data.get("path") is None:
        data["path"] = variable
    recipe, errors = _validate(raw, path)
    found = [_problem(error) for error in errors]
    if not elsewhere:
        broken = {error["loc"][0] for error in errors if error["loc"] and error["type"] != "extra_forbidden"}
        found += checks.problems(recipe, Recipe.model_fields.keys() - broken)
    wrong += [Problem(f"{path}: {p.where}", p.value, p.cure) for p in found]
    if wrong:
        raise RecipeError(*wrong)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; ``load`` reads it back as the same recipe."""
    return as_yaml(recipe.model_dump(mode="json"))


def as_yaml(content: dict[str, JSON]) -> str:
    """In the order of the keys."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def shown(recipe: Recipe) -> dict[str, JSON]:
    """The recipe as it is shown to people and trackers: without what is secret in it."""
    content: dict[str, JSON] = recipe.model_dump(mode="json")
    headers = content["traces"]["export"]["headers"]
    headers.update(dict.fromkeys(headers, _SECRET))
    return cast(dict[str, JSON], _without_credentials(content))


def _without_credentials(value: JSON) -> JSON:
    """URLs lose the user and password in them."""
    if isinstance(value, dict):
        return {name: _without_credentials(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_credentials(each) for each in value]
    return _CREDENTIALS.sub(_SECRET, value) if isinstance(value, str) else value


def differences(ours: Recipe, theirs: Recipe) -> list[Problem]:
    """Where two recipes ask for different runs: path, our value, and a cure that names theirs."""
    our, their = (
        {name: value for name, value in shown(recipe).items() if name not in _DECIDES_NOTHING}
        for recipe in (ours, theirs)
    )
    return [
        Problem(path, our_value, f"the run was started with {their_value!r}; give that, or start a new run")
        for path, our_value, their_value in _walk_differences(our, their, "")
    ]


class _Loader(yaml.SafeLoader):
    """Refuses what YAML would read otherwise than it looks: a key that stands twice, of which the second
    would count; a key that is no word; an alias inside the thing that it names; a number that begins with 0
    (to the base of 8) or has colons (to that of 60). Where ``yes`` is no boolean, ``Section`` says so."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []
        self._looked_at: set[int] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise yaml.MarkedYAMLError(
                    problem=f"*{anchor} stands inside &{anchor}, the very thing that it names",
                    problem_mark=cast(yaml.Mark, event.start_mark),
                )
            return super().compose_node(parent, index)
        self._open.append(anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # What looks like a date or a number, or is tagged as one, and is none. PyYAML lets that through.
            kind = node.tag.rpartition(":")[2]
            problem = f"{str(node.value)[:_SHOWN]!r} is no {kind}; where text is meant, write it in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error
        if isinstance(found, int | float) and _looks_otherwise(str(node.value), found):
            problem = f"{node.value!r} would be read as {found}: write that, or text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return found

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._looked_at:  # once: what it merges stands beside its own keys afterwards
            self._looked_at.add(id(node))
            seen: set[str] = set()
            for key, _ in node.value:
                problem = None
                if not isinstance(key, yaml.ScalarNode):
                    problem = "a key must be a word; text with braces or brackets is written in quotes"
                elif key.value in seen:
                    problem = f"{key.value!r} stands twice"
                if problem:
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        super().flatten_mapping(node)


def _looks_otherwise(text: str, number: float) -> bool:
    """Whether nobody but YAML 1.1 reads this number in the text."""
    plain = text.replace("_", "").lstrip("+-")
    return ":" in text or (plain.isdecimal() and int(plain) != abs(number))


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(Problem("recipe", str(path), f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError as error:
        raise RecipeError(Problem("recipe", str(path), f"is not text in UTF-8: {error.reason}")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise RecipeError(Problem(where, "not YAML", error.problem or str(error))) from None
    except yaml.YAMLError as error:
        raise RecipeError(Problem(str(path), "not YAML", str(error))) from None
    except RecursionError:
        raise RecipeError(Problem(str(path), "not a recipe", "it is nested too deeply")) from None
    if not isinstance(raw, dict):
        raise RecipeError(Problem(str(path), raw, "a recipe is a mapping of sections"))
    return {key: _unshared(value) for key, value in raw.items()}


def _unshared(value: Any) -> Any:
    """A copy in which what YAML's aliases made one thing is several, to be changed one by one."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _apply(raw: dict[str, Any], override: str) -> Iterator[Problem]:
    """Put the override into ``raw``, or say why that cannot be done."""
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        yield Problem("--set", override, "write it as path=value, for example model.max_length=512")
        return
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        yield Problem(f"--set {key}", text, f"not a YAML value: {getattr(error, 'problem', error)}")
        return
    names = key.split(".")
    node: Any = raw
    for depth, name in enumerate(names, start=1):
        if isinstance(node, list) and not (name.isdecimal() and int(name) < len(node)):
            cure = f"a number from 0 to {len(node) - 1}" if node else "nothing, for the list is empty"
            yield Problem(f"--set {key}", name, f"what picks from this list is {cure}")
            return
        if not isinstance(node, dict | list):
            yield Problem(f"--set {key}", node, f"is no section that could hold {name!r}")
            return
        place: Any = int(name) if isinstance(node, list) else name
        if depth == len(names):
            node[place] = value
        elif isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
        node = node[place]


def _validate(raw: dict[str, Any], path: Path) -> tuple[Recipe, list[ErrorDetails]]:
    """The recipe and what is wrong with it; of a wrong one, the sections that are right, unknown keys
    left out."""
    agent = _mapping(raw.get("agent"))
    if agent.get("command") is not None and agent.get("folder") is None:
        agent["folder"] = "."
    _make_absolute(raw, path.parent)
    try:
        return Recipe.model_validate(raw), []
    except ValidationError as error:
        errors = error.errors()
    for unknown in (error["loc"] for error in errors if error["type"] == "extra_forbidden"):
        _remove(raw, unknown)
    broken = {error["loc"][0] for error in errors if error["type"] != "extra_forbidden"}
    sound = {
        name: TypeAdapter(cast(Any, field.annotation)).validate_python(raw[name])
        for name, field in Recipe.model_fields.items()
        if name in raw and name not in broken
    }
    return Recipe.model_construct(**sound), errors


def _make_absolute(raw: dict[str, Any], folder: Path) -> None:
    """The paths in ``raw`` that are relative to the recipe's ``folder``. Links are not followed: that to an
    interpreter is what makes it an environment's."""
    mounts = _mapping(_mapping(_mapping(raw.get("agent")).get("sandbox")).get("mounts"))
    places = [
        *((_mapping(raw.get(section)), key) for section, key in _BESIDE_THE_RECIPE),
        *((_mapping(policy), "adapter") for policy in _mapping(raw.get("policies")).values()),
        *((mounts, inside) for inside in mounts),
    ]
    for section, key in places:
        if isinstance(section.get(key), str):
            section[key] = os.path.abspath(folder / section[key])


def _mapping(value: Any) -> dict[Any, Any]:
    """What stands there; nothing where it is no mapping, which whoever validates it says."""
    return value if isinstance(value, dict) else {}


def _remove(raw: dict[str, Any], location: Sequence[Any]) -> None:
    node: Any = raw
    *parents, last = _keys(location)
    for part in parents:
        node = node[part]
    del node[last]


def _keys(location: Sequence[Any]) -> list[Any]:
    """Under ``stages`` the third part is no key but names the kind of stage; a key may be called alike."""
    return [part for i, part in enumerate(location) if not (location[0] == "stages" and i == 2)]


def _problem(error: ErrorDetails) -> Problem:
    location = error["loc"]
    kind = error["type"]
    shown = [str(part) for part in _keys(location)]
    value, cure = error["input"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        cure = no_such_key(shown[-1], _keys_beside(location))
    elif kind == "missing":
        value, cure = "absent", "this key is required"
    elif kind == "string_pattern_mismatch":
        cure = CURES[error["ctx"]["pattern"]]
        if location[-1] == "[key]":  # of the key itself, not of what stands there
            shown.pop()
    elif kind == "string_type" and isinstance(value, bool | int | float | date):
        cure = "must be text: write it in quotes"  # YAML reads no and on as booleans, 2026-01-31 as a date
    elif kind == "model_type":
        cure = "must be a section: a mapping of its keys"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        shown.append("algorithm")
        value = value.get("algorithm", "absent")
        cure = f"one of {', '.join(STAGES)}"
    return Problem(".".join(shown) or "recipe", value, cure)


def _keys_beside(location: Sequence[int | str]) -> list[str]:
    """The keys that are known where ``location`` ends."""
    section: Any = Recipe
    parts = iter(location[:-1])
    for part in parts:
        if part in STAGES:
            section = STAGES[str(part)]
        elif not isinstance(part, int):
            annotation = section.model_fields[part].annotation
            section = next((t for t in (annotation, *_arguments(annotation)) if _is_section(t)), section)
            if get_origin(annotation) is dict:  # of sections by names that are no keys of ours
                next(parts, None)
    return list(section.model_fields)


def _arguments(annotation: Any) -> Iterator[Any]:
    """All types inside a generic one."""
    for argument in get_args(annotation):
        yield argument
        yield from _arguments(argument)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _walk_differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            below = f"{path}.{key}" if path else str(key)
            yield from _walk_differences(ours.get(key), theirs.get(key), below)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _walk_differences(*pair, f"{path}.{index}")
    elif ours != theirs:
        yield path, ours, theirs
