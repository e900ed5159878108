"""Whether the memory of every process stays flat over a long run.

    python -m benchmarks.rollouts.endurance [--minutes 60] [--limit 5]

A real ``al-ray train`` of a tiny Llama with all parts, vLLM among them: rollouts, weight changes, checkpoints
and evaluations, until it is interrupted. Every quarter of a minute it is seen what each process holds (PSS).
Prints a line for each part: what it held in the median of the first, the second and the last fifth of the
time, and by how much that grew from the second to the last, in MiB and in MiB an hour; the first is the
beginning, in which caches fill. Ends with 1 if a part grew by more than ``--limit`` per cent, or if rollouts
failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from al_ray.types import RolloutStatus
from benchmarks.agents.memory import pss
from benchmarks.faults.chaos import PARTS
from tests.conftest import write_tiny_model
from tests.support.machines.processes import Command, is_called, process_name
from tests.support.runs import toy

_LOOK_SECONDS: Final = 15.0
_START_SECONDS: Final = 1800.0
_OF_RAY: Final = ("gcs_server", "raylet")
_MIB: Final = 2**20


def by_part(training: Command) -> Mapping[str, Sequence[int]]:
    """The processes of a run, and Ray's own of its node."""
    pids = training.alive()
    found = {part: [pid for pid in pids if title and is_called(pid, title)] for part, title in PARTS.items()}
    found["driver"] = [training.pid]
    for name in _OF_RAY:
        found[f"Ray's {name}"] = [pid for pid in pids if Path(process_name(pid).split(" ")[0]).name == name]
    return found


def train(folder: Path, minutes: float) -> tuple[Mapping[str, Sequence[int]], float, str]:
    """By part, the bytes that its processes held at each look; the hours that it took, and what was said."""
    (folder / "model").mkdir()
    write_tiny_model(folder / "model")
    toy.write_code(folder)
    content = toy.recipe(folder / "model", folder / "out")
    content["stages"] = [{**content["stages"][1], "steps": 10**6}]
    content["evaluation"] |= {"every": 20}
    content["checkpoint"] = {"every": 20, "keep": 2}
    toy.write_recipe(folder, content)
    held: dict[str, list[int]] = defaultdict(list)
    with Command(["al_ray", "train", "toy.yaml", "--run", "a"], folder, as_users=True) as training:
        told = folder / "out" / "toy" / "a" / jsonl_sink.FILE_NAME
        training.wait_until(lambda: told.exists() and b"optim/loss" in told.read_bytes(), _START_SECONDS)
        begun = time.monotonic()
        while (taken := time.monotonic() - begun) < 60 * minutes:
            for part, pids in by_part(training).items():
                held[part].append(sum(map(pss, pids)))
            time.sleep(_LOOK_SECONDS)
            assert training.alive(), training.output
        training.interrupt()
        training.wait(_START_SECONDS)
        return held, taken / 3600, training.output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--limit", type=float, default=5, help="per cent")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        held, hours, printed = train(Path(name), arguments.minutes)
        folder = RunFolder(Path(name) / "out" / "toy" / "a")
        steps = max(int(line["step"]) for line in jsonl_sink.read(folder.path))
        with closing(Records(folder.store_url)) as records:
            found = records.find_rollouts(Query([])).items
    failed = [rollout.id for rollout in found if rollout.status is RolloutStatus.FAILED]
    print(f"{60 * hours:.0f} minutes, {steps} steps, {len(found)} rollouts, load {os.getloadavg()[0]:.0f}")
    print(f"{'MiB of':<18} first fifth  second    last   grown  an hour")
    grown = []
    for part, looks in held.items():
        fifth = len(looks) // 5
        first, second, last = (
            statistics.median(each) / _MIB
            for each in (looks[:fifth], looks[fifth : 2 * fifth], looks[-fifth:])
        )
        # From the middle of the second fifth to that of the last are three fifths of the time.
        print(
            f"{part:<18} {first:>11.1f} {second:>7.1f} {last:>7.1f} {last - second:>7.1f} "
            f"{(last - second) / (0.6 * hours):>8.1f}"
        )
        if last > second * (1 + arguments.limit / 100):
            grown.append(part)
    for part in grown:
        print(f"{part} grew by more than {arguments.limit:g} %", file=sys.stderr)
    if failed:
        print(f"{len(failed)} rollouts failed, {failed[0]} first:\n{printed[-3000:]}", file=sys.stderr)
    return int(bool(grown or failed))


if __name__ == "__main__":
    sys.exit(main())
