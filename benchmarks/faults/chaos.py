"""A training run while its processes are killed and stopped: no rollout lost, no token trained twice.

    python -m benchmarks.faults.chaos [--steps 60] [--faults 20] [--seconds 4] [--seed 0] [--staleness 0]

A real ``al-ray train``, of a tiny Llama in vLLM and in the learner, 16 rollouts of three calls a step. Every
few seconds one of its processes, the driver too, is sent SIGKILL, or SIGSTOP (one in four), whatever it is
doing, also as they start; a driver that was killed is called again with ``--resume``, at once. Then the store
is asked whether each rollout ended once, and ``al-ray audit`` whether each token was trained once. Last, the
recorded rollouts are trained in a run of their own that nothing disturbs: its weights must be the same, bit
for bit. Prints a line for each fault, with the seconds until its part is there anew and until a further
rollout ended, and a line of JSON; ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.recipe.schedule import total_steps
from al_ray.reports import jsonl_sink
from al_ray.rollouts.requests import step_batch
from al_ray.run.folder import RunFolder
from al_ray.types import AttemptStatus, Rollout, RolloutStatus
from tests.conftest import write_tiny_model
from tests.support.machines.processes import Command, is_called
from tests.support.runs import toy

GROUPS: Final = 4
MEMBERS: Final = 4
PARTS: Final[Mapping[str, str | None]] = {
    "driver": None,
    "engine": "ray::Engine",
    "vLLM's core": "VLLM::EngineCore",
    "learner": "ray::Learner",
    "store": "ray::Store",
    "gateway": "ray::Gateway",
    "door": "ray::Door",
    "runner": "ray::Runner",
}
"""What is killed, by how its process's title begins."""
_LEARNERS: Final = 4
"""Of one driver, at most: it ends with the sixth learner that it lost without getting further."""
_STOPPED: Final = 0.25
"""The share of faults that stop and do not kill. A driver is only killed: stopped, it is nobody's fault."""
_START: Final = 1800.0
"""Seconds within which the first rollout ends, on however busy a machine."""
_END: Final = 3600.0
"""... and a command ends."""
_PATIENCE: Final = 300.0
"""Seconds within which a part must be there anew, and a rollout must end."""


@dataclass(eq=False)
class Fault:
    part: str
    deed: str
    anew: float | None = None
    """Seconds until a process of its kind is there that was not."""
    onward: float | None = None
    """... and until a further rollout has ended."""


class Chaos:
    """The run, and what is done to it."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments
        self._dice = random.Random(arguments.seed)
        self.faults: list[Fault] = []
        self.wrong: list[str] = []

    @property
    def run(self) -> RunFolder:
        return RunFolder(self._folder / "out" / "toy" / "a")

    def begin(self) -> None:
        """Train to the end, through all faults."""
        turns = self._turns()
        command = ["al_ray", "train", "toy.yaml", "--run", "a"]
        with ExitStack() as begun:
            training = begun.enter_context(Command(command, self._folder))
            killed = []
            while self._disturb(training, turns):  # what it leaves may still be ending
                killed.append(training)
                training = begun.enter_context(Command([*command, "--resume"], self._folder))
            code = training.wait(_END)
            for each in (*killed, training):
                each.wait_until_nothing_is_left(120)
        if code:
            self.wrong.append(f"the run ended with {code}:\n{training.output[-3000:]}")

    def _turns(self) -> Iterator[str]:
        """The parts take turns in random order, so that a short run has all of them."""
        while True:
            yield from self._dice.sample(sorted(PARTS), len(PARTS))

    def _disturb(self, training: Command, turns: Iterator[str]) -> bool:
        """Until the faults are used up, the run has ended, or its driver was killed; whether it was."""
        training.wait_until(lambda: _ended(self.run) > 0, _START, "a rollout's end")
        lost = Counter[str]()
        while len(self.faults) < self._arguments.faults and training.alive():
            time.sleep(self._dice.expovariate(1 / self._arguments.seconds))
            part = next(turns)
            if part == "learner" and lost[part] == _LEARNERS:
                continue
            if not (found := processes(training, part)):
                continue  # just being started
            lost[part] += 1
            stop = part != "driver" and self._dice.random() < _STOPPED
            fault = Fault(part, "stopped" if stop else "killed")
            begun, ended = time.monotonic(), _ended(self.run)
            victim = self._dice.choice(found)
            try:
                os.kill(victim, signal.SIGSTOP if stop else signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.faults.append(fault)
            if part == "driver":
                Thread(target=self._watch_resumed, args=(training, fault, begun), daemon=True).start()
                return True
            self._watch(training, fault, begun, ended, found)
            self._tell(fault)
        return False

    def _watch_resumed(self, killed: Command, fault: Fault, begun: float) -> None:
        """Until the run that goes on has a further rollout; it is disturbed before."""
        while killed.alive():  # what the killed one leaves may still end some
            time.sleep(0.2)
        ended = _ended(self.run)
        while fault.onward is None and time.monotonic() < begun + 3600:
            time.sleep(0.2)
            if _ended(self.run) > ended:
                fault.onward = time.monotonic() - begun
        self._tell(fault)

    def _tell(self, fault: Fault) -> None:
        number = self.faults.index(fault) + 1
        told = f"anew after {_seconds(fault.anew)}, a rollout after {_seconds(fault.onward)}"
        print(f"{number:>3} {fault.part} {fault.deed}: {told}", flush=True)

    def _watch(
        self, training: Command, fault: Fault, begun: float, ended: int, before: Sequence[int]
    ) -> None:
        """Until both have happened; or a while, if the run ends meanwhile or has no rollouts left."""
        while (waited := time.monotonic() - begun) < _PATIENCE and training.alive():
            if fault.anew is None and set(processes(training, fault.part)) - set(before):
                fault.anew = waited
            if fault.onward is None and _ended(self.run) > ended:
                fault.onward = waited
            if fault.anew is not None and fault.onward is not None:
                return
            time.sleep(0.2)

    def check(self) -> None:
        """What must be after such a run."""
        recipe = self.run.recipe()
        steps = range(total_steps(recipe))
        lines = [int(line["step"]) for line in jsonl_sink.read(self.run.path) if "optim/loss" in line]
        if sorted(set(lines)) != [step + 1 for step in steps]:
            self.wrong.append(f"steps {lines} are told, not 1 to {len(steps)}")
        with closing(Records(self.run.store_url)) as records:
            for step in steps:
                batch = Query([Condition("batch", "=", step_batch(step))])
                rollouts = records.find_rollouts(batch, ()).items
                if len(rollouts) != GROUPS * MEMBERS:
                    self.wrong.append(f"step {step + 1} has {len(rollouts)} rollouts")
                self.wrong += [told for rollout in rollouts for told in _mistakes(rollout)]
        code, told = self._ran("audit", str(self.run.path))
        if code:
            self.wrong.append(f"the audit ended with {code}:\n{told}")

    def again(self) -> None:
        """The recorded rollouts, trained undisturbed, must make the same weights."""
        alone = RunFolder(self.run.path.parent / "b")
        alone.path.mkdir()
        for name in ("recipe.yaml", "store.sqlite"):
            shutil.copy(self.run.path / name, alone.path / name)
        code, told = self._ran("train", "toy.yaml", "--run", "b", "--resume")
        if code:
            self.wrong.append(f"the undisturbed run ended with {code}:\n{told[-3000:]}")
        elif (ours := weights(self.run)) != weights(alone):
            self.wrong.append(f"the undisturbed run has other weights ({len(ours)} bytes)")

    def _ran(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of an undisturbed command."""
        with Command(["al_ray", *arguments], self._folder) as command:
            return command.wait(_END), command.output


