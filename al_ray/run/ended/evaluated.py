"""Which evaluation somebody means who names a run, or one of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.recipe import Recipe
from al_ray.rollouts.requests import EVALUATIONS
from al_ray.run.folder import RunFolder, is_checkpoint, recipe_of


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation in the records of its run."""

    name: str
    """The path by which it was named, and the step."""
    recipe: Recipe
    records: Records
    batch: str


@contextmanager
def evaluated(path: Path) -> Iterator[Evaluated]:
    """The last evaluation of the run at ``path``, or of the newest in it; where that is a checkpoint, the one
    that its run made after that step. Raises ``UserError`` where there is none."""
    checkpoint = is_checkpoint(path)
    folder = RunFolder.open(recipe_of(path).parent) if checkpoint else RunFolder.newest(path)
    with closing(Records(folder.store_url, read_only=True)) as records:
        there = records.batches(EVALUATIONS)
        batch = f"eval/{path.resolve().name}" if checkpoint else there[-1] if there else EVALUATIONS
        if batch not in there:
            steps = ", ".join(name.removeprefix(EVALUATIONS).lstrip("0") or "0" for name in there)
            cure = f"its run was evaluated after the steps {steps}" if steps else "has not been evaluated"
            raise UserError(Problem("run", str(path), f"{cure}; al-ray eval makes an evaluation of its own"))
        name = path if checkpoint else folder.path
        yield Evaluated(f"{name} ({batch.removeprefix('eval/')})", folder.recipe(), records, batch)
