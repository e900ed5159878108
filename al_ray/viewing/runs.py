"""The runs that a viewer shows: found in a folder, opened when somebody looks, read again as they change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from al_ray.database.listing import Listing
from al_ray.errors import Problem, UserError
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import total_steps
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder, looking_at
from al_ray.viewing.index import Index
from al_ray.viewing.tokens import Texts
from al_ray.viewing.worth import Worths

_LOCKS: Final = Path("/proc/locks")
_NAME: Final = "run"
"""Of the only run, where the viewer was given one."""


class ViewedRun:
    """A run, as it is read; ``name`` is unlike that of any other of the same viewer."""

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name = name
        self.folder = folder
        self._lines: Sequence[Mapping[str, Any]] = ()
        self._lines_of: tuple[int, ...] = ()
        self._texts: Texts | None = None

    @property
    def title(self) -> str:
        """For people: the recipe's name and the run's."""
        path = self.folder.path.resolve()
        return f"{path.parent.name}/{path.name}"

    @cached_property
    def recipe(self) -> Recipe:
        """Raises ``UserError`` where it cannot be read."""
        return self.folder.recipe()

    @property
    def steps(self) -> int:
        """How many the recipe asks for."""
        return total_steps(self.recipe)

    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """All that was logged, line by line; read again only where the file has changed."""
        try:
            found = (self.folder.path / jsonl_sink.FILE_NAME).stat()
        except FileNotFoundError:
            return ()
        now = (found.st_ino, found.st_size, found.st_mtime_ns)
        if now != self._lines_of:
            self._lines, self._lines_of = jsonl_sink.read(self.folder.path), now
        return self._lines

    @cached_property
    def index(self) -> Index:
        """Its rollouts. Raises ``UserError`` where the store cannot be read."""
        return Index(Listing(self.folder.store_url), self.recipe.transitions.reward)

    @property
    def texts(self) -> Texts:
        """Of its tokens; a tokenizer is looked for until there is one."""
        if self._texts is None or self._texts.tokenizer is None:
            self._texts = Texts.of(self.folder, self.recipe)
        return self._texts

    @cached_property
    def worths(self) -> Worths:
        """What its calls were worth."""
        return Worths(self.folder, self.recipe, self.index.listing)

    def is_under_way(self) -> bool | None:
        """Whether a process of this machine has it under way; None where that cannot be told. Its lock is not
        tried: whoever holds it, if only for a moment, keeps a run from its start."""
        try:
            file = (self.folder.path / ".lock").stat()
        except FileNotFoundError:
            return False
        if not _LOCKS.exists():
            return None
        locks = _LOCKS.read_text(encoding="ascii")
        device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        return any(device in line.split() for line in locks.splitlines())


class Runs:
    """All that are in ``root``, or the one that it is."""

    def __init__(self, root: Path) -> None:
        """Raises ``UserError`` where there is none, or nobody here may look."""
        self.root = root
        self._known: dict[str, tuple[int, ViewedRun]] = {}
        """With the file of its recipe, as a number: a run that is made anew is another one."""
        with looking_at(root):
            there = root.is_dir()
        if not there:
            raise UserError(Problem("RUN or FOLDER", str(root), "no such folder"))
        if not self.all():
            cure = "there is no run in it: a run's folder, as OUTPUT/RECIPE'S NAME/RUN, has a recipe.yaml "
            cure += "and a .rayignore, which a copy without hidden files lacks"
            raise UserError(Problem("RUN or FOLDER", str(root), cure))

    def all(self) -> Sequence[ViewedRun]:
        """The one that was started last first."""
        found = []
        for folder in self._folders():
            alone = folder.path == self.root
            name = _NAME if alone else folder.path.relative_to(self.root).as_posix()
            try:
                number = folder.recipe_file.stat().st_ino
            except FileNotFoundError:  # it is being removed
                continue
            if name not in self._known or self._known[name][0] != number:
                self._known[name] = number, ViewedRun(name, folder)
            found.append(self._known[name][1])
        return found

    def _folders(self) -> Sequence[RunFolder]:
        """A folder that is named itself is a run by its recipe: a copy may lack what is hidden."""
        alone = RunFolder(self.root)
        return RunFolder.all_in(self.root)[::-1] or [alone] * alone.recipe_file.is_file()

    def one(self, name: str) -> ViewedRun:
        """That of this name. Raises ``UserError`` where there is none."""
        runs = {run.name: run for run in self.all()}
        if name not in runs:
            some = ", ".join(list(runs)[:8])
            raise UserError(Problem("run", name, f"there is no such run in {self.root}; there are: {some}"))
        return runs[name]
