"""``al-ray data check``: the datasets of our environments that a directory holds, each with a report."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from al_ray.cli import data_view
from al_ray.data import dataset as data_report
from al_ray.data.dataset import Dataset
from al_ray.errors import DataError, Problem
from al_ray.recipe import dotted
from al_ray.recipe.loading import DATA_VARIABLE
from al_ray.reports.console import terminal


def check(directory: Path | None) -> bool:
    """Print the reports; whether all that is found is sound. Raises ``DataError`` if nothing is."""
    where = directory or Path(os.environ.get(DATA_VARIABLE, ""))
    if directory is None and DATA_VARIABLE not in os.environ:
        raise DataError(Problem("DIRECTORY", None, f"give a directory, or set {DATA_VARIABLE}"))
    datasets = _datasets()
    # A file called train.jsonl may be anybody's: in a directory named after a dataset it is that one's.
    named = {name: dataset for name, dataset in datasets.items() if dataset.folder == where.resolve().name}
    reports = [data_report.report(name, dataset, where) for name, dataset in (named or datasets).items()]
    found = [report for report in reports if report is not None]
    if not found:
        cure = f"no such directory, or it holds no file of {', '.join(datasets)}"
        raise DataError(Problem("DIRECTORY", str(where), cure))
    for report in found:
        for line in data_view.lines(report):
            terminal().print(line)
    return all(report.sound for report in found)


def _datasets() -> dict[str, Dataset]:
    """By environment: what each describes in its module ``checks``."""
    rooms = find_spec("al_ray.envs")
    assert rooms is not None and rooms.submodule_search_locations is not None
    found = [file for room in rooms.submodule_search_locations for file in Path(room).glob("*/checks.py")]
    names = sorted(file.parent.name for file in found)
    return {name: dotted.load(f"al_ray.envs.{name}.checks:DATASET", f"al_ray.envs.{name}") for name in names}
