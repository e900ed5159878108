"""Estimates against independent computations: equations solved by bisection, exact binomial sums, and the
enumeration of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.evaluation.estimates import bootstrap, estimate, pass_at_k, wilson

Z = 1.959963984540054


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return low


def binomial(count: int, share: float) -> list[float]:
    return [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_wilsons_interval_ends_where_the_score_test_rejects(drawn: tuple[int, int]) -> None:
    count, successes = drawn
    share = successes / count

    def score(p: float) -> float:
        return (p - share) - Z * math.sqrt(p * (1 - p) / count)

    low, high = wilson(share, count)
    assert 0 <= low <= share <= high <= 1
    assert high == pytest.approx(root(score, share, 1.0) if successes < count else 1.0, abs=1e-9)
    # The lower end is the upper end of the failures' share.
    assert low == pytest.approx(1 - wilson(1 - share, count)[1], abs=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.85])
def test_wilsons_interval_holds_the_truth_as_often_as_it_says(share: float) -> None:
    """Summed over all outcomes of 128 tasks; near 0.95 on average, never far below."""
    chances = binomial(128, share)
    intervals = [wilson(successes / 128, 128) for successes in range(129)]
    covered = sum(
        chance for chance, (low, high) in zip(chances, intervals, strict=True) if low <= share <= high
    )
    assert 0.92 < covered < 0.98


def test_a_bootstrap_of_two_values_has_the_quantiles_of_the_binomial() -> None:
    """The mean of a resample is then a count of successes in disguise."""
    count = 101
    values = np.array([0.25] * 60 + [0.75] * 41)
    chances = np.cumsum(binomial(count, 41 / count))
    expected = [0.25 + 0.5 * int(np.searchsorted(chances, level)) / count for level in (0.025, 0.975)]
    assert bootstrap(values) == pytest.approx(expected, abs=0.5 / count + 1e-9)


def test_a_bootstrap_is_the_same_each_time_and_however_it_is_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(40)
    whole = bootstrap(values)
    assert bootstrap(values) == whole
    monkeypatch.setattr("al_ray.evaluation.estimates._DRAWS_AT_ONCE", 1)
    assert bootstrap(values) == whole


@given(st.lists(st.floats(0, 1, width=32), min_size=30, max_size=60), st.integers(1, 4))
@settings(max_examples=20)
def test_a_bootstrap_of_many_values_is_near_the_normal_interval(values: list[float], seed: int) -> None:
    """Of uniform noise added to whatever values."""
    noisy = np.asarray(values) + np.random.default_rng(seed).random(len(values))
    found = estimate(noisy.tolist())
    half = Z * stdev(noisy) / math.sqrt(len(noisy))
    assert found.method == "bootstrap" and found.value == pytest.approx(fmean(noisy))
    assert found.stderr == pytest.approx(half / Z)
    assert found.low == pytest.approx(found.value - half, abs=0.25 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.25 * half)


def test_zeros_and_ones_have_wilsons_interval_and_no_other_values_have() -> None:
    """All wrong is no proof that nothing is ever right."""
    wrong = estimate([0.0] * 10)
    assert (wrong.value, wrong.low, wrong.method) == (0.0, 0.0, "wilson")
    assert wrong.high == pytest.approx(Z**2 / (10 + Z**2))
    assert estimate([0.0, 1.0, 1.0]).method == "wilson"
    assert estimate([0.0, 0.5, 1.0]).method == "bootstrap"


def test_a_single_task_that_is_neither_right_nor_wrong_tells_nothing_of_others() -> None:
    found = estimate([0.5])
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.stderr)
    with pytest.raises(ValueError, match="no task"):
        estimate([])


@given(
    st.lists(st.booleans(), min_size=1, max_size=8).flatmap(
        lambda o: st.tuples(st.just(o), st.integers(1, len(o)))
    )
)
def test_pass_at_k_is_the_share_of_draws_that_hold_a_success(drawn: tuple[Sequence[bool], int]) -> None:
    outcomes, k = drawn
    draws = list(combinations(outcomes, k))
    assert pass_at_k(len(outcomes), sum(outcomes), k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_pass_at_k_is_unbiased(k: int) -> None:
    """Its mean over all outcomes of 8 samples is the chance that k fresh ones hold a success."""
    for chance in (0.05, 0.3, 0.9):
        found = sum(p * pass_at_k(8, successes, k) for successes, p in enumerate(binomial(8, chance)))
        assert found == pytest.approx(1 - (1 - chance) ** k)


def test_pass_at_more_than_there_are_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and the 2 samples"):
        pass_at_k(2, 1, 3)
