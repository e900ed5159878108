"""Generalised advantage estimation over the calls of an episode, from a critic's values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from al_ray.types import Trajectory


def gae(trajectory: Trajectory, discount: float, decay: float) -> Sequence[float | None]:
    """``A_j = d_j + (discount * decay) A_{j+1}`` with ``d_j = r_j + discount * V_{j+1} - V_j`` (GAE, arXiv
    1506.02438, equations 11 to 16), a step being a trained call; after the last one ``V`` is 0.

    Calls that are not trained have no value. They are what happens between two steps, as in a semi-Markov
    process: what they earn counts for the call before them, and each discounts once more what comes after
    it. What was earned before the first trained call is nobody's doing. The choices of one call share its
    value: each receives the advantage of their call, less what the other choices earned.
    """
    found: list[float | None] = []
    between, factor = 0.0, 1.0
    """Earned by the calls up to the next step, discounted to the first of them; the discount over them."""
    next_value = next_advantage = 0.0
    for _, same in groupby(reversed(trajectory.transitions), key=lambda t: t.of_call):
        choices = list(same)
        earned = choices[0].call_reward + sum(t.reward for t in choices)
        if not choices[0].trained:
            found += [None] * len(choices)
            between, factor = earned + discount * between, factor * discount
            continue
        value = choices[0].value
        surprise = earned + discount * (between + factor * next_value) - value
        advantage = surprise + discount * factor * decay * next_advantage
        found += [advantage - sum(t.reward for t in choices) + choice.reward for choice in choices]
        between, factor, next_value, next_advantage = 0.0, 1.0, value, advantage
    return found[::-1]


def targets(trajectory: Trajectory, discount: float, decay: float) -> Sequence[float | None]:
    """What a critic learns to expect of each call: its value and its call's advantage, the lambda-return
    (Sutton and Barto, 2018, section 12.1)."""
    advantages = gae(trajectory, discount, decay)
    found: list[float | None] = []
    for _, same in groupby(zip(trajectory.transitions, advantages, strict=True), key=lambda p: p[0].of_call):
        choices = list(same)
        others = sum(t.reward for t, _ in choices)
        found += [
            None if advantage is None else t.value + advantage - t.reward + others for t, advantage in choices
        ]
    return found
