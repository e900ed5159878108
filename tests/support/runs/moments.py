"""A training run on which faults are laid at its very moments, through ``tests.support.runs.turnstiles``."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psutil

from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.recipe.schedule import stage_spans
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from al_ray.types import AttemptStatus, RolloutStatus
from tests.support.machines.processes import Command, has_ended, process_name, run, run_here, wait_until_ended
from tests.support.runs import toy

DRIVER: Final = "driver"
CORE: Final = "vLLM's core"
ACTORS: Final = ("engine", "learner", "store", "gateway", "door", "runner")
STARTS: Final = tuple(
    f"{part} starts" for part in ("store", "engine", "learner", "door", "gateway", "runner")
)
"""Moments of a life's begin, in this order; nobody waits at them afterwards."""
_PAUSE: Final = "between steps"
"""Where nobody waits for who waits."""
_LOOK_SECONDS: Final = 0.1
Deed = Callable[[int, int], None]
"""What is done to a process, which has written so many bytes of the file that it writes on and on."""
_PATIENCE: Final = 900.0
"""Until a moment comes, a part is there anew, or a run has ended, on a busy machine."""


@dataclass(frozen=True)
class Fault:
    """What is done to these parts at once, when a moment has come."""

    moment: str
    deed: str
    parts: Sequence[str]


@dataclass
class Laid:
    """A fault, and what came of it. Seconds are from when it was laid."""

    fault: Fault
    anew: dict[str, float] = field(default_factory=dict)
    """Until a process of the part is there that was not."""
    onward: float | None = None
    """Until the run told its next step, checkpoint or evaluation, or ended."""


class Trial:
    """A run in ``folder``, of several lives, with faults. Sections of its recipe differ as ``changes`` say,
    there are further ``deeds``, and whatever it starts has these ``variables``."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        steps: int,
        *,
        changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        deeds: Mapping[str, Deed] = MappingProxyType({}),
        **variables: str,
    ) -> None:
        self._folder, self._variables, self._deeds = folder, variables, {**DEEDS, **deeds}
        self._turnstiles = folder / "turnstiles"
        self._turnstiles.mkdir()
        toy.write_code(folder)
        (folder / "moments_agent.py").write_text(_AGENT, encoding="utf-8")
        content = _recipe(model, folder / "out", steps)
        changed = {name: {**content.get(name, {}), **section} for name, section in changes.items()}
        toy.write_recipe(folder, content | changed)

    @property
    def run(self) -> RunFolder:
        return RunFolder(self._folder / "out" / "moments" / "a")

    def live(
        self,
        faults: Sequence[Fault],
        patience: float = 0,
        told: Callable[[Laid], None] = lambda laid: None,
        **variables: str,
    ) -> tuple[int, str]:
        """One life, from the last checkpoint on, with faults one after the other, each of which is ``told``
        when its parts are there anew, and the run has gone on, or after so many seconds of ``patience``.
        Returns the exit code, and what the run printed."""
        turns = list(pairwise([*faults, None]))
        for fault in (faults[0], *(each for each in faults if each.moment in STARTS)):
            self._close(fault.moment)
        with Command(self._training("a"), self._folder, **self._variables, **variables) as training:
            for fault, then in turns:
                assert fault is not None
                told(self._lay(training, fault, then, patience))
            code = training.wait(_PATIENCE)
            training.wait_until_nothing_is_left(_PATIENCE)
            left = [pid for part in ACTORS for pid in self._processes(training, part)]
            wait_until_ended(*left, seconds=_PATIENCE)
            return code, training.output

    def mistakes(self) -> Sequence[str]:
        """Of the run, which has ended, measured by its records and by another that trains the same rollouts
        undisturbed: its weights must be the same, bit for bit."""
        wrong = []
        steps = stage_spans(self.run.recipe())[-1].end
        told = [int(line["step"]) for line in jsonl_sink.read(self.run.path) if "optim/loss" in line]
        if told != [*range(1, steps + 1)]:
            wrong.append(f"steps {told} are told, not 1 to {steps}")
        with closing(Records(self.run.store_url)) as records:
            for rollout in records.find_rollouts(Query([])).items:
                deciding = [
                    each.number for each in rollout.attempts if each.status is AttemptStatus.SUCCEEDED
                ]
                if rollout.status is not RolloutStatus.SUCCEEDED or deciding != [len(rollout.attempts)]:
                    wrong.append(f"{rollout.id} {rollout.status}, by attempts {deciding}")
        code, audited = run_here(["audit", self.run.path], self._folder)
        if code or "each is trained once" not in audited:
            wrong.append(audited)
        alone = RunFolder(self.run.path.parent / "b")
        alone.path.mkdir()
        for name in ("recipe.yaml", "store.sqlite"):
            shutil.copy(self.run.path / name, alone.path / name)
        code, printed = run(self._training("b"), self._folder, **self._variables)
        if code:
            wrong.append(f"the undisturbed run ended with {code}:\n{printed}")
        elif _weights(self.run) != _weights(alone):
            wrong.append("the undisturbed run has other weights")
        return wrong

    def _training(self, name: str) -> Sequence[str | Path]:
        resumed = ["--resume"] if self.run.path.exists() else []
        return [
            "tests.support.runs.turnstiles",
            self._turnstiles,
            "train",
            "toy.yaml",
            "--run",
            name,
            *resumed,
        ]

    def _lay(self, training: Command, fault: Fault, then: Fault | None, patience: float) -> Laid:
        """When its moment has come, which then goes by. That of the next fault is held from when this one is
        over, or, where nobody waits for that, from before; a start's is held all along."""
        held = self._turnstiles / f"{fault.moment}.held"
        training.wait_until(partial(_is_written, held), _PATIENCE, f"the moment of {fault}")
        lines = len(jsonl_sink.read(self.run.path))
        before = self._struck(training, fault, at=int(held.read_text()))
        starting = then is not None and then.moment in STARTS
        coming = None if starting or then is None else then.moment
        at_once = not patience and coming != fault.moment
        if coming is not None and at_once:
            self._close(coming)
        held.unlink()
        laid = self._watched(training, Laid(fault), before, lines, patience, onward=not starting)
        if coming is not None and not at_once:
            self._close(coming)
        if laid.onward is not None:
            self._go_on()
        return laid

    def _struck(self, training: Command, fault: Fault, at: int) -> Mapping[str, Sequence[int]]:
        """The processes of each part before the deed was done to one of them, to the one that is ``at`` its
        moment if it is among them."""
        before = {}
        for part in fault.parts:
            training.wait_until(partial(self._processes, training, part), _PATIENCE, f"a {part}")
            before[part] = self._processes(training, part)
        for part, there in before.items():
            # Not the first: what was given up may still be ending.
            self._deeds[fault.deed](at if at in there else there[-1], self._written(part))
        return before

    def _watched(
        self,
        training: Command,
        laid: Laid,
        before: Mapping[str, Sequence[int]],
        lines: int,
        patience: float,
        *,
        onward: bool,
    ) -> Laid:
        """Until the parts are there anew, and, with ``onward``, the run has told more than so many lines; or
        it has ended, or patience."""
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < patience and not has_ended(training.pid):
            for part, there in before.items():
                if part not in laid.anew and set(self._processes(training, part)) - set(there):
                    laid.anew[part] = waited
            if laid.onward is None and len(jsonl_sink.read(self.run.path)) > lines:
                laid.onward = waited
                self._close(_PAUSE)  # or short steps would be used up meanwhile
            if len(laid.anew) == len(before) and not (onward and laid.onward is None):
                break
            time.sleep(_LOOK_SECONDS)
        if has_ended(training.pid):
            laid.onward = laid.onward or time.monotonic() - begun
        return laid

    def _go_on(self) -> None:
        """From the pause, which the run may not have come to."""
        held = self._turnstiles / f"{_PAUSE}.held"
        (self._turnstiles / f"{_PAUSE}.closed").unlink(missing_ok=True)
        while held.exists() and not _is_written(held):
            time.sleep(_LOOK_SECONDS)
        held.unlink(missing_ok=True)

    def _processes(self, training: Command, part: str) -> list[int]:
        """The ids of those of a part, the oldest first."""
        if part == DRIVER:
            return [training.pid]
        if part == CORE:
            engines = map(psutil.Process, self._processes(training, "engine"))
            children = [child.pid for engine in engines for child in engine.children()]
            return [pid for pid in children if process_name(pid).startswith("VLLM")]
        left = sorted(self._turnstiles.glob(f"{part}-*"), key=lambda path: path.stat().st_mtime)
        pids = [int(path.name.rpartition("-")[2]) for path in left]
        return [pid for pid in pids if not has_ended(pid)]

    def _written(self, part: str) -> int:
        """Bytes of the file that it writes on and on, if there is one."""
        file = self.run.path / _APPENDED.get(part, "")
        return file.stat().st_size if file.is_file() else 0

    def _close(self, moment: str) -> None:
        (self._turnstiles / f"{moment}.closed").touch()


