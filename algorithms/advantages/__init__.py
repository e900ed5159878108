"""Advantages, level 2: how much better than its group each call did.

A file a method, each a function of the returns that credit gave the calls of a group's rollouts. Others
take one from ``ADVANTAGES``: a new method is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from al_ray.algorithms.advantages.group_relative import group_relative
from al_ray.algorithms.advantages.plain_return import plain_return

Advantage = Callable[[Sequence[Sequence[float]]], list[list[float]]]
"""From the returns of a group, ``returns[rollout][call]``, to advantages of the same shape."""

ADVANTAGES: Mapping[str, Callable[[Any], Advantage]] = {
    "group_relative": lambda stage: partial(group_relative, normalize_std=stage.normalize_std),
    "plain_return": lambda stage: plain_return,
}
"""By name, with what the stage that names one says of it."""
