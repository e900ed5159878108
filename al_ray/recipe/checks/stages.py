"""What must hold of a recipe's stages, each by its algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

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


_IDLE: Final[Sequence[tuple[tuple[str, ...], Callable[[ReinforcementStage], bool], str]]] = (
    (
        ("discount",),
        lambda stage: (
            stage.credit in ("identical", "final") or (":" in stage.credit and stage.intermediate == "added")
        ),
        "on credit: {0.credit}; set credit to reward_to_go, or leave it out",
    ),
    (
        ("gae_lambda", "critic"),
        lambda stage: stage.credit != "gae",
        "on credit: {0.credit}; set credit to gae, or leave it out",
    ),
    (
        ("anchor_weight",),
        lambda stage: stage.credit != "group_in_group",
        "on credit: {0.credit}; set credit to group_in_group, or leave it out",
    ),
    (
        ("kl_in", "kl_estimator", "reference_every"),
        lambda stage: stage.kl_coefficient == 0,
        "with kl_coefficient: 0; give it a weight, or leave it out",
    ),
    (
        ("reference_mix",),
        lambda stage: not stage.reference_every,
        "with reference_every: 0, where the reference stays; leave it out",
    ),
    (
        ("correction_cap", "correction_bound"),
        lambda stage: stage.correction == "none",
        "with correction: none; choose one, or leave it out",
    ),
    (
        ("constant_tokens",),
        lambda stage: stage.aggregate != "constant",
        "with aggregate: {0.aggregate}; set aggregate to constant, or leave it out",
    ),
    (
        ("clip_dual",),
        lambda stage: stage.loss == "cispo",
        "on loss: cispo, which clips the weight of every token; leave it out",
    ),
    (
        ("clip_low", "clip_high", "clip_dual"),
        lambda stage: stage.correction != "none" and stage.epochs == stage.mini_batches == 1,
        "with correction: {0.correction} and one optimizer step, whose ratios are all 1: correction_cap "
        "bounds what tokens count; leave it out, or set epochs or mini_batches above 1",
    ),
    (
        ("compare",),
        lambda stage: stage.baseline == "none",
        "with baseline: none, by which nothing is compared; leave it out, or set a baseline",
    ),
    (
        ("reference_every",),
        lambda stage: stage.kl_coefficient > 0 and stage.reference_every >= stage.steps,
        "in {0.steps} steps: set it to less, or leave it out",
    ),
)
"""Fields that do nothing, where they do not, and the rest of what is told then."""


def _reinforcement(place: str, stage: ReinforcementStage) -> Iterator[Problem]:
    """What of the stage would have no effect, or cannot be had."""
    if ":" in stage.credit:
        yield from callable_with(f"{place}.credit", stage.credit, ("group",))
    for fields, is_idle, cure in _IDLE:
        for field in fields if is_idle(stage) else ():
            if not stage.would_be(field):
                yield Problem(
                    f"{place}.{field}", getattr(stage, field), f"has no effect {cure.format(stage)}"
                )
    if stage.scale == "group" and stage.kl_in == "reward" and stage.kl_coefficient > 0:
        cure = (
            "loss, or set scale to none or batch: in a group of equal rewards scale: group divides what the "
            "divergence takes by its own deviation, whatever kl_coefficient is"
        )
        yield Problem(f"{place}.kl_in", stage.kl_in, cure)
    if stage.scale == "group" and stage.baseline == "none":
        cure = "none or batch, or set a baseline: a deviation is one from a baseline, and there is none"
        yield Problem(f"{place}.scale", stage.scale, cure)
    if stage.mini_batches > stage.groups_per_step:
        cure = f"at most groups_per_step, {stage.groups_per_step}: groups stay whole"
        yield Problem(f"{place}.mini_batches", stage.mini_batches, cure)
    if stage.refills and stage.baseline == "none":
        cure = "has no effect with baseline: none, where every group has a signal; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)
    if stage.refills and stage.credit == "gae":
        cure = "has no effect with credit: gae, which compares no group; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)


def shaping(recipe: Recipe) -> Iterator[Problem]:
    """A potential is made of intermediate rewards."""
    for index, stage in enumerate(recipe.stages):
        if (
            isinstance(stage, ReinforcementStage)
            and stage.intermediate == "potential"
            and not recipe.transitions.intermediate
        ):
            cure = (
                "has no effect without transitions.intermediate; give signals a worth there, or leave it out"
            )
            yield Problem(f"stages.{index}.intermediate", stage.intermediate, cure)


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
