"""``al-ray data check``: the datasets of our environments that a directory holds, each with a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from al_ray.data.dataset import Dataset, Report, SplitReport, report
from al_ray.errors import DataError, Problem
from al_ray.recipe import dotted
from al_ray.recipe.loading import DATA_VARIABLE
from al_ray.reports.console import terminal

_NAMED = 5
"""Ids and questions that are told of many."""
_VALUES = 12
"""Of a kind: the commonest."""
_TEXT = 60
"""Characters of an id or a question."""


def check(directory: Path | None) -> bool:
    """Print the reports; whether all that is found is sound. Raises ``DataError`` if nothing is."""
    where = directory or Path(os.environ.get(DATA_VARIABLE, ""))
    if directory is None and DATA_VARIABLE not in os.environ:
        raise DataError(Problem("DIRECTORY", None, f"give a directory, or set {DATA_VARIABLE}"))
    datasets = _datasets()
    # A file called train.jsonl may be anybody's: in a directory named after a dataset it is that one's.
    named = {name: dataset for name, dataset in datasets.items() if dataset.folder == where.resolve().name}
    reports = [report(name, dataset, where) for name, dataset in (named or datasets).items()]
    found = [one for one in reports if one is not None]
    if not found:
        cure = f"no such directory, or it holds no file of {', '.join(datasets)}"
        raise DataError(Problem("DIRECTORY", str(where), cure))
    for one in found:
        for line in lines(one):
            terminal().print(line)
    return all(one.sound for one in found)


def lines(report: Report) -> Iterator[str]:
    """The report on one dataset."""
    yield f"{report.name}: {report.directory}"
    for problem in report.problems:
        yield f"  wrong: {problem}"
    for name, split in report.splits.items():
        yield from (f"  {line}" for line in _split(name, split))
    for trained, name, ids, contents in report.overlaps():
        yield from _named(f"  wrong: {len(ids)} ids are both in {trained} and in {name}", ids)
        yield from _named(f"  {len(contents)} questions of {name} are in {trained} too", contents)


def _datasets() -> dict[str, Dataset]:
    """By environment: what each describes in its module ``checks``."""
    rooms = find_spec("al_ray.envs")
    assert rooms is not None and rooms.submodule_search_locations is not None
    found = [file for room in rooms.submodule_search_locations for file in Path(room).glob("*/checks.py")]
    names = sorted(file.parent.name for file in found)
    return {name: dotted.load(f"al_ray.envs.{name}.checks:DATASET", f"al_ray.envs.{name}") for name in names}


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
