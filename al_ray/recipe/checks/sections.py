"""What must hold of the other sections of a recipe, each by itself or beside one more."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

from al_ray.errors import Problem
from al_ray.recipe import DataSection, Recipe, model_name
from al_ray.recipe.checks.functions import callable_with, function_at, misfits
from al_ray.recipe.section import no_such_key
from al_ray.recipe.system import service_variable
from al_ray.types import Signals

_SIGNALS: Final = tuple(field.name for field in fields(Signals))
"""What ``transitions.intermediate`` may name."""


def model(recipe: Recipe) -> Iterator[Problem]:
    if problem := model_name.problem(recipe.model.path):
        yield problem
    template = recipe.model.chat_template
    if template is not None and not Path(template).is_file():
        yield Problem("model.chat_template", template, "no such file; it is looked for beside the recipe")


def engines(recipe: Recipe) -> Iterator[Problem]:
    least, most = recipe.engines.replicas, recipe.engines.max_replicas
    if most is not None and most < least:
        cure = f"is less than engines.replicas, {least}; raise it, or leave it out"
        yield Problem("engines.max_replicas", most, cure)


def runners(recipe: Recipe) -> Iterator[Problem]:
    least, most = recipe.agent.runners, recipe.agent.max_runners
    if most is None:
        return
    if most < least:
        cure = f"is less than agent.runners, {least}; raise it, or leave it out"
        yield Problem("agent.max_runners", most, cure)
    elif most > least and recipe.gateway.is_local:
        cure = f"runners on other nodes cannot reach gateways at {recipe.gateway.host}: set gateway.host to "
        cure += "0.0.0.0, or to the address of the driver's node"
        yield Problem("agent.max_runners", most, cure)


def learners(recipe: Recipe) -> Iterator[Problem]:
    if recipe.learners.weights == "sharded" and recipe.learners.replicas == 1:
        cure = "has no effect with learners.replicas: 1; raise that, or leave this out"
        yield Problem("learners.weights", "sharded", cure)


def data(recipe: Recipe) -> Iterator[Problem]:
    for place, data in recipe.data.each.items():
        yield from _source(place, data)


def _source(place: str, data: DataSection) -> Iterator[Problem]:
    if data.load is None:
        yield Problem(f"{place}.load", None, "name the environment's task loader")
        return
    function, wrong = function_at(f"{place}.load", data.load)
    yield from wrong
    if function is None:
        return
    parameters = inspect.signature(function).parameters.values()
    by_name = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [name for name in data.options if not takes_all and name not in by_name]
    for name in unknown:
        yield Problem(f"{place}.options.{name}", data.options[name], no_such_key(name, by_name[2:]))
    known = {name: value for name, value in data.options.items() if name not in unknown}
    yield from misfits(f"{place}.load", data.load, function, ("path", "split"), known)


def transitions(recipe: Recipe) -> Iterator[Problem]:
    for name, worth in recipe.transitions.intermediate.items():
        if name not in _SIGNALS:
            cure = f"no such signal; there are {', '.join(_SIGNALS)}"
            yield Problem(f"transitions.intermediate.{name}", worth, cure)


def evaluation(recipe: Recipe) -> Iterator[Problem]:
    evaluation = recipe.evaluation
    if evaluation.samples > 1 and evaluation.sampling.temperature == 0:
        cure = f"above 0, or the {evaluation.samples} samples of a task are all alike"
        yield Problem("evaluation.sampling.temperature", 0, cure)
    if evaluation.predictions is not None:
        yield from callable_with("evaluation.predictions", evaluation.predictions, ("results", "folder"))


def upstreams(recipe: Recipe) -> Iterator[Problem]:
    for name, upstream in recipe.upstreams.items():
        if name == recipe.model.name:
            cure = "is what agents call the trained model; give the hosted one another name"
            yield Problem(f"upstreams.{name}", upstream.model, cure)
        variable = upstream.api_key_env
        if variable is not None and (problem := key_problem(variable)):
            yield Problem(f"upstreams.{name}.api_key_env", variable, problem)


def services(recipe: Recipe) -> Iterator[Problem]:
    by_variable: dict[str, str] = {}
    for name, service in recipe.services.items():
        variable = service_variable(name)
        if (other := by_variable.setdefault(variable, name)) != name:
            cure = f"an agent finds it in {variable}, as it does {other!r}; give one of them another name"
            yield Problem(f"services.{name}", name, cure)
        where = f"services.{name}.run"
        function, wrong = function_at(where, service.run)
        yield from wrong
        if function is not None:
            yield from misfits(where, service.run, function, ("path",), service.options)


def key_problem(variable: str) -> str | None:
    """Why this environment variable gives no API key of a hosted model; None if it does."""
    key = os.environ.get(variable)
    if not key:
        return "this variable is not set; it is to hold the key of the hosted model"
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        return "it holds what cannot stand in an HTTP header: a line break or a space around the key, say"
    return None
