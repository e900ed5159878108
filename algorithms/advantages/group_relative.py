"""Advantages, level 2: how much better than its group each rollout did.

A group is compared whole: rollouts that failed are left out by the caller, before. A rollout counts
once, whatever the number of its calls, and all its calls and tokens share its advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPSILON = 1e-6
"""Keeps the division defined; far below any difference of rewards that means something."""


def group_relative(returns: Sequence[Sequence[float]], normalize_std: bool) -> list[list[float]]:
    """``(r_ij - mean) / std`` for call j of rollout i, from the returns that credit gave the calls.

    Mean and deviation are over the rollouts of the group, each counted once by the mean of its calls,
    however many it made. Divided it is GRPO (arXiv 2402.03300, section 4.1.2, with the sample
    deviation), undivided it is Dr. GRPO (arXiv 2503.20783). Equal returns give exactly zero.
    """
    origin = returns[0][0]
    # The mean of equal floats can differ from them by a rounding; the mean of zeros cannot.
    calls = [np.asarray(values, np.float64) - origin for values in returns]
    rollouts = np.array([values.mean() for values in calls])
    baseline = rollouts.mean()
    scale = rollouts.std(ddof=1) + EPSILON if normalize_std and len(rollouts) > 1 else 1.0
    return [[float(value) for value in (values - baseline) / scale] for values in calls]
