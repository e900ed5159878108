"""What ``al-ray data check`` looks at in a row of Spider and in its database."""

from __future__ import annotations

from pathlib import Path

from al_ray.data import files
from al_ray.data.dataset import Dataset, Examine, Example
from al_ray.data.files import DataRow
from al_ray.envs.spider.data import (
    FILES,
    FOLDER,
    MORE_FILES,
    Question,
    database_of,
    databases_folder,
    fault_of,
)
from al_ray.envs.spider.hardness import hardness


def _examine(directory: Path) -> Examine:
    folder = databases_folder(str(directory))

    def example(split: str, row: DataRow) -> Example:
        found = files.checked(row, Question)
        return Example(
            row.where,  # rows have no ids
            content=f"{found['db_id']}: {files.asked(found['question'])}",
            left_out=fault_of(database_of(folder, found["db_id"]), found["query"]),
            kinds={"hardness": hardness(found["query"])},
        )

    return example


DATASET = Dataset(
    FOLDER, {**FILES, "train_others": MORE_FILES["train"]}, Question, _examine, ("train", "train_others")
)
