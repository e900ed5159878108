"""Where two rollouts of one task part: the first call of which one asks or says otherwise than the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from al_ray.rollouts.reading.story import ToldCall, story
from al_ray.traces.messages import answers, said, sent
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
    """None where the calls of both say the same (``messages.canonical``): ids, which are others in every run,
    do not count, nor does the clock, nor what agents send back of the model's reasoning."""
    pairs = zip_longest(Nesting(first.spans).calls, Nesting(second.spans).calls)
    for number, (one, other) in enumerate(pairs, 1):
        if how := _difference(one, other):
            return Parting(number, how, _told(first, number), _told(second, number))
    return None


def _difference(one: Span | None, other: Span | None) -> How | None:
    if one is None or other is None:
        return "missing"
    if [said(each, one) for each in sent(one)] != [said(each, other) for each in sent(other)]:
        return "asked"
    return "answered" if _answered(one) != _answered(other) else None


def _answered(call: Span) -> Sequence[str]:
    """With what was thought before it."""
    return [said(answer, call, reasoning=True) for answer in answers(call)]


def _told(rollout: Rollout, number: int) -> ToldCall | None:
    return next(
        (told for told in story(rollout) if isinstance(told, ToldCall) and told.number == number), None
    )
