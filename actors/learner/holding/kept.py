"""The reference: what is trained, as it was once. It is no second model: whenever it is asked, its values
and the policy's change places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from al_ray.actors.learner.holding.held import Held
from al_ray.actors.learner.spec import Reference


class Kept:
    """Begins as the weights are now."""

    def __init__(self, held: Held, spec: Reference) -> None:
        self._held = held
        self._spec = spec
        self._values = held.values()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model computes as the reference, without gradients."""
        self._held.exchange(self._values)
        try:
            with torch.no_grad():
                yield
        finally:
            self._held.exchange(self._values)

    @torch.no_grad()
    def move(self, updates: int) -> None:
        """Towards the weights as they are, if that is due after so many updates of the stage (TR-DPO, arXiv
        2404.09656, with hard and soft updates)."""
        if self._spec.every and updates % self._spec.every == 0:
            for kept, moved in zip(self._values, self._held.values(), strict=True):
                kept.lerp_(moved, self._spec.mix)

    def state(self) -> list[Tensor]:
        """For a checkpoint; asked on all ranks."""
        return [self._held.whole(value) for value in self._values]

    def load(self, state: Sequence[Tensor]) -> None:
        trained = [parameter for _, parameter in self._held.trained()]
        self._values = [self._held.part(v, p) for v, p in zip(state, trained, strict=True)]
