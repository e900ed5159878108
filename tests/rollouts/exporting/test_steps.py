"""A rollout's steps hold what was known before each call, what it did and what it earned."""

from __future__ import annotations

from dataclasses import replace
from math import log1p

import numpy as np
import pytest

from al_ray.algorithms.credit.gae import targets
from al_ray.rollouts.exporting.steps import COLUMNS, Did, steps
from al_ray.types import Signals, Trajectory, Transition


def _call(name: str, *, prompt: int = 3, response: int = 2, **more: object) -> Transition:
    plain = Transition(name, "a", (1,) * prompt, (2,) * response, (-0.5,) * response, 0)
    return replace(plain, **more)


def _trajectory(*calls: Transition) -> Trajectory:
    return Trajectory("r", "g", "t", calls, 0.0)


def test_an_observation_holds_nothing_of_the_call_that_it_is_before() -> None:
    """Or a critic would be told the answer; the last one is after the last call."""
    first = _call("1", finish_reason="tool_calls", signals=Signals(tool_ok=2))
    second = _call(
        "2", prompt=9, response=4, finish_reason="length", signals=Signals(truncated=1), reward=0.5
    )
    found = steps(_trajectory(first, second))
    assert found is not None
    rows = [dict(zip(COLUMNS, map(float, row), strict=True)) for row in found.observations]
    told = [{name: value for name, value in row.items() if value} for row in rows]
    seen = {
        "calls": 1.0,
        "log_prompt_tokens": log1p(9),
        "log_response_tokens": log1p(2),
        "mean_logprob": -0.5,
    }
    after = seen | {"calls": 2.0, "log_prompt_tokens": log1p(13), "log_response_tokens": log1p(4)}
    assert told == [
        pytest.approx({"log_prompt_tokens": log1p(3)}),
        pytest.approx(seen | {"tool_ok": 2.0}),
        pytest.approx(after | {"tool_ok": 2.0, "truncated": 1.0}),
    ]
    assert found.actions.tolist() == [Did.ASKED_FOR_TOOLS, Did.CUT_SHORT]
    assert found.rewards.tolist() == [0.0, 0.5]


def test_the_returns_of_steps_are_what_a_critic_of_gae_learns() -> None:
    """Also with calls that are not trained and with several choices of one call."""
    played = _trajectory(
        _call("0", trained=False, reward=7.0),
        _call("1", reward=1.0),
        _call("2", trained=False, reward=2.0),
        _call("3", call="3", reward=0.25, call_reward=0.5),
        _call("4", call="3", reward=0.125, call_reward=0.5),
        _call("5", reward=4.0),
    )
    found = steps(played)
    assert found is not None
    wanted = [target for target in targets(played, 1.0, 1.0) if target is not None]
    del wanted[2]  # the other choice of the same call
    np.testing.assert_allclose(np.cumsum(found.rewards[::-1])[::-1], wanted)


def test_a_rollout_without_a_trained_call_has_no_steps() -> None:
    assert steps(_trajectory(_call("1", trained=False, reward=1.0))) is None
