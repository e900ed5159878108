"""On-policy distillation: a teacher says what each token that the policy drew is worth.

The advantage of a token is ``log q - log p``, less its mean over the batch, q being the teacher's probability
of it and p the policy's. So in the mean the gradient is that of the divergence KL(policy || teacher) at that
token, later tokens aside (GKD, arXiv 2306.13649; MiniLLM, arXiv 2306.08543; as policy gradient with a
discount of 0: Lu et al., 2025, "On-Policy Distillation", Thinking Machines Lab).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from al_ray.types import Row


def taught(
    rows: Sequence[Row], teacher: Sequence[np.ndarray], reward_weight: float
) -> tuple[list[Row], float]:
    """The rows of a batch with what the teacher says beside ``reward_weight`` times their advantages, and the
    mean of ``log p - log q`` over all trained tokens, in nats: an unbiased estimate of KL(policy || teacher)
    a token.

    ``teacher`` has for each row the log-probability, float32 ``[T]``, that it gives each token after those
    before it; only those of trained tokens count that no grammar held, since the teacher knows of none. The
    mean is the baseline: without it nearly every token that was drawn would be pushed down, which is right on
    average and far noisier.
    """
    free = [row.trained if row.constrained is None else row.trained & ~row.constrained for row in rows]
    differences = [
        np.where(known, of_row - row.logprobs, 0.0)
        for known, row, of_row in zip(free, rows, teacher, strict=True)
    ]
    count = sum(int(known.sum()) for known in free)
    mean = sum(float(each.sum()) for each in differences) / max(count, 1)
    made = []
    for known, row, each in zip(free, rows, differences, strict=True):
        worth = np.where(known, each - mean, 0.0) + reward_weight * row.advantages
        made.append(replace(row, advantages=worth.astype(np.float32)))
    return made, -mean
