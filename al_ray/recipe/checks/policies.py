"""What must hold of a recipe's policies, beyond the types of its values."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from al_ray.errors import Problem
from al_ray.recipe import OnPolicyDistillationStage, PolicySection, Recipe, ReinforcementStage
from al_ray.recipe.policies import may_share_a_name


def policies(recipe: Recipe) -> Iterator[Problem]:
    """They are adapters of one model, each with agents of its own."""
    if not recipe.policies:
        return
    if recipe.model.lora is None:
        cure = "are adapters: set model.lora, {} for its defaults, or leave them out"
        yield Problem("policies", ", ".join(recipe.policies), cure)
    if not recipe.trained_policies:
        yield Problem("policies", ", ".join(recipe.policies), "are all frozen: nothing would be trained")
    yield from _unreached(recipe)
    for name, section in recipe.policies.items():
        if not section.frozen and not _may_be_trained(recipe, section):
            cure = f"none is in transitions.train, {recipe.transitions.train}: name one there, or set "
            yield Problem(f"policies.{name}.agents", section.agents, f"{cure}policies.{name}.frozen: true")
        if section.adapter is not None and not Path(section.adapter).is_dir():
            cure = "no such folder; it is looked for beside the recipe"
            yield Problem(f"policies.{name}.adapter", section.adapter, cure)


def _unreached(recipe: Recipe) -> Iterator[Problem]:
    """Patterns that another policy's comes before."""
    before: list[tuple[str, str]] = []
    for name, section in recipe.policies.items():
        for index, pattern in enumerate(section.agents):
            first = next((each for each in before if fnmatchcase(pattern, each[1])), None)
            if first is not None:
                cure = f"never answers: policies.{first[0]} comes before it, with {first[1]!r}"
                yield Problem(f"policies.{name}.agents.{index}", pattern, cure)
        before += [(name, pattern) for pattern in section.agents]


def _may_be_trained(recipe: Recipe, section: PolicySection) -> bool:
    return any(may_share_a_name(own, each) for own in section.agents for each in recipe.transitions.train)


def stages(recipe: Recipe) -> Iterator[Problem]:
    """Some are for one policy alone."""
    for index, stage in enumerate(recipe.stages if recipe.policies else ()):
        if isinstance(stage, OnPolicyDistillationStage):
            cure = "is for one policy: a teacher's words are measured from the mean of all tokens; leave "
            yield Problem(f"stages.{index}.algorithm", stage.algorithm, f"{cure}out `policies`, or the stage")
        if isinstance(stage, ReinforcementStage) and stage.credit == "gae":
            cure = "is for one policy, whose values its critic tells; choose another, or leave out `policies`"
            yield Problem(f"stages.{index}.credit", stage.credit, cure)
