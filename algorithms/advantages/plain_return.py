"""The return itself as the advantage: nothing is compared."""

from __future__ import annotations

from collections.abc import Sequence


def plain_return(returns: Sequence[Sequence[float]]) -> list[list[float]]:
    """REINFORCE without a baseline (Williams, Machine Learning 8, 1992): what a demonstration, whose
    calls are worth 1 each, is imitated with."""
    return [list(values) for values in returns]
