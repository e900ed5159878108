"""By which names judges are told from what they judge.

A judge is a rollout of mode ``judge`` in a batch of its own, in a group of the same name as that which it
rewards; so it is claimed, tried again and recorded like any other.
"""

from __future__ import annotations

from typing import Final

_SUFFIX: Final = "-judged"


def judge_batch(batch: str) -> str:
    """That of the judges of the groups of ``batch``."""
    return batch + _SUFFIX


def judged_batch(batch: str) -> str:
    """The batch whose groups the judges of ``batch`` reward."""
    return batch.removesuffix(_SUFFIX)
