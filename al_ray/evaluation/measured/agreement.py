"""How well what a credit says agrees with what was measured: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from al_ray.evaluation.estimates import RESAMPLES, Z

_SEED: Final = 0
"""The same for every interval, so that it can be made again."""
_FEW: Final = 3
"""Calls that tell nothing of a correlation's error."""

Pairs = Sequence[tuple[float, float]]
"""Of the calls of a rollout: what a credit says, what was measured."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over calls."""

    correlation: float
    """Pearson's; NaN where either says the same of all calls."""
    low: float
    high: float
    """The 95 % interval; NaN where none can be told: of few calls, or where all lie on a line."""
    same_sign: int
    """Calls of which both say that they did well, or both that they did badly."""
    signed: int
    """Calls of which both say either."""
    calls: int


def agreement(rollouts: Sequence[Pairs]) -> Agreement:
    """The interval holds two: the percentile bootstrap over rollouts (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, section 13.3), for the calls of one depend on each other, and Fisher's over calls
    (Metron 1, 1921), for a bootstrap of few rollouts is too narrow."""
    rollouts = [pairs for pairs in rollouts if pairs]
    pairs = [pair for of_rollout in rollouts for pair in of_rollout]
    sums = np.array([_sums(of_rollout) for of_rollout in rollouts], np.float64).reshape(-1, 6)
    correlation = float(_correlation(sums.sum(axis=0)[None])[0]) if pairs else math.nan
    told = abs(correlation) < 1 - 1e-9 and len(pairs) > _FEW  # also false of NaN
    intervals = [_fishers(correlation, len(pairs)), *_bootstrap(sums)] if told else []
    signs = [(one > 0, other > 0) for one, other in pairs if one and other]
    return Agreement(
        correlation=correlation,
        low=min((low for low, _ in intervals), default=math.nan),
        high=max((high for _, high in intervals), default=math.nan),
        same_sign=sum(one == other for one, other in signs),
        signed=len(signs),
        calls=len(pairs),
    )


def noise(measured: Pairs) -> float:
    """From pairs of an advantage and its standard error: the share of the advantages' variance that is
    sampling error. What agrees with the truth in all cannot correlate with them by more than about
    ``sqrt(1 - noise)`` (Spearman, American Journal of Psychology 15, 1904). NaN where it cannot be told."""
    known = [(value, error) for value, error in measured if math.isfinite(value) and math.isfinite(error)]
    if len(known) < 2:
        return math.nan
    values, errors = np.array(known, np.float64).T
    variance = float(values.var(ddof=1))
    return min(float(np.square(errors).mean()) / variance, 1.0) if variance else math.nan


def _fishers(correlation: float, count: int) -> tuple[float, float]:
    centre, half = math.atanh(correlation), Z / math.sqrt(count - _FEW)
    return math.tanh(centre - half), math.tanh(centre + half)


def _bootstrap(sums: np.ndarray) -> Sequence[tuple[float, float]]:
    """None of a single rollout, or where every draw says the same of all calls."""
    rollouts = len(sums)
    if rollouts < 2:
        return ()
    generator = np.random.default_rng(_SEED)
    drawn = _correlation(generator.multinomial(rollouts, np.full(rollouts, 1 / rollouts), RESAMPLES) @ sums)
    known = drawn[np.isfinite(drawn)]
    if not known.size:
        return ()
    low, high = np.quantile(known, (0.025, 0.975))
    return [(float(low), float(high))]


def _sums(pairs: Pairs) -> list[float]:
    x, y = np.array(pairs, np.float64).T
    return [len(pairs), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]


def _correlation(sums: np.ndarray) -> np.ndarray:
    """From ``[draws, 6]``: count, sums, squares and products of each draw; float64 ``[draws]``."""
    count, x, y, xx, yy, xy = sums.T
    of_x, of_y = xx - x * x / count, yy - y * y / count
    # What rounding leaves of a variance of 0 is none.
    constant = (of_x <= 1e-12 * np.maximum(xx, 1e-300)) | (of_y <= 1e-12 * np.maximum(yy, 1e-300))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (xy - x * y / count) / np.sqrt(of_x * of_y)
    return np.where(constant, np.nan, np.clip(found, -1, 1))
