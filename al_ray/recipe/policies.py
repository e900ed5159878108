"""Several policies of one run: adapters of one model, and whose calls each of them answers."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from al_ray.recipe.section import Section


class PolicySection(Section):
    """One of several policies: an adapter of the model, as `model.lora` describes it."""

    agents: Annotated[list[str], Field(min_length=1)]
    """Whose calls it answers: names of agents (the header ``x-al-ray-agent``), as patterns (``judge*``). Of
    all policies in their order, the first that matches answers."""
    frozen: bool = False
    """It stays as it is, and nothing is learnt from its calls."""
    adapter: str | None = None
    """The folder, relative to the recipe, of the adapter that it begins as, one of a run's checkpoint say
    (``RUN/checkpoints/STEP/policies/NAME``). None: it begins as the model itself."""


def policy_of(policies: Mapping[str, PolicySection], agent: str) -> str | None:
    """The name of the policy that answers an agent of this name; None if none does. Without policies there is
    one, whose name is empty."""
    if not policies:
        return ""
    names = (
        name
        for name, section in policies.items()
        if any(fnmatchcase(agent, pattern) for pattern in section.agents)
    )
    return next(names, None)


def may_share_a_name(one: str, other: str) -> bool:
    """Of two patterns: whether a name may match both. Told for certain where one of them is a name."""
    if not set("*?[") & set(one):
        return fnmatchcase(one, other)
    return bool(set("*?[") & set(other)) or fnmatchcase(other, one)
