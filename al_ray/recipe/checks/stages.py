"""What must hold of a recipe's stages, each by its algorithm."""

from __future__ import annotations

from collections.abc import Iterator

from al_ray.errors import Problem
from al_ray.recipe import (
    OnPolicyDistillationStage,
    Recipe,
    ReinforcementStage,
    RejectionSamplingStage,
    SupervisedStage,
)
from al_ray.recipe.checks.functions import callable_with


def stages(recipe: Recipe) -> Iterator[Problem]:
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            yield from callable_with(f"stages.{index}.demonstrate", stage.demonstrate, ("task",))
        elif isinstance(stage, ReinforcementStage):
            yield from _reinforcement(f"stages.{index}", stage)
        elif isinstance(stage, RejectionSamplingStage):
            yield from _rejection_sampling(f"stages.{index}", stage)
        if stage.optimizer.warmup_steps >= stage.steps:
            cure = f"is less than the stage's steps, {stage.steps}"
            yield Problem(f"stages.{index}.optimizer.warmup_steps", stage.optimizer.warmup_steps, cure)


def _reinforcement(place: str, stage: ReinforcementStage) -> Iterator[Problem]:
    """What of the stage would have no effect, or cannot be had."""
    if ":" in stage.credit:
        yield from callable_with(f"{place}.credit", stage.credit, ("group",))
    if stage.credit in ("identical", "final") and stage.discount != 1:
        cure = f"has no effect on credit: {stage.credit}; set credit to reward_to_go, or leave it out"
        yield Problem(f"{place}.discount", stage.discount, cure)
    for field in _chosen(stage, "gae_lambda", "critic") if stage.credit != "gae" else ():
        cure = f"has no effect on credit: {stage.credit}; set credit to gae, or leave it out"
        yield Problem(f"{place}.{field}", getattr(stage, field), cure)
    for field in _chosen(stage, "kl_in", "reference_every") if stage.kl_coefficient == 0 else ():
        cure = "has no effect with kl_coefficient: 0; give it a weight, or leave it out"
        yield Problem(f"{place}.{field}", getattr(stage, field), cure)
    if not stage.reference_every and stage.reference_mix != 1:
        cure = "has no effect with reference_every: 0, where the reference stays; leave it out"
        yield Problem(f"{place}.reference_mix", stage.reference_mix, cure)
    if stage.mini_batches > stage.groups_per_step:
        cure = f"at most groups_per_step, {stage.groups_per_step}: groups stay whole"
        yield Problem(f"{place}.mini_batches", stage.mini_batches, cure)
    if stage.loss == "cispo" and stage.clip_dual is not None:
        cure = "has no effect on loss: cispo, which clips the weight of every token; leave it out"
        yield Problem(f"{place}.clip_dual", stage.clip_dual, cure)
    if stage.refills and stage.baseline == "none":
        cure = "has no effect with baseline: none, where every group has a signal; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)
    if stage.refills and stage.credit == "gae":
        cure = "has no effect with credit: gae, which compares no group; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)


def _chosen(stage: ReinforcementStage, *fields: str) -> list[str]:
    """Those that are not as they are by default."""
    defaults = type(stage).model_fields
    return [field for field in fields if getattr(stage, field) != defaults[field].default]


def _rejection_sampling(place: str, stage: RejectionSamplingStage) -> Iterator[Problem]:
    if stage.keep > stage.group_size:
        cure = f"is more than a group has: at most group_size, {stage.group_size}"
        yield Problem(f"{place}.keep", stage.keep, cure)
    if stage.group_size == 1 and stage.threshold is None:
        cure = "a number, or a larger group_size: without either, no rollout is better than another"
        yield Problem(f"{place}.threshold", None, cure)


def distillation(recipe: Recipe) -> Iterator[Problem]:
    """The teacher's server tells log-probabilities at temperature 1."""
    temperature = recipe.agent.sampling.temperature
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage, OnPolicyDistillationStage):
            continue
        if stage.teacher not in recipe.upstreams:
            there = ", ".join(recipe.upstreams) or "none"
            cure = f"is no hosted model; name one of upstreams, of which there are: {there}"
            yield Problem(f"stages.{index}.teacher", stage.teacher, cure)
        if stage.reward_weight > 0 and stage.group_size == 1:
            cure = "has no effect with group_size: 1, where nothing is better than the mean; set it to 0"
            yield Problem(f"stages.{index}.reward_weight", stage.reward_weight, cure)
        if stage.staleness:
            cure = "0: a token's worth is a difference from the policy that drew it, not an older one"
            yield Problem(f"stages.{index}.staleness", stage.staleness, cure)
        if temperature not in (None, 0, 1):
            cure = f"1: a teacher (stages.{index}) tells the log-probabilities of that temperature"
            yield Problem("agent.sampling.temperature", temperature, cure)


def adapter(recipe: Recipe) -> Iterator[Problem]:
    """What lies between two adapters of low rank is none."""
    if recipe.model.lora is None:
        return
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, ReinforcementStage) and stage.reference_mix != 1:
            cure = "1 with model.lora: a reference moves to an adapter, not part of the way"
            yield Problem(f"stages.{index}.reference_mix", stage.reference_mix, cure)
