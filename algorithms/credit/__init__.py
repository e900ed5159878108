"""Credit assignment, level 1: from the rewards of an episode to the returns of its calls.

A file a method; ``layer`` says what credit is. Others take one by ``credit_of``: a new method is a file, a
line here, and its name in the recipe; or a user's own function (``al_ray.protocols.Credit``) by its dotted
path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from al_ray.algorithms.credit.final import final
from al_ray.algorithms.credit.gae import gae
from al_ray.algorithms.credit.group_in_group import group_in_group
from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.layer import Credit, Layer, of_each
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.errors import Problem, UserError, in_a_line
from al_ray.recipe import ReinforcementStage, dotted
from al_ray.types import Trajectory

__all__ = ["CREDITS", "Credit", "credit_of"]

CREDITS: Mapping[str, Callable[[ReinforcementStage], Credit]] = {
    "identical": lambda stage: of_each(identical),
    "final": lambda stage: of_each(final),
    "reward_to_go": lambda stage: of_each(partial(reward_to_go, discount=stage.discount)),
    "group_in_group": lambda stage: partial(
        group_in_group, discount=stage.discount, weight=stage.anchor_weight
    ),
    "gae": lambda stage: of_each(partial(gae, discount=stage.discount, decay=stage.gae_lambda)),
}
"""By the recipe's name (``stages.credit``), with what the stage that names one says of it."""


def credit_of(stage: ReinforcementStage) -> Credit:
    """What the stage names. Raises ``RecipeError`` for a function that is not there."""
    if stage.credit in CREDITS:
        return CREDITS[stage.credit](stage)
    return _own(dotted.load(stage.credit, "stages.credit"), stage.credit)


def _own(function: Any, name: str) -> Credit:
    def credit(group: Sequence[Trajectory]) -> Sequence[Layer]:
        given = function(group)
        try:
            returns = [[_number(value) for value in of_rollout] for of_rollout in given]
        except (TypeError, ValueError) as error:
            cure = "must give for each rollout a list, and in it for each transition a finite number or None"
            raise UserError(Problem("stages.credit", name, f"{cure}: {in_a_line(error)}")) from error
        asked, got = [len(each.transitions) for each in group], [len(given) for given in returns]
        if asked != got:
            cure = f"gave {got} returns for rollouts of {asked} calls: give one for each transition"
            raise UserError(Problem("stages.credit", name, cure))
        return [Layer(returns)]

    return credit


def _number(value: Any) -> float | None:
    """One that is not finite would make those of its whole group so."""
    if value is None:
        return None
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{value!r} is none")
    return float(value)
