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

from al_ray.evaluation.estimates import (
    T,
    bootstrap,
    estimate,
    over_seeds,
    over_seeds_and_tasks,
    paired,
    paired_over_seeds_and_tasks,
    pass_at_k,
    student,
    wilson,
)

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


def test_the_interval_of_a_paired_difference_covers_it_nineteen_times_of_twenty() -> None:
    """Of few tasks too, by exact enumeration of what they may have done: 20 tasks, of which each is won with
    chance 0.1, lost with 0.05, and else the same in both."""
    count, win, lose = 20, 0.1, 0.05
    covered = 0.0
    for won in range(count + 1):
        for lost in range(count - won + 1):
            chance = math.comb(count, won) * math.comb(count - won, lost) * win**won * lose**lost
            chance *= (1 - win - lose) ** (count - won - lost)
            first = [0.0] * won + [1.0] * (count - won)
            second = [1.0] * won + [0.0] * lost + [1.0] * (count - won - lost)
            found = paired(first, second)
            assert found.value == pytest.approx((won - lost) / count) and found.method == "agresti-min"
            covered += chance * (found.low <= win - lose <= found.high)
    assert 0.94 <= covered <= 0.99


def test_one_change_among_many_tasks_proves_nothing() -> None:
    """Nor does it look as if it did: the interval holds 0, as McNemar's test would."""
    found = paired([0.0, *[1.0] * 99], [1.0] * 100)
    assert found.low < 0 < found.value < found.high


def test_differences_of_other_numbers_are_resampled_by_task() -> None:
    """What both share cancels out: tasks that differ much and move nearly alike leave little doubt."""
    first, moves = [0.1, 0.9, 0.4, 0.6], [0.25, 0.25, 0.24, 0.26]
    found = paired(first, [value + move for value, move in zip(first, moves, strict=True)])
    assert (found.method, found.value) == ("bootstrap", pytest.approx(0.25))
    assert 0.24 <= found.low < 0.25 < found.high <= 0.26


def test_where_all_values_are_equal_no_interval_is_told() -> None:
    """They do not show how far others would be from them; zeros and ones do, by their shares."""
    told = [
        estimate([0.5] * 3),
        paired([0.5] * 3, [0.5] * 3),
        paired([0.1, 0.9, 0.4], [0.1 + 0.25, 0.9 + 0.25, 0.4 + 0.25]),  # but for their rounding
        paired([0.1], [0.3]),
        over_seeds([0.45, 0.45]),
        over_seeds([1.0, 1.0]),
        over_seeds_and_tasks([[0.5] * 3] * 2),
        paired_over_seeds_and_tasks([[0.5] * 3] * 2, [[0.7] * 3] * 2),
    ]
    assert [found.interval(".2f") for found in told] == ["-"] * len(told)
    assert all(math.isnan(found.low) and math.isnan(found.high) for found in told)
    assert estimate([1.0] * 3).interval(".2f") == "0.44 to 1.00"
    assert paired([1.0] * 3, [1.0] * 3).low < 0 < over_seeds_and_tasks([[0.0] * 3] * 2).high


def test_the_interval_over_seeds_is_students() -> None:
    """By its density, integrated: 97.5 % lie below each quantile of the table."""
    for degrees, quantile in enumerate(T, 1):
        scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
        grid = np.linspace(0, quantile, 20_001)
        density = scale * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2)
        assert 0.5 + np.trapezoid(density, grid) == pytest.approx(0.975, abs=1e-5)
    found = over_seeds([0.5, 0.6, 0.7])
    assert found.value == pytest.approx(0.6)
    assert found.high - found.value == pytest.approx(4.3027 * 0.1 / math.sqrt(3))
    assert math.isnan(over_seeds([0.5]).low)


@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_over_runs_and_tasks_the_variance_is_that_of_two_factors_at_random(
    runs: int, tasks: int, seed: int
) -> None:
    """From the covariances of pairs: two values share their run, their task, or neither."""
    values = np.random.default_rng(seed).normal(size=(runs, tasks)) + np.arange(runs)[:, None]
    centred = values - values.mean()
    cells = [(r, t) for r in range(runs) for t in range(tasks)]
    by_run = sum(values[r].mean() ** 2 for r in range(runs)) * tasks - runs * tasks * values.mean() ** 2
    by_task = (values.mean(0) ** 2).sum() * runs - runs * tasks * values.mean() ** 2
    left = sum(centred[cell] ** 2 for cell in cells) - by_run - by_task
    a, b, e = by_run / (runs - 1), by_task / (tasks - 1), left / ((runs - 1) * (tasks - 1))
    # Components: of runs (a - e) / tasks, of tasks (b - e) / runs, of what is left e.
    variance = max(a - e, 0) / (tasks * runs) + max(b - e, 0) / (runs * tasks) + e / (runs * tasks)
    found = over_seeds_and_tasks(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert found.low < found.value < found.high
    assert found.tasks == tasks


@pytest.mark.parametrize(
    ("of_runs", "of_tasks", "left"), [(0, 0, 0.4), (0, 0.3, 0.3), (0.05, 0.3, 0.3), (0.2, 0.2, 0)]
)
def test_the_interval_over_runs_and_tasks_holds_the_truth_as_often_as_it_says(
    of_runs: float, of_tasks: float, left: float
) -> None:
    """Three runs of 100 tasks, 1,000 times; the truth is 0."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        values = draw.normal(0, of_runs, (3, 1)) + draw.normal(0, of_tasks, (1, 100))
        values = values + draw.normal(0, left, (3, 100))
        found = over_seeds_and_tasks(values.tolist())
        held += found.low <= 0 <= found.high
    assert 0.9 < held / 1000 < 0.99


def test_few_runs_that_differ_much_are_covered_less_as_the_docstring_says() -> None:
    """Two runs of 200 tasks, whose own gains differ by 0.1: 87 to 92 times of 100."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        values = draw.normal(0, 0.1, (2, 1)) + draw.normal(0, 0.4, (1, 200)) + draw.normal(0, 0.5, (2, 200))
        found = over_seeds_and_tasks(values.tolist())
        held += found.low <= 0 <= found.high
    assert 0.86 < held / 2000 < 0.93


def test_of_one_run_or_of_runs_that_differ_alike_a_difference_is_that_of_pairs() -> None:
    """It is no share: that nothing was lost does not make all of it certain."""
    first, second = [0.0] * 200, [1.0] * 2 + [0.0] * 198
    expected = paired(first, second)
    assert expected.low < 0
    for runs in (1, 3):
        assert paired_over_seeds_and_tasks([first] * runs, [second] * runs) == expected
    others = [1.0, *first[1:]]
    found = paired_over_seeds_and_tasks([first, others], [second, second])
    differences = np.array([second, second]) - np.array([first, others])
    assert found == over_seeds_and_tasks(differences.tolist())


def test_one_run_has_the_interval_of_its_tasks_and_one_task_that_of_its_runs() -> None:
    """So have several that are alike: they were drawn once."""
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert over_seeds_and_tasks([values]) == over_seeds_and_tasks([values] * 3) == estimate(values)
    assert over_seeds_and_tasks([[each] for each in values]).low == over_seeds(values).low


def test_students_quantile_is_between_those_of_whole_degrees() -> None:
    quantiles = [student(freedom) for freedom in (1, 1.5, 2, 7, 7.3, 8, 20, 50, 1e9)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert [student(freedom) for freedom in range(1, 21)] == pytest.approx(list(T), rel=1e-12)
    assert student(60) == pytest.approx(2.0003, abs=2e-3)
    assert student(1e9) == pytest.approx(Z)
