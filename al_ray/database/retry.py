"""Whether a rollout is tried again after an attempt that did not succeed: a pure function."""

from __future__ import annotations

from collections.abc import Sequence

from al_ray.types import Attempt, AttemptStatus, RetryRules

LOST_LIMIT = 5
"""Attempts of one rollout that may be lost, with their runner say, before the rollout counts as failed."""


def is_retried(rules: RetryRules, ended: Attempt, ends: Sequence[str]) -> bool:
    """Whether the rollout of an attempt that ended otherwise than well is tried again; ``ends`` are
    the statuses of all its attempts. Those count for nothing that were cancelled: it had been withdrawn, or
    its run had ended."""
    lost = ends.count(AttemptStatus.UNRESPONSIVE)
    tried = len(ends) - lost - ends.count(AttemptStatus.CANCELLED)
    if lost >= LOST_LIMIT or tried >= rules.max_attempts:
        return False
    if ended.status is AttemptStatus.UNRESPONSIVE:
        return True
    if ended.status not in rules.statuses:
        return False
    if ended.status is not AttemptStatus.FAILED:
        return True
    wanted = rules.errors is None or not ended.error_names.isdisjoint(rules.errors)
    return wanted and ended.error_names.isdisjoint(rules.never_errors)
