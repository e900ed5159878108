"""Estimates from a sample of tasks, each with its 95 % interval: pure functions of numbers.

The unit is the task, for tasks are what was drawn: several samples of one task give one value, their
mean, and count once. So intervals are clustered by task without more ado.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

RESAMPLES: Final = 10_000
Z: Final = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
T: Final = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)
"""The 97.5 % quantiles of Student's distribution for 1, 2, ... degrees of freedom."""
_SEED: Final = 0
"""The same for every estimate, so that it can be made again."""
_DRAWS_AT_ONCE: Final = 2**22
"""Of the bootstrap: 32 MiB of indices."""
_ROUNDING: Final = 1e-9
"""Values that are no further apart are equal: means and differences of them are rounded."""
_UNKNOWN: Final = (math.nan, math.nan)

Method = Literal["wilson", "bootstrap", "agresti-min", "student", "satterthwaite"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over tasks; ``low`` and ``high`` end its 95 % interval, and are NaN where none can be told."""

    value: float
    low: float
    high: float
    stderr: float
    """Standard error of the mean over tasks; NaN of a single one."""
    tasks: int
    method: Method

    def interval(self, form: str) -> str:
        """For people, each end written in this form."""
        return "-" if math.isnan(self.low) else f"{self.low:{form}} to {self.high:{form}}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value a task.

    Where each is 0 or 1 the interval is Wilson's: it covers what it should for few tasks too and for
    shares near 0 or 1, where resampling would say that there is no doubt. Otherwise it is the
    percentile bootstrap over tasks. A single task that is neither tells nothing of others, nor do several
    that all have the same value: how far others would be from it, they do not show.
    """
    array = np.asarray(values, np.float64)
    count = len(array)
    if count == 0:
        raise ValueError("there is no task to estimate from")
    mean = float(array.mean())
    stderr = float(array.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    if np.isin(array, (0.0, 1.0)).all():
        return Estimate(mean, *wilson(mean, count), stderr, count, "wilson")
    low, high = _UNKNOWN if _are_equal(array) else bootstrap(array)
    return Estimate(mean, low, high, stderr, count, "bootstrap")


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean difference, second less first, of values of the same tasks in the same order.

    Where each value is 0 or 1 the interval is that of Agresti and Min (Statistics in Medicine 24, 2005,
    "Wald+2"): half a task more in each of the four cells, so that few changes, all of one kind, leave the
    doubt that they should. Otherwise it is the percentile bootstrap over tasks, if not all differ alike.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    differences = b - a
    count = len(differences)
    if count == 0 or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values make no pairs")
    value = float(differences.mean())
    stderr = float(differences.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    if np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        gained, lost = (((differences == sign).sum() + 0.5) / (count + 2) for sign in (1, -1))
        half = Z * math.sqrt((gained + lost - (gained - lost) ** 2) / (count + 2))
        low, high = float(gained - lost - half), float(gained - lost + half)
        return Estimate(value, max(low, -1.0), min(high, 1.0), stderr, count, "agresti-min")
    low, high = _UNKNOWN if _are_equal(differences) else bootstrap(differences)
    return Estimate(value, low, high, stderr, count, "bootstrap")


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a run, where runs differ by nothing but their seed, with Student's interval: a
    few runs tell little, and it says so; one, or several that happen to be equal, tell nothing of others.
    ``tasks`` counts runs."""
    array = np.asarray(values, np.float64)
    count = len(array)
    if count == 0:
        raise ValueError("there is no run to estimate from")
    mean = float(array.mean())
    stderr = float(array.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    if _are_equal(array):
        return Estimate(mean, *_UNKNOWN, stderr, count, "student")
    half = stderr * student(count - 1)
    return Estimate(mean, mean - half, mean + half, stderr, count, "student")


def over_seeds_and_tasks(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean of one value for each run and task, ``values[run][task]``, where runs differ by their seed and
    all have the same tasks: both were drawn, and the interval counts both.

    Two factors at random, each value once (Searle, Casella and McCulloch, Variance Components, 1992, section
    4.3): with mean squares A of R runs, B of T tasks and E of what is left, the variance of the mean is
    (A + B - E) / RT, neither factor's own part being taken below 0. Degrees of freedom are Satterthwaite's
    (Biometrics Bulletin 2, 1946). Where runs differ as much as tasks do by chance, two runs cover 87 to 92 %
    of what they should, three 92 to 94, five 94 to 97. Of one run, and of several that are all alike (greedy
    answers of the same weights), the interval is that of its tasks.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError("there must be a value for each run and task, and at least one")
    runs, tasks = array.shape
    mean = float(array.mean())
    if tasks == 1:
        return replace(over_seeds(array[:, 0].tolist()), tasks=1)
    if _are_equal(array):
        return estimate(array[0])
    of_runs, of_tasks = array.mean(1) - mean, array.mean(0) - mean
    left = array - mean - of_runs[:, None] - of_tasks[None, :]
    squares = (tasks * (of_runs**2).sum(), runs * (of_tasks**2).sum(), (left**2).sum())
    freedom = (runs - 1, tasks - 1, (runs - 1) * (tasks - 1))
    by_run, by_task, rest = (float(square / free) for square, free in zip(squares, freedom, strict=True))
    total = max(by_run, rest) + max(by_task, rest) - rest
    # The terms of the sum, as far as they are in it.
    both_or_none = (by_run > rest) == (by_task > rest)
    terms = (
        by_run if by_run > rest else 0.0,
        by_task if by_task > rest else 0.0,
        rest if both_or_none else 0.0,
    )
    stderr = math.sqrt(total / array.size)
    half = stderr * student(total**2 / sum(term**2 / free for term, free in zip(terms, freedom, strict=True)))
    return Estimate(mean, mean - half, mean + half, stderr, tasks, "satterthwaite")


def paired_over_seeds_and_tasks(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> Estimate:
    """The mean difference, second less first, of the same runs and tasks in the same order; of one run, and
    of several that differ alike, as ``paired`` has it."""
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    if differences.ndim == 2 and differences.size and _are_equal(differences):
        return paired(first[0], second[0])
    return over_seeds_and_tasks(differences.tolist())


def _are_equal(array: np.ndarray) -> bool:
    """Whether the values, or rows, are all as the first: so is a single one."""
    return bool(np.allclose(array, array[0], rtol=_ROUNDING, atol=_ROUNDING))


def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's distribution, linear in ``1 / freedom`` between those of ``T`` and the
    normal distribution's: exact at whole degrees as far as ``T`` goes, and hardly ever too small."""
    if freedom <= 1:
        return T[0]
    if freedom >= len(T):
        return Z + (T[-1] - Z) * len(T) / freedom
    low = int(freedom)
    share = (1 / freedom - 1 / (low + 1)) / (1 / low - 1 / (low + 1))
    return T[low] + share * (T[low - 1] - T[low])


def wilson(share: float, count: int) -> tuple[float, float]:
    """The score interval of a share of ``count`` independent trials: those shares p for which
    ``|share - p| <= z sqrt(p (1 - p) / count)`` (Wilson, JASA 22, 1927; recommended by Brown, Cai and
    DasGupta, Statistical Science 16, 2001)."""
    centre = share + Z**2 / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    # At the ends rounding could leave the interval a hair beside what it must contain.
    return min(max((centre - half) / scale, 0.0), share), max(min((centre + half) / scale, 1.0), share)


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the means of ``RESAMPLES`` samples drawn from ``values`` with
    replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3)."""
    generator = np.random.default_rng(_SEED)
    size = len(values)
    rows = max(_DRAWS_AT_ONCE // size, 1)
    means = [
        values[generator.integers(size, size=(min(rows, RESAMPLES - start), size))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """The chance that k of the samples, drawn without replacement, hold a success: the unbiased estimate
    of that of k fresh ones (Chen et al., arXiv 2107.03374, equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}: it must be between 1 and the {samples} samples")
    return 1 - math.comb(samples - successes, k) / math.comb(samples, k)
