"""What each way of assigning credit says of the calls that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from al_ray.algorithms.advantages import COMPARE
from al_ray.algorithms.credit import CREDITS
from al_ray.algorithms.named import algorithm
from al_ray.recipe import ReinforcementStage, SamplingSection
from al_ray.types import Trajectory

Way = tuple[str, str]
"""A credit and what it is compared by: the recipe's ``credit`` and ``compare``."""
Said = Mapping[tuple[str, str], float]
"""The advantage of each call, by rollout and call; of one with several choices, their mean."""

_OF_LEARNERS: Final = "gae"
"""Its critic is the learners', and nothing records what it expected."""


def own_way(stage: ReinforcementStage) -> Way:
    """The stage's; of one that has a critic, the one that looks at the episode's return alone."""
    return "identical" if stage.credit == _OF_LEARNERS else stage.credit, stage.compare


def said(
    stage: ReinforcementStage, sampling: SamplingSection, groups: Sequence[Sequence[Trajectory]]
) -> Mapping[Way, Said]:
    """By each credit that there is, and the stage's own, each compared in every way; baseline and scale are
    the stage's. ``groups`` are those that an update learns from."""
    return {
        (credit, compare): _advantages(
            stage.model_copy(update={"credit": credit, "compare": compare}), sampling, groups
        )
        for credit in dict.fromkeys((*CREDITS, stage.credit))
        if credit != _OF_LEARNERS
        for compare in COMPARE
    }


def _advantages(
    stage: ReinforcementStage, sampling: SamplingSection, groups: Sequence[Sequence[Trajectory]]
) -> Said:
    choices: dict[tuple[str, str], list[float]] = {}
    for group, of_group in zip(groups, algorithm(stage, sampling).advantages(groups), strict=True):
        for episode, given in zip(group, of_group, strict=True):
            for transition, advantage in zip(episode.transitions, given, strict=True):
                place = episode.rollout_id, transition.of_call
                choices.setdefault(place, []).append(advantage)
    return {place: fmean(given) for place, given in choices.items()}
