"""Whether a function that a recipe names is there, and takes what it is going to be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from al_ray.errors import Problem, RecipeError
from al_ray.recipe import dotted


def callable_with(where: str, path: str, arguments: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with the function at ``path``, which is going to be called with ``arguments``."""
    function, wrong = function_at(where, path)
    yield from wrong
    if function is not None:
        yield from misfits(where, path, function, arguments)


def function_at(where: str, path: str) -> tuple[Callable[..., Any] | None, Sequence[Problem]]:
    """What stands at ``path``, or why it cannot be called at all."""
    try:
        found = dotted.load(path, where)
    except RecipeError as error:
        return None, error.problems
    if not callable(found):
        return None, [Problem(where, path, f"is of type {type(found).__name__}; name a function")]
    return found, []


def misfits(
    where: str,
    path: str,
    function: Callable[..., Any],
    arguments: Sequence[str],
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Problem]:
    try:
        inspect.signature(function).bind(*arguments, **options)
    except (TypeError, ValueError) as error:
        yield Problem(where, path, f"cannot be called with ({', '.join([*arguments, *options])}): {error}")


def is_async(function: Any) -> bool:
    if inspect.isclass(function):
        return False
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
