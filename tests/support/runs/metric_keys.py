"""What was logged beside the table of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from al_ray.reports.names import METRICS, Metric


def unlisted(keys: Iterable[str]) -> list[str]:
    """The keys that are not in the table."""
    return [key for key in keys if _entry(key) is None]


def missing(metrics: Iterable[Metric], keys: Iterable[str]) -> set[str]:
    """The entries that are there for none of the keys."""
    return {metric.key for metric in metrics} - {_entry(key) for key in keys}


def _entry(key: str) -> str | None:
    """The table's key for it: the same, or its family's."""
    if key in {metric.key for metric in METRICS}:
        return key
    patterns = {metric.key: re.sub(r"[A-Z]+$", ".+", re.escape(metric.key)) for metric in METRICS}
    return next((listed for listed, pattern in patterns.items() if re.fullmatch(pattern, key)), None)
