"""Reward to go: each call receives what is still to come."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Trajectory


def reward_to_go(trajectory: Trajectory, discount: float = 1.0) -> Sequence[float]:
    """Each call receives what it and the calls after it earned, ``G_j = r_j + discount * G_{j+1}``
    (Sutton and Barto, Reinforcement Learning, 2018, equation 3.9).

    The last call bears the terminal reward, so undiscounted and without other rewards this is
    ``identical``. What came before the first call is nobody's doing, and left out.
    """
    returns: list[float] = []
    ahead = 0.0
    for transition in reversed(trajectory.transitions):
        ahead = transition.reward + discount * ahead
        returns.append(ahead)
    return returns[::-1]
