"""Writes ``docs/recipes.md`` from the docstrings of ``al_ray.recipe``: every key, its type and default."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from al_ray.recipe import Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
HEAD = """# Recipes

A recipe is a YAML file; `al-ray validate RECIPE` checks it, `--set a.b=c` overrides a key (list entries
by index, `stages.1.steps=20`). Written by `python tools/recipe_reference.py` from `al_ray/recipe/`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section(Recipe, "recipe")]) + "\n"


def _section(model: type[BaseModel], title: str) -> Iterator[str]:
    sections, docstrings = [], _docstrings(model)
    yield f"## {title}\n"
    if model.__doc__:
        yield f"{' '.join(model.__doc__.split())}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for name, field in model.model_fields.items():
        inner = list(_sections_in(field.annotation))
        sections += [(section, _title(title, name, section, alone=len(inner) == 1)) for section in inner]
        meaning = " ".join(docstrings.get(name, "see below").split()).replace("``", "`")
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |"
    yield ""
    for section, inner_title in sections:
        yield from _section(section, inner_title)


def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Of its fields. Pydantic would look for them in whoever imports a recipe's sections, which takes longer
    than all else that it does there."""
    found = {}
    for kind in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, told in pairwise(definition.body):
            match field, told:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(docstring))):
                    found[name] = docstring
    return found


def _title(outer: str, name: str, section: type[BaseModel], *, alone: bool) -> str:
    path = name if outer == "recipe" else f"{outer}.{name}"
    words = re.findall("[A-Z][a-z]*", section.__name__.removesuffix("Stage"))
    return path if alone else f"{path}: {' '.join(words).lower()}"


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def _type(field: FieldInfo) -> str:
    if any(True for _ in _sections_in(field.annotation)):
        return {list: "list of sections", dict: "sections by name"}.get(
            get_origin(field.annotation), "section"
        )
    return _name(field.annotation)


def _name(annotation: Any) -> str:
    """As one would write it, without the constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_name, arguments))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is not None:
        return f"{_name(origin)} of {', '.join(map(_name, arguments))}"
    return "None" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "" if isinstance(field.default, BaseModel) else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
