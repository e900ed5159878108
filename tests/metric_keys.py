"""What was logged beside the table of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from al_ray.reports.names import METRICS, Metric


def unlisted(keys: Iterable[str]) -> list[str]:
    """The keys that no entry of the table stands for."""
    return [key for key in keys if not any(_is_of(key, metric) for metric in METRICS)]


def missing(metrics: Iterable[Metric], keys: Iterable[str]) -> set[str]:
    """The entries that stand for none of the keys."""
    logged = list(keys)
    return {metric.key for metric in metrics if not any(_is_of(key, metric) for key in logged)}


def _is_of(key: str, metric: Metric) -> bool:
    return re.fullmatch(re.sub(r"[A-Z]+$", ".+", re.escape(metric.key)), key) is not None
