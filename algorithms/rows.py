"""Token rows: the calls of rollouts, linked into prefix forests, as the learner trains on them.

A call whose prompt begins with everything that an earlier call saw and said, token for token,
continues that call's branch. Any other call opens a new branch, in which what it inherited is
context only. So every sampled token is trained once, in exactly one row; those of agents that are not
trained are context wherever they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from al_ray.types import Row, Trajectory, Transition

NO_CALL: Final = -1
"""In ``Row.calls``, of tokens that are not trained."""

Aggregate = Literal["rollout_mean", "call_mean", "token_mean", "constant", "group_mean"]


@dataclass(slots=True)
class _Branch:
    """A row in the making: one entry a token in each array."""

    tokens: np.ndarray
    trained: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    calls: np.ndarray
    constrained: np.ndarray
    policy: str = ""
    """Whose the trained tokens are."""

    @classmethod
    def empty(cls) -> _Branch:
        integers, numbers, flags = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, bool)
        return cls(integers, flags, numbers, numbers, integers, flags)

    def begins(self, prompt: np.ndarray) -> bool:
        return len(self.tokens) <= len(prompt) and bool((prompt[: len(self.tokens)] == self.tokens).all())

    def append(self, call: Transition, number: int, prompt: np.ndarray, advantage: float) -> None:
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
        if call.trained:
            self.policy = call.policy
        self.tokens = np.concatenate([self.tokens, context, response])
        self.trained = np.concatenate([self.trained, zeros > 0, trained])
        self.logprobs = np.concatenate([self.logprobs, zeros, sampled * trained])
        spread = np.float32(advantage) * trained
        self.advantages = np.concatenate([self.advantages, zeros, spread])
        numbers = np.where(trained, number, NO_CALL)
        self.calls = np.concatenate([self.calls, np.full(len(context), NO_CALL), numbers])
        self.constrained = np.concatenate([self.constrained, zeros > 0, trained & call.constrained])


def _branches(trajectory: Trajectory, advantages: Sequence[float]) -> list[_Branch]:
    branches: list[_Branch] = []
    for number, (call, advantage) in enumerate(zip(trajectory.transitions, advantages, strict=True)):
        prompt = np.asarray(call.prompt_ids, np.int64)
        continued = [branch for branch in branches if branch.begins(prompt)]
        if continued:
            branch = max(continued, key=lambda branch: len(branch.tokens))
        else:
            branch = _Branch.empty()
            branches.append(branch)
        branch.append(call, number, prompt, advantage)
    return [branch for branch in branches if branch.trained.any()]


def build_rows(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[Sequence[float]],
    aggregate: Aggregate,
    constant: int = 0,
) -> list[Row]:
    """The rows of one optimizer step; ``advantages`` has one number per call of each trajectory. Its trained
    calls are one policy's.

    ``rollout_mean``: every rollout weighs the same, and so does every trained token within a rollout.
    ``call_mean``: so does every call within a rollout, and every token within a call. ``token_mean``: every
    trained token weighs the same. ``group_mean``: so does every group, every rollout within a group, and
    every token within a rollout. Weights then sum to 1. ``constant``: every token weighs
    ``1 / (rollouts * constant)``, whatever the lengths are (Dr. GRPO, arXiv 2503.20783, section 3.1).
    """
    forests = [
        (trajectory, _branches(trajectory, values))
        for trajectory, values in zip(trajectories, advantages, strict=True)
    ]
    counts = _Counts.of(forests)
    return [
        Row(
            rollout_id=trajectory.rollout_id,
            group=trajectory.group,
            tokens=branch.tokens,
            trained=branch.trained,
            logprobs=branch.logprobs,
            advantages=branch.advantages,
            weights=(branch.trained / counts.shares(aggregate, constant, trajectory, branch)).astype(
                np.float32
            ),
            calls=branch.calls,
            constrained=branch.constrained if branch.constrained.any() else None,
            policy=branch.policy,
        )
        for trajectory, branches in forests
        for branch in branches
    ]


@dataclass(frozen=True, slots=True)
class _Counts:
    """Trained tokens by rollout, and by rollout and call; a rollout without any takes no share."""

    rollouts: Mapping[str, int]
    calls: Mapping[str, Mapping[int, int]]
    groups: Mapping[str, int]
    """Rollouts by group."""

    @classmethod
    def of(cls, forests: Sequence[tuple[Trajectory, Sequence[_Branch]]]) -> _Counts:
        calls: dict[str, Counter[int]] = {}
        groups = Counter(trajectory.group for trajectory, branches in forests if branches)
        for trajectory, branches in forests:
            for branch in branches:
                calls.setdefault(trajectory.rollout_id, Counter()).update(
                    branch.calls[branch.trained].tolist()
                )
        return cls({rollout: of.total() for rollout, of in calls.items()}, calls, groups)

    def shares(
        self, aggregate: Aggregate, constant: int, trajectory: Trajectory, branch: _Branch
    ) -> np.ndarray:
        """What each token's weight is one over, ``[T]``; 1 where nothing is trained."""
        rollouts, rollout = len(self.rollouts), trajectory.rollout_id
        match aggregate:
            case "rollout_mean":
                share = rollouts * self.rollouts[rollout]
            case "token_mean":
                share = sum(self.rollouts.values())
            case "constant":
                share = rollouts * constant
            case "group_mean":
                share = len(self.groups) * self.groups[trajectory.group] * self.rollouts[rollout]
            case "call_mean":
                own = self.calls[rollout]
                of_token = [own.get(call, 1) for call in branch.calls.tolist()]
                return np.asarray(of_token, np.float64) * (rollouts * len(own))
        return np.full(len(branch.tokens), share, np.float64)