def processes(training: Command, part: str) -> list[int]:
    """The ids of those of a part."""
    if (title := PARTS[part]) is None:
        return [training.pid]
    return [pid for pid in training.alive() if is_called(pid, title)]


def weights(folder: RunFolder) -> bytes:
    """Of the last checkpoint."""
    last = folder.checkpoint(folder.checkpoints()[-1])
    return b"".join(path.read_bytes() for path in sorted(last.glob("*.safetensors")))


def _ended(folder: RunFolder) -> int:
    """Rollouts that the run has behind it."""
    path = folder.path / "store.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'rollouts'").fetchone():
            return 0  # the store is being made
        found = database.execute("SELECT status, count(*) FROM rollouts GROUP BY status").fetchall()
    return sum(count for status, count in found if RolloutStatus(status).ended)


def _mistakes(rollout: Rollout) -> Iterator[str]:
    if rollout.status is not RolloutStatus.SUCCEEDED:
        yield f"{rollout.id} is {rollout.status}"
    deciding = [each.number for each in rollout.attempts if each.status is AttemptStatus.SUCCEEDED]
    if deciding != [len(rollout.attempts)]:
        yield f"{rollout.id} was decided by attempts {deciding} of {len(rollout.attempts)}"


def _seconds(taken: float | None) -> str:
    return "never" if taken is None else f"{taken:.1f} s"


def recipe(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    content = toy.recipe(folder / "model", folder / "out")
    content["data"]["options"] = {"count": 64}
    content["agent"] |= {"run": "toy_agent:converse", "retry": {"max_attempts": 20}}
    content["stages"] = [
        {
            **content["stages"][1],
            "steps": arguments.steps,
            "groups_per_step": GROUPS,
            "group_size": MEMBERS,
            "staleness": arguments.staleness,
        }
    ]
    content["checkpoint"] = {"every": 3}
    content["engines"]["replicas"] = 2
    content["gateway"] = {"replicas": 2}
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4, help="between faults, in the mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--staleness", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        write_tiny_model(folder / "model")
        toy.write_code(folder)
        toy.write_recipe(folder, recipe(arguments, folder))
        begun = time.monotonic()
        chaos = Chaos(folder, arguments)
        chaos.begin()
        seconds = time.monotonic() - begun
        if not chaos.wrong:  # else there is nothing whole to look at
            chaos.check()
            chaos.again()
        rollouts = _ended(chaos.run)
    for told in chaos.wrong:
        print(told, file=sys.stderr)
    print(json.dumps(_found(chaos, seconds, rollouts)))
    return int(bool(chaos.wrong))


def _found(chaos: Chaos, seconds: float, rollouts: int) -> dict[str, Any]:
    return {
        "rollouts": rollouts,
        "seconds": round(seconds),
        "faults": dict(Counter(f"{fault.part} {fault.deed}" for fault in chaos.faults)),
        "anew": _medians((fault, fault.anew) for fault in chaos.faults),
        "onward": _medians((fault, fault.onward) for fault in chaos.faults),
        "wrong": len(chaos.wrong),
        "load": round(os.getloadavg()[0], 1),
    }


def _medians(taken: Iterable[tuple[Fault, float | None]]) -> dict[str, float]:
    """By what was done to which part."""
    known: dict[str, list[float]] = {}
    for fault, seconds in taken:
        if seconds is not None:
            known.setdefault(f"{fault.part} {fault.deed}", []).append(seconds)
    return {each: round(statistics.median(times), 1) for each, times in sorted(known.items())}


if __name__ == "__main__":
    sys.exit(main())
