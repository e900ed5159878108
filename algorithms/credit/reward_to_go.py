"""Credit assignment, level 1: from the rewards of an episode to the return of each of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from al_ray.protocols import Credit
from al_ray.recipe import GrpoStage
from al_ray.types import Trajectory


def credit_of(stage: GrpoStage) -> Credit:
    """The credit that the recipe names."""
    return partial(reward_to_go, discount=stage.discount) if stage.credit == "reward_to_go" else identical


def identical(trajectory: Trajectory) -> Sequence[float]:
    """Every call receives the return of the whole episode (Agent Lightning, arXiv 2508.03680)."""
    return [trajectory.reward] * len(trajectory.transitions)


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
