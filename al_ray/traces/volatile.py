"""Lines of a system prompt that a client writes anew at every call and that say nothing new: what it tells
its billing, and the clock.

They must not end a lineage: a call that differs in them alone goes on from the earlier one, and the model is
shown the lines that it was shown there. Nor do they make another question of one that was recorded. A date is
the clock's only if it is the day's own: that of a simulated day is what the agent wants to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from al_ray.types import JSON

_CANDIDATE: Final = re.compile(
    r"""^[ \t]*(?:
        (?P<billing>x-[\w-]*billing[\w-]*\s*:)
        | [*_<]*(?:today|now\b|(?:the\s)?(?:current\s)?(?:local\s)?(?:date|time))
    )[^\n]*""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_MARK: Final = "\ue000"
"""Stands for such a line: a character for private use."""


def lines(content: JSON) -> list[str]:
    """Those of a message's content, in order."""
    found: list[str] = []

    def note(line: str) -> str:
        found.append(line)
        return line

    _mapped(content, note)
    return found


def without(content: JSON, day: date | None = None) -> JSON:
    """The content, as it was said on that day, with a mark for each of them. None: today."""
    return _mapped(content, lambda line: _MARK, day)


def with_lines(content: JSON, known: Iterator[str]) -> JSON:
    """The content with the next of ``known`` in the place of each."""
    return _mapped(content, lambda line: next(known, line))


def _mapped(content: JSON, replace: Callable[[str], str], day: date | None = None) -> JSON:
    if isinstance(content, str):
        return _CANDIDATE.sub(
            lambda found: replace(found[0]) if _is_volatile(found, day) else found[0], content
        )
    if isinstance(content, list):
        return [_mapped_part(part, replace, day) for part in content]
    return content


def _mapped_part(part: JSON, replace: Callable[[str], str], day: date | None) -> JSON:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {**part, "text": _mapped(part["text"], replace, day)}
    return part


def _is_volatile(line: re.Match[str], day: date | None) -> bool:
    return line["billing"] is not None or _days(day or date.today()).search(line[0]) is not None


@lru_cache(maxsize=8)
def _days(today: date) -> re.Pattern[str]:
    """How the day is written; where the client is, it may be another."""
    found = []
    for day in (today - timedelta(1), today, today + timedelta(1)):
        found += [day.strftime(form) for form in ("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y")]
        found += [f"{day.month}/{day.day}/{day.year}", f"{day.day}.{day.month}.{day.year}"]
        for month in (day.strftime("%b"), day.strftime("%B")):
            found += [
                f"{month} {day.day:02}",
                f"{month} {day.day},",
                f"{day.day} {month}",
                f"{month} {day.day}",
            ]
    return re.compile(rf"(?<!\d)(?:{'|'.join(map(re.escape, dict.fromkeys(found)))})(?!\d)")
