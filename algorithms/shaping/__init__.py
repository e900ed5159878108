"""Shaping: what is added to rewards before any credit is given, a file a method.

Each makes of a trajectory another one. What is reported of rollouts is their reward as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from al_ray.types import Trajectory

Shaping = Callable[[Trajectory], Trajectory]
