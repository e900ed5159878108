"""Where two rollouts of one task part: the first call of which one asks or says otherwise than the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from al_ray.rollouts.reading.story import ToldCall, story
from al_ray.traces.messages import Message, answers, sent, without_ids
from al_ray.traces.nesting import Nesting
from al_ray.types import Rollout, Span

How = Literal["asked", "answered", "missing"]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first call that differs; None where a rollout had ended before."""

    number: int
    """1 is the first of the rollout."""
    how: How
    """``asked``: the model was shown something else. ``answered``: it said something else. ``missing``: only
    one of them made it."""
    first: ToldCall | None
    second: ToldCall | None


def parting(first: Rollout, second: Rollout) -> Parting | None:
    """None where the calls of both say the same. Ids, which are others in every run, do not count."""
    pairs = zip_longest(Nesting(first.spans).calls, Nesting(second.spans).calls)
    for number, (one, other) in enumerate(pairs, 1):
        if how := _difference(one, other):
            return Parting(number, how, _told(first, number), _told(second, number))
    return None


def _difference(one: Span | None, other: Span | None) -> How | None:
    if one is None or other is None:
        return "missing"
    if _plain(sent(one)) != _plain(sent(other)):
        return "asked"
    return "answered" if _plain(answers(one)) != _plain(answers(other)) else None


def _plain(messages: Sequence[Message]) -> object:
    return without_ids([dict(message) for message in messages])


def _told(rollout: Rollout, number: int) -> ToldCall | None:
    return next(
        (told for told in story(rollout) if isinstance(told, ToldCall) and told.number == number), None
    )
