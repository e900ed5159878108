"""How a report on a dataset is shown: a line for each fact, lists cut to their beginnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from al_ray.data.dataset import Report, SplitReport

_NAMED = 5
"""Ids and questions that are told of many."""
_VALUES = 12
"""Of a kind: the commonest."""
_TEXT = 60
"""Characters of an id or a question."""


def lines(report: Report) -> Iterator[str]:
    """The report on one dataset."""
    yield f"{report.name}: {report.directory}"
    for problem in report.problems:
        yield f"  wrong: {problem}"
    for name, split in report.splits.items():
        yield from (f"  {line}" for line in _split(name, split))
    for name, ids, contents in report.overlaps():
        yield from _named(f"  wrong: {len(ids)} ids are both in train and in {name}", ids)
        yield from _named(f"  {len(contents)} questions of {name} are in train too", contents)


def _split(name: str, split: SplitReport) -> Iterator[str]:
    yield f"{name}: {split.file.name}: {split.rows} rows, {split.rows - split.wrong_rows} valid"
    if split.left_out:
        yield f"  left out: {_counts(split.left_out)}"
    for kind, values in split.kinds.items():
        yield f"  {kind}: {_counts(values)}"
    for problem in split.problems:
        yield f"  wrong: {problem}"
    if unsaid := split.problem_count - len(split.problems):
        yield f"  wrong: {unsaid} more"
    repeated = split.repeated_ids
    yield from _named(f"  wrong: {len(repeated)} ids stand more than once", repeated)


def _named(said: str, values: Sequence[str]) -> Iterator[str]:
    """What is said of the values, with the first of them; nothing if there are none."""
    if values:
        first = ", ".join(repr(value[:_TEXT]) for value in values[:_NAMED])
        yield f"{said}: {first}{', ...' if len(values) > _NAMED else ''}"


def _counts(values: Mapping[str, int]) -> str:
    """The commonest first; of numbers, the least."""
    numbers = all(value.isdecimal() for value in values)
    ordered = sorted(values.items(), key=lambda item: int(item[0]) if numbers else -item[1])
    others = sum(count for _, count in ordered[_VALUES:])
    told = [f"{value} {count}" for value, count in ordered[:_VALUES]]
    return ", ".join([*told, f"others {others}"] if others else told)
