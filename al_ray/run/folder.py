"""The folder of a run: resolved recipe, metrics, store, checkpoints. A killed run goes on from it."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from al_ray.database.backends import postgresql_url, sqlite_url
from al_ray.database.reader import Records
from al_ray.errors import Problem, UserError
from al_ray.machines.plan import Plan
from al_ray.machines.whole import is_partial, whole_file, whole_file_of_run
from al_ray.recipe import Recipe, loading

_RECIPE = "recipe.yaml"
_DEPTHS: Final = ("*", "*/*", "*/*/*")
_OF_TRAINING: Final = 2
_TEMPLATE = "chat_template.jinja"
_SCHEMA = "store_schema"
_TASKS = "tasks.sha256"
_LOCK = ".lock"
_STEP = "step-"
_PLACEMENT = "placement.json"
_NOT_UPLOADED = ".rayignore"
_PACKAGES = "working_dir_files"
"""The folder in which Ray unpacks what was uploaded with jobs, and removes it when it needs the room."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``path`` exists and holds the recipe of the run."""

    path: Path

    @classmethod
    def create(cls, recipe: Recipe, name: str) -> RunFolder:
        """A new folder ``output/recipe name/name``, or the place of one whose driver was killed before it had
        begun the run. Raises ``UserError`` if it is there already, or cannot be made."""
        folder = cls(_place(recipe, name))
        if folder.is_free():
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
                folder.path.chmod(0o700)  # its store holds live keys, and what agents were told
                with folder.locked():
                    if folder.is_free():  # nobody was faster
                        return folder._begun_or_gone(recipe)
            except OSError as error:
                with suppress(OSError):  # also with a run in it, by whoever was faster
                    folder.path.rmdir()
                cure = f"cannot be written: {error.strerror}; --set output=FOLDER names another place"
                raise UserError(Problem("output", str(folder.path), cure)) from error
        cure = "this run exists; give another --run, or --resume to go on with it"
        raise UserError(Problem("run", str(folder.path), cure))

    def is_free(self) -> bool:
        """Whether there is nothing but what a driver leaves that was killed before it wrote the recipe.
        Raises ``UserError`` where nobody here may look."""
        left = {_NOT_UPLOADED, _TEMPLATE, _SCHEMA, _LOCK}
        with looking_at(self.path):
            try:
                return all(file.name in left or is_partial(file) for file in self.path.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return not self.path.exists()

    def _begun_or_gone(self, recipe: Recipe) -> RunFolder:
        """Whoever calls has the lock: what is removed is nobody else's."""
        try:
            return self._begun(recipe)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def _begun(self, recipe: Recipe) -> RunFolder:
        """With what says which run it is, the recipe last: it makes the folder a run."""
        path, name = self.path, self.path.name
        (path / _NOT_UPLOADED).write_text("*\n", encoding="utf-8")  # with the next `ray job submit`
        template = recipe.model.chat_template
        if template is not None:  # a run outlives the place that its recipe was read from
            shutil.copyfile(template, path / _TEMPLATE)
            recipe = _with_template(recipe, _TEMPLATE)
        if recipe.store.url is not None:  # a server may still hold an earlier run of this name
            readable = re.sub(r"[^a-z0-9]", "_", f"{recipe.name}_{name}".lower())[:40]
            (path / _SCHEMA).write_text(f"{readable}_{uuid.uuid4().hex[:8]}", encoding="utf-8")
        with whole_file(path / _RECIPE) as file:
            file.write(loading.dump(recipe).encode())
        return self

    @classmethod
    def resume(cls, recipe: Recipe, name: str | None) -> RunFolder:
        """The run called ``name``, or the one of the recipe that was started last; refused if the recipe
        asks for another run by now, or the run cannot be looked at, or has lost its records."""
        runs = Path(recipe.output) / recipe.name
        candidates = runs.glob(f"*/{_RECIPE}") if name is None else [_place(recipe, name) / _RECIPE]
        with looking_at(runs):
            there = [file for file in candidates if file.is_file()]
            found = sorted(there, key=lambda file: file.stat().st_mtime)
        if not found:
            raise UserError(Problem("--resume", str(runs / (name or "*")), "there is no such run"))
        folder = cls(found[-1].parent)
        changed = loading.differences(recipe, folder.recipe_beside(recipe))
        if changed:
            raise UserError(*changed)
        folder._require_records()
        return folder

    def _require_records(self) -> None:
        """Refused where they are gone or damaged: a curriculum goes by them, as does what evaluations gained.
        Before its first checkpoint a run may have none yet, and begins anew."""
        if not self.checkpoints():
            return
        try:
            Records(self.store_url, read_only=True).close()
        except UserError as error:
            cure = "how it goes on depends on its rollouts: bring its store back, or start a new run"
            raise UserError(*error.problems, Problem("--resume", str(self.path), cure)) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at ``path``. Raises ``UserError`` if that is no run folder, or cannot be looked at."""
        with looking_at(path):
            there = (path / _RECIPE).is_file()
        if not there:
            raise UserError(Problem("run", str(path), f"no run folder: it has no {_RECIPE}"))
        return cls(path)

    @classmethod
    def newest(cls, path: Path) -> RunFolder:
        """The run at ``path``, or the one in it that was begun last; an evaluation's, which lies deeper in
        ``outputs``, is none. Raises ``UserError`` if there is none."""
        found = [run for run in cls.all_in(path) if len(run.path.relative_to(path).parts) <= _OF_TRAINING]
        if not found:
            raise UserError(Problem("run", str(path), f"no run folder, nor is one in it: no {_RECIPE}"))
        return found[-1]

    @classmethod
    def all_in(cls, path: Path) -> Sequence[RunFolder]:
        """The run at ``path``, or all that are at most three folders below it, as ``outputs`` has them; the
        one that was begun last is the last. Raises ``UserError`` where ``path`` cannot be looked at."""
        with looking_at(path):
            if cls.is_at(path):
                return [cls(path)]
        begun: dict[Path, float] = {}
        for file in (file for depth in _DEPTHS for file in path.glob(f"{depth}/{_RECIPE}")):
            with suppress(OSError):  # a run that is being removed is none
                begun[file.parent] = file.stat().st_mtime
        return [cls(found) for found in sorted(begun, key=begun.__getitem__) if cls.is_at(found)]

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether there is a run; a recipe alone is none."""
        return (path / _RECIPE).is_file() and (path / _NOT_UPLOADED).is_file()

    def recipe(self) -> Recipe:
        """The recipe that the run was started with, every default written out."""
        return loading.reload(self.recipe_file)

    def recipe_beside(self, other: Recipe) -> Recipe:
        """``recipe()``, to be compared with ``other``: the run's copy of the chat template is named as the
        other's, if that is the same one. Raises ``UserError`` where one of both cannot be read."""
        started = self.recipe()
        with looking_at(self.path):
            same = _template(started) == _template(other)
        return _with_template(started, other.model.chat_template) if same else started

    @property
    def recipe_file(self) -> Path:
        """Where it stands."""
        return self.path / _RECIPE

    def note_placement(self, placed: Plan) -> None:
        """Keep who goes where, for people to look at."""
        _write(self.path / _PLACEMENT, json.dumps(asdict(placed), indent=1))

    def placement(self) -> Mapping[str, Any] | None:
        """What ``note_placement`` kept, by the fields of ``Plan``; None: nothing. Raises ``UserError`` where
        that cannot be read."""
        file = self.path / _PLACEMENT
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            cure = f"cannot be read: {error}; it is there for people to look at, and may be removed"
            raise UserError(Problem("placement", str(file), cure)) from error

    def require_tasks(self, digest: str) -> None:
        """Refused if the run was started with other tasks: its order of them would be another."""
        file = self.path / _TASKS
        if not file.exists():
            _write(file, digest)
        elif file.read_text(encoding="utf-8") != digest:
            cure = "the rows have changed since this run was started; restore them, or start a new run"
            raise UserError(Problem("data.path", self.recipe().data.path, cure))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises ``UserError`` while another process has the run under way, or where it cannot be written."""
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            cure = "another process has this run under way; wait for its end, or stop it"
            raise UserError(Problem("run", str(self.path), cure)) from None
        except OSError as error:
            cure = f"cannot be written: {error.strerror}; copy it to OUTPUT/RECIPE'S NAME/RUN elsewhere, and "
            cure += "name that place by --set output=OUTPUT"
            raise UserError(Problem("run", str(self.path), cure)) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def store_url(self) -> str:
        """Of this run's own database, or of its own schema in the recipe's."""
        url = self.recipe().store.url
        if url is None:
            return sqlite_url((self.path / "store.sqlite").resolve())
        return postgresql_url(url, (self.path / _SCHEMA).read_text(encoding="utf-8"))

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps is, or would be."""
        return self.path.resolve() / "checkpoints" / f"{_STEP}{step:06d}"

    def checkpoints(self) -> list[int]:
        """The steps that have a whole checkpoint, ascending; writing one is atomic."""
        found = map(step_of, (self.path / "checkpoints").glob("*"))
        return sorted(step for step in found if step is not None)

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the newest ``keep``, of which none is there in part meanwhile, and what whoever was
        killed as they wrote one or removed one left of it. Nobody may be writing one. What the disk does not
        let go of yet, as NFS what is open somewhere, goes with the next."""
        self._remove_hidden()
        for step in self.checkpoints()[:-keep]:
            whole = self.checkpoint(step)
            whole.rename(whole.with_name(f".{whole.name}.removed"))
        self._remove_hidden()

    def _remove_hidden(self) -> None:
        for hidden in (self.path / "checkpoints").glob(f".{_STEP}*"):
            shutil.rmtree(hidden, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Which run the user asks for."""

    name: str | None
    """None: the newest, where one is resumed; the time, where one is new."""
    resume: bool

    def open(self, recipe: Recipe) -> RunFolder:
        """Raises ``UserError`` if it is there already, or is not there to be resumed."""
        if self.resume:
            return RunFolder.resume(recipe, self.name)
        return RunFolder.create(recipe, self.new_name)

    @property
    def new_name(self) -> str:
        """Of a run that is begun."""
        return datetime.now().strftime("%Y%m%d-%H%M%S") if self.name is None else self.name


def require_lasting(output: str, *, of_a_job: bool = False) -> None:
    """Raises ``UserError`` if what is written there would go with the job that writes it: this process, or
    one that is to run in what is uploaded with it (``of_a_job``)."""
    if _PACKAGES in Path(output).absolute().parts or (of_a_job and not Path(output).is_absolute()):
        cure = "lies in Ray's cache of what was uploaded with the job, and goes with it: name a folder that "
        raise UserError(Problem("output", output, f"{cure}lasts, --set output=/ABSOLUTE/PATH"))


def step_of(checkpoint: Path) -> int | None:
    """The step after which it was written; None where its name is that of no checkpoint."""
    step = checkpoint.name.removeprefix(_STEP)
    return int(step) if checkpoint.name.startswith(_STEP) and step.isdecimal() else None


def recipe_of(checkpoint: Path) -> Path:
    """The recipe of the run that wrote ``checkpoint``. Raises ``UserError`` if that is no checkpoint."""
    place = checkpoint.resolve()
    recipe = place.parent.parent / _RECIPE
    with looking_at(place):
        there = recipe.is_file() and (place / "config.json").is_file()
    if not there or step_of(place) is None:
        cure = "no checkpoint of a run; give RUN/checkpoints/step-..., or a recipe"
        raise UserError(Problem("checkpoint", str(checkpoint), cure))
    return recipe


def recipe_at(target: Path) -> Path:
    """The recipe that ``target`` is or, where that is a folder, that of the checkpoint there. Raises
    ``UserError`` if it is none."""
    with looking_at(target):
        return recipe_of(target) if target.is_dir() else target


def is_checkpoint(path: Path) -> bool:
    """Whether a checkpoint is named, and not a run. Raises ``UserError`` where nobody here may look."""
    with looking_at(path):
        return (path / "config.json").is_file()


def _place(recipe: Recipe, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        cure = "letters, digits and _.- are allowed, the first a letter or digit"
        raise UserError(Problem("--run", name, cure))
    return Path(recipe.output) / recipe.name / name


@contextmanager
def looking_at(place: Path) -> Iterator[None]:
    """Raises ``UserError`` where what is read inside, at ``place``, cannot be."""
    try:
        yield
    except OSError as error:
        cure = f"cannot be looked at: {error.strerror}; name another place, or have its owner let you in"
        raise UserError(Problem("run", str(error.filename or place), cure)) from error


def _write(file: Path, text: str) -> None:
    with whole_file_of_run(file) as whole:
        whole.write(text.encode())


def _template(recipe: Recipe) -> str | None:
    path = recipe.model.chat_template
    return None if path is None else Path(path).read_text(encoding="utf-8")


def _with_template(recipe: Recipe, path: str | None) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"chat_template": path})})
