"""How credits agree with measured advantages, against independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from al_ray.algorithms.credit import CREDITS
from al_ray.evaluation.measured.agreement import agreement, noise
from al_ray.evaluation.measured.credits import said
from al_ray.recipe import Recipe, SamplingSection
from al_ray.types import Trajectory, Transition
from tests.support.runs import toy

RECIPE = Recipe.model_validate(toy.recipe(Path("model"), Path("out")))


def drawn(rollouts: int, calls: int, seed: int = 0) -> list[list[tuple[float, float]]]:
    """Pairs with a correlation of 0.6."""
    generator = np.random.default_rng(seed)
    covariance = [[1.0, 0.6], [0.6, 1.0]]
    return [
        [(float(x), float(y)) for x, y in generator.multivariate_normal([1, -2], covariance, calls)]
        for _ in range(rollouts)
    ]


def test_the_correlation_is_pearsons_over_all_calls() -> None:
    rollouts = drawn(20, 4)
    x, y = np.array([pair for pairs in rollouts for pair in pairs]).T
    found = agreement(rollouts)
    assert found.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.low < found.correlation < found.high and found.calls == 80
    assert (found.same_sign, found.signed) == (int(((x > 0) == (y > 0)).sum()), 80)


def test_its_interval_holds_the_truth_as_often_as_it_should() -> None:
    """Also where the calls of a rollout say the same, and there are only so many rollouts."""
    alone = [agreement(drawn(30, 3, seed)) for seed in range(100)]
    repeated = [agreement([pairs * 4 for pairs in drawn(30, 1, seed)]) for seed in range(100)]
    for found in (alone, repeated):
        held = sum(each.low <= 0.6 <= each.high for each in found)
        assert held >= 88
    assert np.mean([e.high - e.low for e in repeated]) > 1.5 * np.mean([e.high - e.low for e in alone])


def test_few_rollouts_tell_little() -> None:
    """Three of three calls each: a bootstrap alone would tell more than there is."""
    widths = [each.high - each.low for each in (agreement(drawn(3, 3, seed)) for seed in range(20))]
    assert min(widths) > 0.4 and np.mean(widths) > 0.9


def test_of_few_calls_or_of_calls_on_a_line_no_interval_can_be_told() -> None:
    for rollouts in ([[(0.0, 0.0)], [(0.0, 0.0), (0.1, 0.3)], [(1.0, 3.0), (2.0, 6.0)]], [drawn(1, 3)[0]]):
        found = agreement(rollouts)
        assert math.isfinite(found.correlation) and math.isnan(found.low) and math.isnan(found.high)


def test_where_either_is_the_same_for_all_calls_there_is_no_correlation() -> None:
    for rollouts in ([], [[]], [[(0.1, 1.0), (0.1, 2.0)], [(0.1, 3.0)]], [[(1.0, 0.7)], [(2.0, 0.7)]]):
        found = agreement(rollouts)
        assert math.isnan(found.correlation) and math.isnan(found.low) and math.isnan(found.high)
    assert agreement([[(0.0, 1.0), (-0.0, -1.0)], [(1.0, 0.0), (-1.0, -3.0)]]).signed == 1


def test_noise_is_the_share_of_the_variance_that_sampling_makes() -> None:
    """And a credit that is the truth correlates with the measured advantages as that says."""
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 1, 20_000)
    errors = generator.choice([0.5, 1.5], 20_000)
    measured = truth + errors * generator.normal(0, 1, 20_000)
    share = noise(list(zip(measured, errors, strict=True)))
    assert share == pytest.approx(1.25 / 2.25, abs=0.02)
    assert np.corrcoef(truth, measured)[0, 1] == pytest.approx(math.sqrt(1 - share), abs=0.02)
    assert noise([(0.5, 9.0), (0.6, 9.0)]) == 1.0
    assert math.isnan(noise([(0.5, math.nan), (0.6, 0.1)])) and math.isnan(noise([(0.5, 0.1), (0.5, 0.1)]))


def episode(member: int, reward: float, calls: int) -> Trajectory:
    """The second call draws two choices."""
    transitions = [
        Transition(
            f"c{call}/{choice}",
            "writer",
            [call],
            [1],
            [-1.0],
            0,
            call=f"c{call}",
            reward=reward * (call == calls - 1) / (1 + (call == 1)),
        )
        for call in range(calls)
        for choice in range(1 + (call == 1))
    ]
    return Trajectory(f"r{member}", "g", "t", transitions, reward, rewards={"reward": reward})


def test_every_credit_says_something_of_every_call_in_every_comparison() -> None:
    groups = [[episode(0, 1.0, 2), episode(1, 0.0, 3)]]
    stage = RECIPE.stages[1].model_copy(update={"scale": "none", "baseline": "mean"})
    found = said(stage, SamplingSection(max_tokens=8), groups)
    assert {credit for credit, _ in found} == {*CREDITS} - {"gae"}, "its critic is the learners'"
    assert {compare for _, compare in found} == {"task", "agent", "turn"}
    calls = {("r0", "c0"), ("r0", "c1"), ("r1", "c0"), ("r1", "c1"), ("r1", "c2")}
    assert all(each.keys() == calls for each in found.values())
    assert set(found["identical", "task"].values()) == {0.5, -0.5}
    assert found["final", "task"]["r0", "c0"] == 0.0 != found["final", "task"]["r0", "c1"]