def _is_written(file: Path) -> bool:
    return file.exists() and file.read_text() != ""


def _kill(pid: int, longest: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _stop(pid: int, longest: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _fill_its_disk(pid: int, longest: int) -> None:
    """What it writes is refused, as by a full disk; the signal that the system sends is ignored by Python."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))


DEEDS: Final[Mapping[str, Deed]] = {
    "killed": _kill,
    "stopped": _stop,
    "its disk full": _fill_its_disk,
}
_APPENDED: Final = {DRIVER: jsonl_sink.FILE_NAME, "store": "store.sqlite-wal", "gateway": "store.sqlite-wal"}
"""Of the run's files, by who writes it on and on."""

_AGENT: Final = """
from al_ray.types import Task


def load(path, split):
    return [Task(f"{split}-{i}", {"word": f"{split} word {i}"}, split) for i in range(16)]
"""


def _recipe(model: Path, output: Path, steps: int) -> dict[str, Any]:
    """Each step has a checkpoint and an evaluation, and so all moments."""
    content = toy.recipe(model, output)
    content["name"] = "moments"
    content["data"] = {"load": "moments_agent:load"}
    content["agent"] |= {"retry": {"max_attempts": 20}, "timeout": 600}
    content["stages"] = [{**content["stages"][1], "steps": steps}]
    content["checkpoint"] = {"every": 1, "keep": 2}
    content["evaluation"] |= {"every": 1}
    content["engines"]["replicas"] = 2
    return content


def _weights(folder: RunFolder) -> bytes:
    """Of the last checkpoint."""
    last = folder.checkpoint(folder.checkpoints()[-1])
    return b"".join(path.read_bytes() for path in sorted(last.glob("*.safetensors")))
