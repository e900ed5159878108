"""In which unit an advantage is measured.

A deviation is over the very numbers that it divides. What is far below any difference of rewards that
means something keeps the division defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from al_ray.algorithms.advantages.baselines import Values, taken_from

Scale = Literal["none", "group", "batch"]
SCALES: Final[Sequence[Scale]] = ("none", "group", "batch")
"""The recipe's names (``stages.scale``): the unit of the rewards, the deviation within each comparison, the
deviation within the whole batch."""
EPSILON: Final = 1e-6


def of_group(deviations: Values) -> float:
    """The sample deviation of one comparison's numbers, each rollout counted once:
    ``sum_i mean_j d_ij^2 / (R - 1)``, squared. Of one number a rollout it is that of GRPO (arXiv
    2402.03300, section 4.1.2). One rollout alone has the unit of its rewards."""
    if len(deviations) < 2:
        return 1.0
    squares = sum(float(np.square(of_rollout).mean()) for of_rollout in deviations)
    return float(np.sqrt(squares / (len(deviations) - 1))) + EPSILON


def of_batch(advantages: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """All advantages of a batch, ``[calls]``, less their mean and by their deviation, where a call counts as
    often as it has tokens (REINFORCE++, arXiv 2501.03262, equation 8)."""
    if not advantages.size:
        return advantages
    shifted = taken_from(advantages, advantages[0])
    centred = shifted - np.average(shifted, weights=tokens)
    return np.asarray(centred / (np.sqrt(np.average(np.square(centred), weights=tokens)) + EPSILON))
