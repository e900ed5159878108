"""What a return is measured from. Each takes the returns of one comparison, an array for each of the several
rollouts that have a part in it, and gives what is left of them, in the same shape.

A rollout counts once, by the mean of its calls, whatever their number. Equal returns give exactly zero:
the mean of equal floats can differ from them by a rounding, so all are first taken from one of them
(``taken_from``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from al_ray.types import REWARD_PLACES

Values = Sequence[np.ndarray]
"""float64 ``[calls]`` of each rollout."""
Baseline = Callable[[Values], Values]


def none(values: Values) -> Values:
    """REINFORCE (Williams, Machine Learning 8, 1992): nothing is taken away."""
    return values


def mean(values: Values) -> Values:
    """The mean of the rollouts, its own included (GRPO, arXiv 2402.03300, section 4.1.2)."""
    shifted, means = _shifted(values)
    return [of_rollout - means.mean() for of_rollout in shifted]


def leave_one_out(values: Values) -> Values:
    """The mean of the *other* rollouts (RLOO, arXiv 2402.14740, equation 8): unbiased, where the mean that
    counts oneself shrinks the gradient by ``(R - 1) / R``."""
    shifted, means = _shifted(values)
    others = (means.sum() - means) / (len(means) - 1)
    return [of_rollout - other for of_rollout, other in zip(shifted, others, strict=True)]


def _shifted(values: Values) -> tuple[Values, np.ndarray]:
    """All from one of them, and the mean of each rollout."""
    shifted = [taken_from(of_rollout, values[0][0]) for of_rollout in values]
    return shifted, np.array([of_rollout.mean() for of_rollout in shifted])


def taken_from(values: np.ndarray, one: float) -> np.ndarray:
    """Their differences from one of them. The same rewards in another order have a sum that differs by a
    rounding, 0.4 - 0.1 from 0.3, and an optimizer that divides a gradient by its size would make a step of
    it: what is below the last of ``REWARD_PLACES`` is no difference."""
    differences = values - one
    return np.where(np.abs(differences) < 10.0**-REWARD_PLACES, 0.0, differences)


BASELINES: Final[Mapping[str, Baseline]] = {"none": none, "mean": mean, "leave_one_out": leave_one_out}
"""By the recipe's name (``stages.baseline``)."""
