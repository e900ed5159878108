"""Reward to go: each call receives what is still to come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from al_ray.types import Trajectory


def reward_to_go(trajectory: Trajectory, discount: float = 1.0) -> Sequence[float]:
    """Each call receives what it and the calls after it earned, ``G_j = r_j + discount * G_{j+1}``
    (Sutton and Barto, Reinforcement Learning, 2018, equation 3.9).

    The choices of one call (``n > 1``) are parallel: each receives its own reward and what their call earned
    as a whole, and to the calls before them counts what all of them earned. The last call bears the
    terminal reward, so undiscounted and without other rewards this is ``identical``. What came before
    the first call is nobody's doing, and left out.
    """
    returns: list[float] = []
    ahead = 0.0
    for _, same in groupby(reversed(trajectory.transitions), key=lambda t: t.of_call):
        choices = list(same)
        shared = choices[0].call_reward + discount * ahead
        returns += [choice.reward + shared for choice in choices]
        ahead = sum(choice.reward for choice in choices) + shared
    return returns[::-1]
