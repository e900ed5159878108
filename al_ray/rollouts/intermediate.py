"""Automatic intermediate rewarding (AIR; Agent Lightning, arXiv 2508.03680): what the signals of a
rollout's calls are worth, by the recipe's table. Pure functions of transitions.

Only trained calls earn: what another agent does wrong is none of the policy's doing. The sum over the
first so many calls of a rollout, whichever number, never leaves ``intermediate_limit`` either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from al_ray.recipe import TransitionsSection
from al_ray.types import REWARD_PLACES, Transition


def intermediate_rewards(transitions: Sequence[Transition], settings: TransitionsSection) -> Sequence[float]:
    """One for each transition, all zero where the table is empty."""
    limit = settings.intermediate_limit
    sums = [max(-limit, min(total, limit)) for total in _totals(transitions, settings)]
    return [round(after - before, REWARD_PLACES) for before, after in pairwise(sums)]


def is_limited(transitions: Sequence[Transition], settings: TransitionsSection) -> bool:
    """Whether the limit cut what one of them was worth, and be it made good by later ones."""
    return any(abs(total) > settings.intermediate_limit for total in _totals(transitions, settings))


def _totals(transitions: Sequence[Transition], settings: TransitionsSection) -> Sequence[float]:
    """What the first none, one, two and so on of them are worth together, before the limit."""
    worth = [sum(by_signal(transition, settings.intermediate).values()) for transition in transitions]
    return [round(total, REWARD_PLACES) for total in accumulate(worth, initial=0.0)]


def by_signal(transition: Transition, table: Mapping[str, float]) -> Mapping[str, float]:
    """What the transition's signals are worth, each, before the limit; nothing for an untrained call."""
    trained = transition.trained
    return {name: worth * getattr(transition.signals, name) * trained for name, worth in table.items()}
