"""Cross-entropy is what it is called."""

from __future__ import annotations

import torch

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.cross_entropy import CrossEntropy


def test_cross_entropy_is_the_negative_logprob() -> None:
    batch = MicroBatch(*(torch.empty(0),) * 12, 0)
    assert CrossEntropy()(torch.tensor([-2.0]), None, batch).values.tolist() == [2.0]
