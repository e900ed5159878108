"""Advantages, level 2: how much better than its group each rollout did.

A group is compared whole: rollouts that failed are left out by the caller, before. In the comparison
a rollout counts once, whatever the number of its calls; every token shares its call's advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPSILON = 1e-6
"""Keeps the division defined; far below any difference of rewards that means something."""


def group_relative(returns: Sequence[Sequence[float]], normalize_std: bool) -> list[list[float]]:
    """``r_i - mean(r)``, divided by ``std(r)`` if asked for: one number per call.

    ``returns`` has one number per call of each rollout, at least one; mean and deviation are over the
    rollouts' means. Divided it is GRPO (arXiv 2402.03300, section 4.1.2, with the sample deviation),
    undivided it is Dr. GRPO (arXiv 2503.20783). Equal returns give exactly zero.
    """
    # The mean of equal floats can differ from them by a rounding; the mean of zeros cannot.
    origin = returns[0][0]
    calls = [np.asarray(values, np.float64) - origin for values in returns]
    rollouts = np.array([values.mean() for values in calls])
    scale = rollouts.std(ddof=1) + EPSILON if normalize_std and len(rollouts) > 1 else 1.0
    return [((values - rollouts.mean()) / scale).tolist() for values in calls]
