"""Token rows: the calls of rollouts, linked into prefix forests, as the learner trains on them.

A call whose prompt begins with everything that an earlier call saw and said, token for token,
continues that call's branch. Any other call opens a new branch, in which what it inherited is
context only. So every sampled token is trained once, in exactly one row; those of agents that are not
trained are context wherever they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from al_ray.types import Row, Trajectory, Transition

Aggregate = Literal["rollout_mean", "token_mean"]


@dataclass(slots=True)
class _Branch:
    """A row in the making: one entry a token in each array."""

    tokens: np.ndarray
    trained: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray

    @classmethod
    def empty(cls) -> _Branch:
        return cls(np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32), np.empty(0, np.float32))

    def begins(self, prompt: np.ndarray) -> bool:
        return len(self.tokens) <= len(prompt) and bool((prompt[: len(self.tokens)] == self.tokens).all())

    def append(self, call: Transition, prompt: np.ndarray, advantage: float) -> None:
        context = prompt[len(self.tokens) :]
        response = np.asarray(call.response_ids, np.int64)
        # Nobody sampled a demonstration, so it has no log-probabilities.
        sampled = np.asarray(call.logprobs or np.zeros(len(response)), np.float32)
        if len(prompt) == 0 or len(sampled) != len(response):
            raise ValueError(
                f"call {call.id} has {len(prompt)} prompt tokens, {len(response)} response tokens and "
                f"{len(sampled)} logprobs: it needs a prompt, and one logprob per response token"
            )
        zeros = np.zeros(len(context), np.float32)
        trained = np.full(len(response), call.trained)
        self.tokens = np.concatenate([self.tokens, context, response])
        self.trained = np.concatenate([self.trained, zeros > 0, trained])
        self.logprobs = np.concatenate([self.logprobs, zeros, sampled * trained])
        spread = np.float32(advantage) * trained
        self.advantages = np.concatenate([self.advantages, zeros, spread])


def _branches(trajectory: Trajectory, advantages: Sequence[float]) -> list[_Branch]:
    branches: list[_Branch] = []
    for call, advantage in zip(trajectory.transitions, advantages, strict=True):
        prompt = np.asarray(call.prompt_ids, np.int64)
        continued = [branch for branch in branches if branch.begins(prompt)]
        if continued:
            branch = max(continued, key=lambda branch: len(branch.tokens))
        else:
            branch = _Branch.empty()
            branches.append(branch)
        branch.append(call, prompt, advantage)
    return [branch for branch in branches if branch.trained.any()]


def build_rows(
    trajectories: Sequence[Trajectory], advantages: Sequence[Sequence[float]], aggregate: Aggregate
) -> list[Row]:
    """The rows of one optimizer step; ``advantages`` has one number per call of each trajectory.

    Weights sum to 1 over the rows returned. ``rollout_mean``: every rollout weighs the same, and so
    does every trained token within a rollout. ``token_mean``: every trained token weighs the same.
    """
    forests = [
        (trajectory, _branches(trajectory, values))
        for trajectory, values in zip(trajectories, advantages, strict=True)
    ]
    trained = Counter[str]()
    for trajectory, branches in forests:
        trained[trajectory.rollout_id] += sum(int(branch.trained.sum()) for branch in branches)
    trained = +trained  # a rollout without a sampled token takes no share
    rows = []
    for trajectory, branches in forests:
        own = trained[trajectory.rollout_id]
        share = trained.total() if aggregate == "token_mean" else len(trained) * own
        for branch in branches:
            weights = branch.trained.astype(np.float32) / np.float32(share)
            rows.append(
                Row(
                    rollout_id=trajectory.rollout_id,
                    group=trajectory.group,
                    tokens=branch.tokens,
                    trained=branch.trained,
                    logprobs=branch.logprobs,
                    advantages=branch.advantages,
                    weights=weights,
                )
            )
    return rows
