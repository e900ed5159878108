"""What a client writes anew into a system prompt at every call and that says nothing new: the line that it
tells its billing, and the clock.

They must not end a lineage: a call that differs in them alone goes on from the earlier one, and the model is
shown what it was shown there. Nor do they make another question of one that was recorded. A date is the
clock's only if it is the day's own: that of a simulated day is what the agent wants to say. So is all else
that stands in the clock's line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from al_ray.types import JSON

# Agents' texts are matched by these, so none may be read in several ways, which would be tried one after the
# other: what is repeated gives nothing back (``*+``, ``{0,60}+``) where it could be read otherwise.
_BILLING: Final = r"x-(?=[\w-]*billing)[\w-]*+\s*:[^\n]*"
_LABEL: Final = r"[*_<]*(?:today|now\b|(?:the\s)?(?:current\s)?(?:local\s)?(?:date|time))"
_TIME: Final = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
_WEEKDAY: Final = r"\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b"
_ZONE: Final = rf"\b(?:[ap]m|utc|gmt|z|[cemp]e?[sd]?t)\b|\b[ap]\.m\.|[+-]\d{{2}}:?\d{{2}}\b|{_WEEKDAY}"
_BEFORE: Final = rf"[^\w\n]|\b(?:s|is|it|now|and|the|today|current|local|date|time)\b|{_WEEKDAY}|{_TIME}"
"""What may stand between the label and the day."""
_AFTER: Final = r"[ \t,;(@|-]|\b(?:at|and)\b|T"
"""What may stand between the day and the time."""
_MARK: Final = "\ue000"
"""Stands for such a piece: a character for private use."""


def pieces(content: JSON) -> list[str]:
    """Those of a message's content, in order."""
    found: list[str] = []

    def note(piece: str) -> str:
        found.append(piece)
        return piece

    _mapped(content, note)
    return found


def without(content: JSON, day: date | None = None) -> JSON:
    """The content, as it was said on that day, with a mark for each of them. None: today."""
    return _mapped(content, lambda piece: _MARK, day)


def with_pieces(content: JSON, known: Iterator[str]) -> JSON:
    """The content with the next of ``known`` in the place of each."""
    return _mapped(content, lambda piece: next(known, piece))


def _mapped(content: JSON, replace: Callable[[str], str], day: date | None = None) -> JSON:
    if isinstance(content, str):
        return _pattern(day or date.today()).sub(lambda found: replace(found[0]), content)
    if isinstance(content, list):
        return [_mapped_part(part, replace, day) for part in content]
    return content


def _mapped_part(part: JSON, replace: Callable[[str], str], day: date | None) -> JSON:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {**part, "text": _mapped(part["text"], replace, day)}
    return part


@lru_cache(maxsize=8)
def _pattern(today: date) -> re.Pattern[str]:
    day = _days(today)
    clock = f"{_LABEL}(?:{_BEFORE}){{0,60}}+{day}(?:(?:{_AFTER}){{0,9}}(?:{day}|{_TIME}|{_ZONE})){{0,9}}"
    return re.compile(f"^[ \\t]*(?:{_BILLING}|{clock})", re.IGNORECASE | re.MULTILINE)


def _days(today: date) -> str:
    """How the day is written; where the client is, it may be another."""
    found: list[str] = []
    for day in (today - timedelta(1), today, today + timedelta(1)):
        whole = [day.strftime(form) for form in ("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y")]
        whole += [f"{day.month}/{day.day}/{day.year}", f"{day.day}.{day.month}.{day.year}"]
        found += map(re.escape, whole)
        month = f"(?:{day:%b}|{day:%B})"
        found.append(rf"(?:{month} 0?{day.day}|0?{day.day} {month})(?:,? {day.year})?")
    return rf"(?<!\d)(?:{'|'.join(dict.fromkeys(found))})(?!\d)"
