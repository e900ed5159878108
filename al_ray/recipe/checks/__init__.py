"""What must hold in a recipe beyond the types of its values: between sections, and with the files and
the code that it names. Nothing that it names is called.

``loading`` asks for ``problems``; what depends on the cluster, ``machines.plan`` checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from al_ray.errors import Problem
from al_ray.recipe import Recipe
from al_ray.recipe.checks import agent, policies, sampling, sections, stages

_CHECKS: Final[Sequence[tuple[set[str], Callable[[Recipe], Iterator[Problem]]]]] = (
    ({"model"}, sections.model),
    ({"model", "agent", "evaluation"}, sampling.lengths),
    ({"model", "stages"}, stages.adapter),
    ({"engines"}, sections.engines),
    ({"agent", "gateway"}, sections.runners),
    ({"learners"}, sections.learners),
    ({"data"}, sections.data),
    ({"agent"}, agent.agent),
    ({"stages"}, stages.stages),
    ({"stages", "transitions"}, stages.shaping),
    ({"stages", "agent", "upstreams"}, stages.distillation),
    ({"stages", "agent"}, sampling.exploration),
    ({"stages", "agent", "transitions", "policies"}, sampling.trained_alike),
    ({"policies", "model", "transitions"}, policies.policies),
    ({"policies", "stages"}, policies.stages),
    ({"transitions"}, sections.transitions),
    ({"evaluation"}, sections.evaluation),
    ({"upstreams", "model"}, sections.upstreams),
    ({"services"}, sections.services),
)
"""Each check with the sections that it reads."""


def problems(recipe: Recipe, sound: Collection[str]) -> Iterator[Problem]:
    """Every mistake that can be told from the ``sound`` sections; the others may be missing."""
    for read, check in _CHECKS:
        if read <= set(sound):
            yield from check(recipe)
