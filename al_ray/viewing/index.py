"""All rollouts of a run in memory, each in brief and with its rewards: what filters, sorts and finds them.

Read once, some microseconds a rollout, and then only what has changed; once more where a run that is gone
on with has taken rollouts back. What stands in the text of calls is asked of the database, and only of the
rollouts that fit otherwise, for as long as a reader waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from al_ray.database.listing import Brief, Listing
from al_ray.rollouts.reading.search import Order
from al_ray.traces.reward_span import rewards_of
from al_ray.types import Mode, RolloutStatus, Span

_FRESH_SECONDS: Final = 1.0
"""What was read so lately is not read again."""
_PATIENCE: Final = 2.0
"""Seconds that a search through texts takes at most."""
_CHUNK: Final = 200


@dataclass(slots=True)
class Entry:
    """One rollout."""

    brief: Brief
    rewards: dict[str, list[float]] = field(default_factory=dict)
    """All that its last attempt was given, by dimension."""
    rewarded: int = 0
    """The number of the attempt that they are of."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rollouts, in which order, and which page of them. Empty is no condition."""

    batch: str = ""
    """The beginning of its batch's name."""
    group: str = ""
    status: RolloutStatus | None = None
    mode: Mode | None = None
    task: str = ""
    """The id of its task."""
    text: str = ""
    """In its task, or in the words of its calls, its tools or what it printed."""
    error: str = ""
    """In the error of an attempt."""
    min_reward: float | None = None
    max_reward: float | None = None
    order: Order = Order.ASKED
    ascending: bool = False
    page: int = 1
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A page."""

    entries: Sequence[Entry]
    matching: int
    """How many fit, as far as was looked."""
    more: bool
    looked_at: int
    """Of those that fit otherwise, how many were searched for the text."""
    unlooked: int
    """... and how many were not: enough were found, or there was no time."""


class Index:
    """Those of one run; ``dimension`` is the reward that is shown. Safe to be used by several threads."""

    def __init__(self, listing: Listing, dimension: str) -> None:
        self.listing = listing
        self.dimension = dimension
        self._read_at = float("-inf")
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        """With nothing read; what others hold of what was read stays as it is."""
        self.by_id: dict[str, Entry] = {}
        self.by_task: dict[str, list[Entry]] = {}
        self.by_group: dict[tuple[str, str], list[Entry]] = {}
        self._entries: list[Entry] = []
        self._unfinished: dict[int, Entry] = {}
        """By position."""
        self._position = self._sequence = -1

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> None:
        """Read what has changed, unless that was done a moment ago."""
        with self._lock:
            if time.monotonic() - self._read_at < _FRESH_SECONDS:
                return
            if not self._read_unfinished():  # seldom, and what is there now may be at any position
                self._begin()
            self._read_new()
            for span in self.listing.rewards_after(self._sequence):
                self._reward(span)
            self._read_at = time.monotonic()

    def value(self, entry: Entry) -> float | None:
        """Its reward, as far as its last attempt has been given one."""
        given = entry.rewards.get(self.dimension) if entry.rewarded == entry.brief.attempts else None
        return None if given is None else math.fsum(given)

    def find(self, wanted: Wanted) -> Found:
        """A page of those that fit, what has no value to be sorted by last."""
        fitting = self._sorted(list(self._fitting(wanted)), wanted)
        begin, end = (wanted.page - 1) * wanted.limit, wanted.page * wanted.limit
        if not wanted.text:
            page = fitting[begin:end]
            return Found(page, len(fitting), len(fitting) > end, 0, 0)
        found, looked = self._with_text(fitting, wanted.text, end + 1)
        return Found(found[begin:end], len(found), len(found) > end, looked, len(fitting) - looked)

    def counts(self, batch: str) -> Counter[RolloutStatus]:
        """How the rollouts of ``batch`` stand."""
        return Counter(entry.brief.status for entry in self._entries if entry.brief.batch == batch)

    def newest(self) -> Entry | None:
        """The one that was asked for last."""
        return self._entries[-1] if self._entries else None

    def under_way(self) -> Sequence[Entry]:
        """Those that a runner has."""
        entries = [entry for entry in self._entries if entry.brief.position in self._unfinished]
        return [entry for entry in entries if entry.brief.status is RolloutStatus.RUNNING]

    def batches(self) -> Sequence[str]:
        """In the order in which they were first asked for."""
        return list(dict.fromkeys(entry.brief.batch for entry in self._entries))

    def _fitting(self, wanted: Wanted) -> Iterator[Entry]:
        """All but for the text, in the order in which they were asked for."""
        entries: Sequence[Entry] = self._entries
        if wanted.task:
            entries = self.by_task.get(wanted.task, ())
        failed = self.listing.with_error(wanted.error) if wanted.error else None
        least, most = wanted.min_reward, wanted.max_reward
        for entry in entries:
            brief = entry.brief
            if wanted.batch and not brief.batch.startswith(wanted.batch):
                continue
            if wanted.group and brief.group != wanted.group:
                continue
            if wanted.status is not None and brief.status is not wanted.status:
                continue
            if wanted.mode is not None and brief.mode != wanted.mode:
                continue
            if failed is not None and brief.id not in failed:
                continue
            if least is not None or most is not None:
                reward = self.value(entry)
                if reward is None or (least is not None and reward < least):
                    continue
                if most is not None and reward > most:
                    continue
            yield entry

    def _sorted(self, entries: list[Entry], wanted: Wanted) -> list[Entry]:
        if not wanted.ascending:
            entries.reverse()  # among equals, the newest first
        if wanted.order is Order.ASKED:
            return entries
        valued = [(self._key(entry, wanted.order), entry) for entry in entries]
        there = [pair for pair in valued if pair[0] is not None]
        there.sort(key=lambda pair: pair[0] or 0.0, reverse=not wanted.ascending)
        return [entry for _, entry in there] + [entry for value, entry in valued if value is None]

    def _key(self, entry: Entry, order: Order) -> float | None:
        match order:
            case Order.REWARD:
                return self.value(entry)
            case Order.SECONDS:
                return entry.brief.seconds
        return entry.brief.attempts

    def _with_text(self, entries: Sequence[Entry], text: str, enough: int) -> tuple[list[Entry], int]:
        """The first of them that have it, and how many were looked at."""
        deadline = time.monotonic() + _PATIENCE
        found: list[Entry] = []
        looked = 0
        while looked < len(entries) and len(found) < enough and time.monotonic() < deadline:
            chunk = entries[looked : looked + _CHUNK]
            has = self.listing.with_text([entry.brief.id for entry in chunk], text)
            found += [entry for entry in chunk if entry.brief.id in has]
            looked += len(chunk)
        return found, looked

    def _read_unfinished(self) -> bool:
        """False if one of them was withdrawn."""
        if not self._unfinished:
            return True
        now = {brief.position: brief for brief in self.listing.unfinished()}
        ended = sorted(self._unfinished.keys() - now.keys())
        now |= {brief.position: brief for brief in self.listing.at(ended)}
        known = {position: entry.brief.id for position, entry in self._unfinished.items()}
        if {each.position: each.id for each in now.values() if each.position <= self._position} != known:
            return False  # SQLite gives what comes later the positions that have become free
        for position, id in known.items():
            self.by_id[id].brief = now[position]
            if now[position].status.ended:
                del self._unfinished[position]
        return True

    def _read_new(self) -> None:
        for brief in self.listing.after(self._position):
            self._add(brief)

    def _add(self, brief: Brief) -> None:
        entry = Entry(brief)
        self._entries.append(entry)
        self.by_id[brief.id] = entry
        self.by_task.setdefault(brief.task, []).append(entry)
        self.by_group.setdefault((brief.batch, brief.group), []).append(entry)
        self._position = brief.position
        if not brief.status.ended:
            self._unfinished[brief.position] = entry

    def _reward(self, span: Span) -> None:
        self._sequence = span.sequence
        if span.rollout_id not in self.by_id:  # asked for, played and rewarded since they were read
            self._read_new()
        entry = self.by_id.get(span.rollout_id)
        if entry is None or span.attempt < entry.rewarded:  # withdrawn, or of an earlier attempt
            return
        if span.attempt > entry.rewarded:
            entry.rewarded = span.attempt
            entry.rewards.clear()
        for name, value in rewards_of(span).items():
            entry.rewards.setdefault(name, []).append(value)
