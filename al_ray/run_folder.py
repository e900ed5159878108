"""The folder of a run: resolved recipe, metrics, store, checkpoints. A killed run goes on from it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from al_ray import recipe as recipes
from al_ray.config import Recipe
from al_ray.database import sqlite_url
from al_ray.errors import Problem, UserError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``path`` exists and holds the recipe of the run."""

    path: Path

    @classmethod
    def create(cls, recipe: Recipe, name: str) -> RunFolder:
        """A new folder ``output/recipe name/name``. Raises ``UserError`` if it is there already."""
        path = Path(recipe.output) / recipe.name / name
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            cure = "this run exists; give another --run, or --resume to go on with it"
            raise UserError(Problem("run", str(path), cure)) from None
        (path / "recipe.yaml").write_text(recipes.dump(recipe), encoding="utf-8")
        return cls(path)

    @classmethod
    def resume(cls, recipe: Recipe, name: str | None) -> RunFolder:
        """The run called ``name``, or the newest of the recipe; refused if the recipe has changed."""
        runs = Path(recipe.output) / recipe.name
        found = sorted(runs.glob(name or "*"), key=lambda path: path.stat().st_mtime)
        found = [path for path in found if (path / "recipe.yaml").is_file()]
        if not found:
            raise UserError(Problem("--resume", str(runs / (name or "*")), "there is no such run"))
        folder = cls(found[-1])
        changed = recipes.differences(recipe, folder.recipe())
        if changed:
            raise UserError(*changed)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at ``path``. Raises ``UserError`` if that is no run folder."""
        if not (path / "recipe.yaml").is_file():
            raise UserError(Problem("run", str(path), "no run folder: it has no recipe.yaml"))
        return cls(path)

    def recipe(self) -> Recipe:
        """The recipe that the run was started with, every default written out."""
        return Recipe.model_validate(yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8")))

    @property
    def store_url(self) -> str:
        return sqlite_url((self.path / "store.sqlite").resolve())

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps is, or would be."""
        return self.path.resolve() / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending; writing one is atomic."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(int(path.name.removeprefix("step-")) for path in found if path.name[5:].isdecimal())

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the newest ``keep``."""
        for step in self.checkpoints()[:-keep]:
            shutil.rmtree(self.checkpoint(step))
