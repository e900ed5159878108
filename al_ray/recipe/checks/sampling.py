"""What must hold of the distribution that tokens are drawn from, which the learner computes too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from al_ray.errors import Problem
from al_ray.recipe import GroupedStage, Recipe, ReinforcementStage, RejectionSamplingStage
from al_ray.recipe.policies import may_share_a_name, policy_of

_LEAST_TEMPERATURE: Final = 0.01
"""vLLM's, above greedy sampling."""


def lengths(recipe: Recipe) -> Iterator[Problem]:
    longest = recipe.model.max_length
    for where, sampling in (("agent", recipe.agent.sampling), ("evaluation", recipe.evaluation.sampling)):
        if sampling.max_tokens >= longest:
            cure = f"leaves no room for a prompt: model.max_length is {longest}"
            yield Problem(f"{where}.sampling.max_tokens", sampling.max_tokens, cure)


def exploration(recipe: Recipe) -> Iterator[Problem]:
    sampling = recipe.agent.sampling
    learning = [stage for stage in recipe.stages if isinstance(stage, GroupedStage)]
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, ReinforcementStage) and stage.overlong_tokens > sampling.max_tokens:
            cure = f"at most agent.sampling.max_tokens, {sampling.max_tokens}"
            yield Problem(f"stages.{index}.overlong_tokens", stage.overlong_tokens, cure)
    if learning and sampling.temperature == 0:
        cure = "above 0, or the rollouts of a group are all alike and nothing is learnt"
        yield Problem("agent.sampling.temperature", 0, cure)
    if learning and 0 < (sampling.temperature or 0) < _LEAST_TEMPERATURE:
        raised = f"at least {_LEAST_TEMPERATURE}, to which engines raise it"
        cure = f"{raised}: the learner would compute with another"
        yield Problem("agent.sampling.temperature", sampling.temperature, cure)
    if learning and sampling.temperature is None:
        cure = "a number: the learner must know the distribution that tokens are drawn from"
        yield Problem("agent.sampling.temperature", None, cure)
    if any(not isinstance(stage, RejectionSamplingStage) for stage in learning) and sampling.top_p != 1:
        cure = "1: the learner computes the whole distribution, and tokens would be drawn from a part of it"
        yield Problem("agent.sampling.top_p", sampling.top_p, cure)


def trained_alike(recipe: Recipe) -> Iterator[Problem]:
    """The learner computes with one temperature, and a stage counts how long responses may be from one
    number."""
    if not any(isinstance(stage, GroupedStage) for stage in recipe.stages):
        return
    sampling = recipe.agent.sampling
    alike = dict.fromkeys(("temperature", "top_p"), "with which the learner computes")
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, ReinforcementStage) and stage.overlong_tokens:
            alike["max_tokens"] = f"below which stages.{index}.overlong_tokens cost"
    for pattern, own in sampling.agents.items():
        if not any(may_share_a_name(pattern, trained) for trained in recipe.transitions.train):
            continue
        answers = policy_of(recipe.policies, pattern)  # who is named by a pattern may be anybody's
        if answers and recipe.policies[answers].frozen and not set("*?[") & set(pattern):
            continue
        for field, use in alike.items():
            if field in own.model_fields_set and getattr(own, field) != getattr(sampling, field):
                cure = (
                    f"{getattr(sampling, field)}, as agent.sampling.{field}, {use}, "
                    "for transitions.train may name such an agent; or name there who is trained"
                )
                yield Problem(f"agent.sampling.agents.{pattern}.{field}", getattr(own, field), cure)
