"""Credit assignment, level 1: from the rewards of an episode to the return of each of its calls.

A file a method, each a function of a trajectory (``al_ray.protocols.Credit``). Others take one from
``CREDITS``: a new method is a file, a line here, and its name in the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.protocols import Credit

CREDITS: Mapping[str, Callable[[Any], Credit]] = {
    "identical": lambda stage: identical,
    "reward_to_go": lambda stage: partial(reward_to_go, discount=stage.discount),
}
"""By the recipe's name (``stages.credit``), with what the stage that names one says of it."""
