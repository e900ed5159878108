"""The critic: what a policy may expect to earn from a call on, by what the model makes of its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from al_ray.recipe import CriticSection

_HIDDEN: Final = 64


class Critic:
    """A small network over a hidden state of the model, which it does not move.

    The model that acts reads a prompt well; what is left to learn is which of what it reads foretells
    rewards. So the critic has no trunk of its own, costs no memory to speak of, and learns from some dozen
    calls a step. It expects 0 of everything until it has learnt.
    """

    def __init__(self, width: int, section: CriticSection) -> None:
        self._section = section
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            last = nn.Linear(_HIDDEN, 1)
            self._network = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, _HIDDEN), nn.Tanh(), last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=section.learning_rate)

    @torch.no_grad()
    def values(self, features: np.ndarray) -> np.ndarray:
        """``[calls]``, from ``[calls, width]``."""
        found: np.ndarray = self._network(torch.from_numpy(features))[:, 0].numpy()
        return found

    def fit(self, features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The section's steps towards ``targets``, ``[calls]``, by all calls at once. The metrics are of the
        values before."""
        inputs, wanted = torch.from_numpy(features), torch.from_numpy(targets.astype(np.float32))
        left = wanted - torch.from_numpy(self.values(features))
        for _ in range(self._section.steps):
            self._optimizer.zero_grad()
            nn.functional.mse_loss(self._network(inputs)[:, 0], wanted).backward()
            self._optimizer.step()
        variance = float(wanted.var(correction=0))
        explained = 1 - float(left.var(correction=0)) / variance if variance else 0.0
        return {"critic/loss": float(left.square().mean()), "critic/explained_variance": explained}

    def state(self) -> dict[str, Any]:
        return {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
