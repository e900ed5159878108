"""What ``al-ray data check`` looks at in a row of MuSiQue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from al_ray.data import files
from al_ray.data.dataset import Dataset, Examine, Example
from al_ray.data.files import DataRow
from al_ray.envs.musique.data import (
    FILES,
    FOLDER,
    OPEN,
    UNANSWERABLE,
    CorpusRow,
    OfficialRow,
    OpenRow,
    corpus,
    held_out_questions,
    open_task_data,
    passages_of,
    task_data,
)
from al_ray.errors import DataError

_TRAINED = ("train", OPEN)


def _examine(directory: Path) -> Examine:
    held_out, passages = held_out_questions(str(directory)), _passages(directory)

    def example(split: str, row: DataRow) -> Example:
        if split == OPEN:
            data = open_task_data(files.checked(row, OpenRow), row, passages)
            kinds = {}
        else:
            found = files.checked(row, OfficialRow)
            data = task_data(found, row, paragraphs=True)
            kinds = {"paragraphs": str(len(found["paragraphs"]))}
        question = files.asked(data["question"])
        left_out = None if data["answerable"] else UNANSWERABLE
        if split in _TRAINED and question in held_out:
            left_out = files.HELD_OUT
        return Example(data["id"], question, left_out, {"hops": str(data["hops"]), **kinds})

    return example


def _passages(directory: Path) -> Mapping[str, CorpusRow]:
    """Those that the rows over a corpus name, where there are such rows."""
    try:
        file = files.file(directory, [OPEN])
    except DataError:
        return {}
    rows = []
    for row in files.read(file):
        with suppress(DataError):  # its own look tells
            if isinstance(row, DataRow):
                rows.append(files.checked(row, OpenRow))
    return passages_of(rows, corpus(str(directory)))


DATASET = Dataset(FOLDER, {**FILES, OPEN: [OPEN]}, OfficialRow, _examine, _TRAINED)
