"""Several rollouts beside each other, call by call: a group's, or one task's before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from al_ray.viewing.told import Answer, Item, ToldRollout


@dataclass(frozen=True, slots=True)
class Cell:
    """A call of one of the rollouts."""

    item: Item
    alike: str
    """Of what its first answer says: what the first column's says too, up to where they part."""
    apart: str
    """The rest of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """The calls of all that are of the same number."""

    number: int
    cells: Sequence[Cell | None]
    """None: a rollout has fewer."""
    differs: bool
    """An answer is unlike another."""
    first: bool
    """... and none before it was."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What is shown of them."""

    columns: Sequence[ToldRollout]
    lines: Sequence[Line]


def beside(rollouts: Sequence[ToldRollout]) -> Beside:
    """The first is what the others are compared with."""
    calls = [[item for item in each.items if item.kind == "call"] for each in rollouts]
    lines: list[Line] = []
    parted = False
    for place in range(max(map(len, calls), default=0)):
        items = [each[place] if place < len(each) else None for each in calls]
        texts = [None if item is None else _text(item.answers) for item in items]
        differs = len({_meaning(item) for item in items}) > 1
        cells = [
            None if item is None or text is None else Cell(item, *_parted(text, texts[0]))
            for item, text in zip(items, texts, strict=True)
        ]
        lines.append(Line(place + 1, cells, differs, differs and not parted))
        parted |= differs
    return Beside(rollouts, lines)


def _meaning(item: Item | None) -> tuple[str, ...] | None:
    return None if item is None else tuple(answer.meaning for answer in item.answers)


def _text(answers: Sequence[Answer]) -> str:
    """What the first answer says, as it is shown."""
    parts = answers[0].said.parts if answers else ()
    return "\n".join(f"{part.title}({part.text})" if part.kind == "call" else part.text for part in parts)


def _parted(text: str, first: str | None) -> tuple[str, str]:
    """Where it parts from ``first``, at a word's beginning."""
    if first is None or text == first:
        return text, ""
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, first, strict=False)))
    while common and not text[common - 1].isspace():
        common -= 1
    return text[:common], text[common:]
