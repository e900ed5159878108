"""A rollout as steps of numbers, for learners that know nothing of language: what is known before each
trained call, what the call did, what it earned.

Pure functions of a trajectory. No number is of the text: of two calls that differ by it alone, the steps are
equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from itertools import groupby
from math import fsum, log1p
from typing import Final

import numpy as np

from al_ray.types import Signals, Trajectory, Transition

_COUNTED: Final = tuple(field.name for field in fields(Signals))
COLUMNS: Final = ("calls", "log_prompt_tokens", "log_response_tokens", "mean_logprob", *_COUNTED)
"""Of an observation. ``calls``: before this one. ``log_prompt_tokens``: of this one, as ``ln(1 + n)``; after
the last call, of its prompt and response together. ``log_response_tokens``, ``mean_logprob``: of the call
before, 0 for the first. The rest: each signal's count over all calls before."""


class Did(IntEnum):
    """What a call's response was, told by how it ended."""

    ANSWERED = 0
    ASKED_FOR_TOOLS = 1
    CUT_SHORT = 2
    """For want of room."""


_DID: Final = {"tool_calls": Did.ASKED_FOR_TOOLS, "length": Did.CUT_SHORT}


@dataclass(frozen=True, slots=True)
class Steps:
    """Of ``T`` trained calls, at least one."""

    observations: np.ndarray
    """``[T + 1, len(COLUMNS)]``, float32: before each call, and after the last."""
    actions: np.ndarray
    """``[T]``, int64: a ``Did`` each."""
    rewards: np.ndarray
    """``[T]``, float32."""


def steps(trajectory: Trajectory) -> Steps | None:
    """None if no call is trained. As in ``gae``, a call that is not trained is no step: what it earned counts
    for the trained call before it, and is nobody's before the first. Of a call with several choices, the
    first is what it did, and it earned what they all did."""
    observations: list[Sequence[float]] = []
    actions: list[Did] = []
    rewards: list[float] = []
    before: list[Transition] = []
    """The first choice of each call so far."""
    counts = np.zeros(len(_COUNTED))
    for _, same in groupby(trajectory.transitions, key=lambda t: t.of_call):
        choices = list(same)
        first = choices[0]
        earned = fsum([first.call_reward, *(choice.reward for choice in choices)])
        if first.trained:
            observations.append(_observation(before, len(first.prompt_ids), counts))
            actions.append(_DID.get(first.finish_reason, Did.ANSWERED))
            rewards.append(earned)
        elif rewards:
            rewards[-1] += earned
        before.append(first)
        for choice in choices:
            counts += [getattr(choice.signals, name) for name in _COUNTED]
    if not rewards:
        return None
    context = len(before[-1].prompt_ids) + len(before[-1].response_ids)
    observations.append(_observation(before, context, counts))
    return Steps(
        np.array(observations, np.float32), np.array(actions, np.int64), np.array(rewards, np.float32)
    )


def _observation(before: Sequence[Transition], prompt_tokens: int, counts: np.ndarray) -> Sequence[float]:
    last = before[-1] if before else None
    response = log1p(len(last.response_ids)) if last else 0.0
    logprob = float(np.mean(last.logprobs)) if last and last.logprobs else 0.0
    return [len(before), log1p(prompt_tokens), response, logprob, *counts]
