"""The report on a dataset: what its files hold, what is wrong row by row, what two splits share.

An environment describes its dataset in a module ``checks`` as ``DATASET``; everything else is done here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from al_ray.data import files
from al_ray.data.files import DataRow
from al_ray.errors import DataError, Problem

SHOWN = 20
"""Problems of a file that are kept; the others are only counted."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a row is, once its environment has looked at it."""

    id: str
    content: str
    """What no two splits should share: the question, say."""
    left_out: str | None = None
    """Why a loader without options gives no task of it."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """What rows are counted by: ``{"hops": "2"}``."""


Examine = Callable[[str, DataRow], Example]
"""Looks at a row of a split; raises ``DataError`` with all that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """An environment's dataset, in the layouts that its releases have."""

    folder: str
    """The sub-directory of a directory of all data."""
    files: Mapping[str, Sequence[str]]
    """The stems of each split's file, in order of preference."""
    row: type
    """A ``TypedDict``: a file called ``dev.json`` may be anybody's, and is this dataset's if its first row
    has most of these keys."""
    examine: Callable[[Path], Examine]
    """Given the dataset's directory, reads what its rows refer to. Raises ``DataError``."""
    trained: Sequence[str] = ("train",)
    """The splits that are trained on, with which each of the others is compared."""


@dataclass(slots=True)
class SplitReport:
    """Of one file."""

    file: Path
    rows: int = 0
    wrong_rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    """Of the first rows that are wrong."""
    problem_count: int = 0
    ids: Counter[str] = field(default_factory=Counter)
    kept_ids: set[str] = field(default_factory=set)
    """Of the rows that are not left out, as the next."""
    contents: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def repeated_ids(self) -> list[str]:
        return [identity for identity, count in self.ids.items() if count > 1]

    def add(self, found: Example) -> None:
        self.ids[found.id] += 1
        if found.left_out is None:
            self.kept_ids.add(found.id)
            self.contents.add(found.content)
        else:
            self.left_out[found.left_out] += 1
        for name, value in found.kinds.items():
            self.kinds.setdefault(name, Counter())[value] += 1

    def refuse(self, problems: Sequence[Problem]) -> None:
        self.wrong_rows += 1
        self.problem_count += len(problems)
        self.problems += problems[: SHOWN - len(self.problems)]


@dataclass(frozen=True, slots=True)
class Report:
    """Of one dataset."""

    name: str
    directory: Path
    splits: Mapping[str, SplitReport]
    trained: Sequence[str]
    problems: Sequence[Problem] = ()
    """Of the dataset as a whole."""

    @property
    def sound(self) -> bool:
        """Whether it can be trained on. Questions that splits share are told, and no mistake."""
        wrong = any(split.problem_count or split.repeated_ids for split in self.splits.values())
        return not (wrong or self.problems or any(ids for *_, ids, _ in self.overlaps()))

    def overlaps(self) -> Iterator[tuple[str, str, list[str], list[str]]]:
        """For each split that is trained on, and each that is not: the ids and the contents that are in both,
        of rows that are not left out."""
        for trained, name in product(self.trained, self.splits):
            if trained in self.splits and name not in self.trained:
                one, other = self.splits[trained], self.splits[name]
                ids, contents = one.kept_ids & other.kept_ids, one.contents & other.contents
                yield trained, name, sorted(ids), sorted(contents)


def report(name: str, dataset: Dataset, directory: Path) -> Report | None:
    """On the dataset in ``directory`` or in its sub-directory; None if there is no file of it."""
    where = files.directory(str(directory), samples=directory, folder=dataset.folder)
    named_so = {split: _file(where, stems) for split, stems in dataset.files.items()}
    named = where.resolve().name == dataset.folder
    found = {
        split: file
        for split, file in named_so.items()
        if file is not None and (named or _has_rows_like(file, dataset.row))
    }
    if not found:
        return None
    try:
        examine = dataset.examine(where)
        splits = {split: _split_report(split, file, examine) for split, file in found.items()}
    except DataError as error:
        return Report(name, where, {}, dataset.trained, error.problems)
    return Report(name, where, splits, dataset.trained)


def _file(where: Path, stems: Sequence[str]) -> Path | None:
    try:
        return files.file(where, stems)
    except DataError:
        return None


def _has_rows_like(file: Path, row: type) -> bool:
    try:
        first = next((found for found in files.read(file) if isinstance(found, DataRow)), None)
    except DataError:
        return False
    keys = row.__annotations__.keys()
    return first is not None and 2 * len(keys & first.values.keys()) > len(keys)


def _split_report(split: str, file: Path, examine: Examine) -> SplitReport:
    made = SplitReport(file)
    for found in files.read(file):
        made.rows += 1
        try:
            if isinstance(found, DataError):
                raise found
            made.add(examine(split, found))
        except DataError as error:
            made.refuse(error.problems)
    return made
