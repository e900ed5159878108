"""What each trained token costs.

``token`` says what a loss is. ``policy_gradient`` is that of reinforcement, made of a surrogate (``clipped``,
``gspo``, ``cispo``), ``kl`` and ``correction``; ``cross_entropy`` that of imitation. A new surrogate is a
file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from al_ray.algorithms.losses.cispo import Cispo
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.correction import Correction
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.losses.gspo import Gspo
from al_ray.algorithms.losses.policy_gradient import PolicyGradient, Surrogate
from al_ray.recipe import ReinforcementStage

__all__ = ["SURROGATES", "Correction", "CrossEntropy", "PolicyGradient"]

SURROGATES: Mapping[str, Callable[[ReinforcementStage], Surrogate]] = {
    "clipped": lambda stage: Clipped(stage.clip_low, stage.clip_high, stage.clip_dual),
    "gspo": lambda stage: Gspo(stage.clip_low, stage.clip_high, stage.clip_dual),
    "cispo": lambda stage: Cispo(stage.clip_low, stage.clip_high),
}
"""By the recipe's name (``stages.loss``), with what the stage that names one says of it."""
