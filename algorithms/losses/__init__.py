"""What each trained token costs.

A file a method, each a ``token.Loss``; what they share is in ``token``. Others take one from ``LOSSES``:
a new method is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from al_ray.algorithms.losses.clipped import ClippedPolicyGradient
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.losses.token import Loss

LOSSES: Mapping[str, Callable[[Any, float], Loss]] = {
    "clipped": lambda stage, temperature: ClippedPolicyGradient(
        stage.clip_low, stage.clip_high, stage.kl_coefficient, temperature
    ),
    "cross_entropy": lambda stage, temperature: CrossEntropy(temperature),
}
"""By name, with what the stage that names one says of it, for tokens drawn at a temperature."""
