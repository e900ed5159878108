"""Which of a run's rollouts somebody wants to see: the one whose id begins so, or a page of those that
fit, in some order. What is kept in memory is a page, whatever the run holds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

from al_ray.database.query import Condition, Item, Page, Query
from al_ray.database.reader import ENDED, Records, chunks
from al_ray.errors import Problem, UserError
from al_ray.rollouts.rewards import rewards
from al_ray.traces.nesting import Nesting
from al_ray.types import Mode, Rollout, RolloutStatus, SpanKind

READ: Final = 100
"""Rollouts that are read at once, with their rewards."""
READ_WITH_CALLS: Final = 8
"""... and with all of their spans."""
_CANDIDATES: Final = 8
_ENDED: Final = [str(status) for status in ENDED]


class Order(StrEnum):
    """What rollouts are sorted by, the least first."""

    ASKED = "asked"
    """The order in which they were asked for."""
    REWARD = "reward"
    SECONDS = "seconds"
    ATTEMPTS = "attempts"


@dataclass(frozen=True, slots=True)
class Search:
    """What must hold of a rollout; None is no condition."""

    batch: str | None = None
    """The beginning of its batch's name."""
    status: RolloutStatus | None = None
    mode: Mode | None = None
    task: str | None = None
    """The id of its task."""
    error: str | None = None
    """Text in the error of one of its attempts, in whatever case."""
    agent: str | None = None
    """A pattern for the name of an agent that made one of its calls."""
    min_reward: float | None = None
    max_reward: float | None = None
    dimension: str = "reward"
    """Of the rewards, the one that is meant."""

    def conditions(self) -> list[Condition]:
        """Those that the database decides."""
        equal = {"status": self.status, "mode": self.mode, "task_id": self.task}
        found = [Condition(name, "=", value) for name, value in equal.items() if value is not None]
        return found if self.batch is None else [*found, Condition("batch", "prefix", self.batch)]

    def asks_for(self, rollout: Rollout) -> bool:
        """Whether these hold."""
        request = rollout.request
        pairs = ((self.status, rollout.status), (self.mode, request.mode), (self.task, request.task.id))
        equal = all(wanted in (None, found) for wanted, found in pairs)
        return equal and request.batch.startswith(self.batch or "")

    def fits(self, rollout: Rollout) -> bool:
        """The other conditions."""
        reward = rewards(rollout).get(self.dimension)
        if self.min_reward is not None and (reward is None or reward < self.min_reward):
            return False
        if self.max_reward is not None and (reward is None or reward > self.max_reward):
            return False
        errors = (attempt.error or "" for attempt in rollout.attempts)
        if self.error is not None and not any(self.error.casefold() in error.casefold() for error in errors):
            return False
        if self.agent is None:
            return True
        nesting = Nesting(rollout.spans)
        return any(fnmatchcase(nesting.agent(call), self.agent) for call in nesting.calls)


def every(find: Callable[[Query], Page[Item]], query: Query) -> Iterator[Item]:
    """What the query asks for, read page by page."""
    following: Query | None = query
    while following is not None:
        page = find(following)
        yield from page.items
        following = page.next


def matching(
    records: Records, search: Search, *, descending: bool = False, with_calls: bool = False
) -> Iterator[Rollout]:
    """The rollouts that fit, in the order in which they were asked for, with their rewards, and with all
    spans of their last attempts if asked for."""
    everything = with_calls or search.agent is not None
    kinds = tuple(SpanKind) if everything else (SpanKind.REWARD,)
    limit = READ_WITH_CALLS if everything else READ
    query = Query(search.conditions(), descending=descending, limit=limit)
    return filter(search.fits, every(lambda page: records.find_rollouts(page, kinds), query))


def last(
    records: Records, search: Search, order: Order, *, reverse: bool, limit: int, page: int
) -> Sequence[Rollout]:
    """The last ``limit`` of those that fit in this order, page 1; those before them, page 2. One more
    than ``limit``, the first, if there are any before."""
    end = page * limit + 1
    if order is Order.ASKED:
        found = list(islice(matching(records, search, descending=not reverse), end))
    else:
        nothing = float("inf") if reverse else float("-inf")  # what has none comes last, either way

        def value(rollout: Rollout) -> float:
            found = _value(rollout, search, order)
            return nothing if found is None else found

        pick = heapq.nsmallest if reverse else heapq.nlargest
        found = pick(end, matching(records, search), key=value)
    return found[end - limit - 1 :][::-1]


def ended(records: Records, search: Search, wait: Callable[[], None]) -> Iterator[Rollout]:
    """The rollouts that fit and end from now on, as they end, for ever; ``wait`` is called between looks."""
    kinds = (SpanKind.REWARD,) if search.agent is None else tuple(SpanKind)
    known: set[str] = set()
    pending: dict[str, None] = {}
    first = True
    while True:
        new = [name for name in records.rollout_ids() if name not in known]
        known.update(new)
        pending |= dict.fromkeys(new)
        for some in chunks(list(pending)):
            where = [Condition("id", "in", list(some)), Condition("status", "in", _ENDED)]
            found = records.find_rollouts(Query(where), () if first else kinds).items
            for rollout in found:
                del pending[rollout.id]
            if not first:
                yield from (each for each in found if search.asks_for(each) and search.fits(each))
        first = False
        wait()


def seconds(rollout: Rollout) -> float | None:
    """That its last attempt took; None if it has not ended."""
    attempts = rollout.attempts
    if not attempts or attempts[-1].ended_at is None:
        return None
    return attempts[-1].ended_at - attempts[-1].started_at


def _value(rollout: Rollout, search: Search, order: Order) -> float | None:
    """By which it is sorted, if it has that."""
    if order is Order.ATTEMPTS:
        return len(rollout.attempts)
    return seconds(rollout) if order is Order.SECONDS else rewards(rollout).get(search.dimension)


def find(records: Records, prefix: str) -> Rollout:
    """The rollout whose id is ``prefix``, or the only one whose id starts with it."""
    ids = records.rollout_ids()
    found = [prefix] if prefix in ids else [name for name in ids if name.startswith(prefix)]
    if len(found) == 1:
        if (rollout := records.rollout(found[0])) is not None:
            return rollout
        cure = "its run, which goes on, has just withdrawn it"
    elif found:
        cure = f"{len(found)} rollouts start so, write more of the id: {_some(found)}"
    elif ids:
        similar = get_close_matches(prefix, ids, _CANDIDATES, cutoff=0.3) or ids
        cure = f"no rollout starts so; there are: {_some(similar)}"
    else:
        cure = "the run has no rollouts yet"
    raise UserError(Problem("rollout", prefix, cure))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_CANDIDATES]) + (", ..." if len(names) > _CANDIDATES else "")
