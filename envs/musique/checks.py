"""What ``al-ray data check`` looks at in an official row of MuSiQue."""

from __future__ import annotations

from pathlib import Path

from al_ray.data import files
from al_ray.data.dataset import Dataset, Examine, Example
from al_ray.data.files import DataRow
from al_ray.envs.musique.data import FILES, FOLDER, UNANSWERABLE, OfficialRow, task_data


def _examine(directory: Path) -> Examine:
    """Rows refer to nothing beside them."""
    return _example


def _example(split: str, row: DataRow) -> Example:
    found = files.checked(row, OfficialRow)
    data = task_data(found, row, paragraphs=True)
    return Example(
        found["id"],
        content=" ".join(found["question"].split()),
        left_out=None if found["answerable"] else UNANSWERABLE,
        kinds={"hops": str(data["hops"]), "paragraphs": str(len(found["paragraphs"]))},
    )


DATASET = Dataset(FOLDER, FILES, OfficialRow, _examine)
