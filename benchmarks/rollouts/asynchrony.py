"""What a step takes when agents are asked ahead: the same recipe with each staleness, one after the other.

    python -m benchmarks.rollouts.asynchrony [--staleness 0 1 2] [--steps 12] [--median 0.5] [--epochs 8]
        [--learning-rate 1e-4] [--correction none] [--seeds 1]

Real runs of `al-ray train` on this machine, with a tiny Llama in vLLM and in the learner. What an agent waits
for beside the model, between its three calls, is log-normal, with a 99th percentile of ten times the median;
there are half as many places for agents as rollouts in a step. The first steps, in which things warm up, are
not counted. The bound is what no order of the same work can beat: the longer of what the places are busy for
and of the learner's own time. What is learnt is told for each quarter of the steps, the mean reward of its
rollouts; the policy is to say letters.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final

import yaml

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.reports import jsonl_sink
from al_ray.rollouts.requests import step_batch
from al_ray.run.folder import RunFolder
from tests.conftest import write_tiny_model

GROUPS: Final = 8
MEMBERS: Final = 4
PLACES: Final = GROUPS * MEMBERS // 2
WARM: Final = 2
"""Steps that are not counted."""
AGENT: Final = """
import asyncio
import random

from openai import AsyncOpenAI

from al_ray.types import Task

CALLS = 3


def load(path, split, *, median):
    return [Task(f"{split}-{i}", {"word": f"word {i}", "median": median}) for i in range(64)]


async def solve(task, llm):
    waits = random.lognormvariate(0, SIGMA) * task["median"]
    said = [{"role": "user", "content": task["word"]}]
    async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
        for _ in range(CALLS):
            reply = await client.chat.completions.create(model=llm.model, messages=said)
            said.append(reply.choices[0].message.model_dump(exclude_none=True))
            said.append({"role": "user", "content": "go on"})
            await asyncio.sleep(waits / CALLS)
    return "".join(each["content"] or "" for each in said[1::2])


def score(task, output):
    return sum(letter.isascii() and letter.isalpha() for letter in output) / max(1, len(output))
"""
SIGMA: Final = math.log(10) / statistics.NormalDist().inv_cdf(0.99)
"""Of the logarithm, where the 99th percentile is ten times the median."""


def recipe(staleness: int, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {
        "name": f"staleness{staleness}",
        "seed": seed,
        "output": str(folder / "out"),
        "model": {"path": str(folder / "model"), "max_length": 256},
        "data": {"load": "waiting_agent:load", "options": {"median": arguments.median}},
        "agent": {
            "run": "waiting_agent:solve",
            "evaluate": "waiting_agent:score",
            "timeout": 300,
            "concurrency": PLACES,
            "sampling": {"max_tokens": 16},
        },
        "stages": [
            {
                "algorithm": "grpo",
                "steps": arguments.steps + WARM,
                "groups_per_step": GROUPS,
                "group_size": MEMBERS,
                "epochs": arguments.epochs,
                "staleness": staleness,
                **({"correction": arguments.correction} if arguments.correction else {}),
                "optimizer": {"learning_rate": arguments.learning_rate},
            }
        ],
        "evaluation": {"tasks": 1, "sampling": {"temperature": 0, "max_tokens": 16}},
        "checkpoint": {"every": 1000},
        "engines": {"kv_cache_gib": 0.125, "max_running": PLACES, "threads": 1},
        "learners": {"threads": 1},
        "placement": {"device": "cpu", "dashboard": False},
    }


def measure(staleness: int, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path = folder / f"{staleness}.yaml"
    path.write_text(yaml.safe_dump(recipe(staleness, seed, arguments, folder)), encoding="utf-8")
    command = [sys.executable, "-m", "al_ray", "train", path.name, "--run", f"seed{seed}"]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(folder)])
    with (folder / f"{staleness}.log").open("wb") as log:
        ended = subprocess.run(
            command, check=False, cwd=folder, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths}
        )
    if ended.returncode:
        raise SystemExit((folder / f"{staleness}.log").read_text(encoding="utf-8"))
    run = RunFolder(folder / "out" / f"staleness{staleness}" / f"seed{seed}")
    lines = [line for line in jsonl_sink.read(run.path) if "optim/loss" in line]
    seconds = (lines[-1]["time"] - lines[WARM - 1]["time"]) / (len(lines) - WARM)

    def mean(key: str) -> float:
        return statistics.mean(line[key] for line in lines[WARM:])

    busy = _busy(run, range(WARM, len(lines))) / PLACES / (len(lines) - WARM)
    learning = mean("time/weights") + mean("time/update")
    return {
        "seconds": seconds,
        "waited": mean("time/rollouts"),
        "learning": learning,
        "ahead": mean("rollout/ahead"),
        "staleness": mean("off_policy/staleness_mean"),
        "stalest": max(line["off_policy/staleness_max"] for line in lines),
        "of_bound": max(busy, learning) / seconds,
        "rewards": [
            statistics.mean(quarter) for quarter in _quarters([line["reward/mean"] for line in lines[WARM:]])
        ],
    }


def _quarters(values: Sequence[float]) -> Sequence[Sequence[float]]:
    ends = [len(values) * quarter // 4 for quarter in range(5)]
    return [values[begin:end] for begin, end in pairwise(ends)]


def _busy(run: RunFolder, steps: range) -> float:
    """Seconds of all attempts at the rollouts of these steps."""
    records = Records(run.store_url)
    attempts = [
        attempt
        for step in steps
        for attempt in records.find_attempts(Query([Condition("batch", "=", step_batch(step))])).items
    ]
    records.close()
    return sum(attempt.ended_at - attempt.started_at for attempt in attempts if attempt.ended_at is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--staleness", type=int, nargs="+", default=[0, 1, 2], help="the first is the measure"
    )
    parser.add_argument("--steps", type=int, default=12, help="that are counted")
    parser.add_argument("--median", type=float, default=0.5, help="seconds that an agent waits beside calls")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--correction", help="the stage's; if not given, as it is by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8, help="of an update, by which it takes its time")
    arguments = parser.parse_args()
    print(
        " S  seed  steps/h  ratio  s/step  waited  learning  ahead  staleness (max)  of the bound"
        "  reward by quarter         load"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "waiting_agent.py").write_text(f"SIGMA = {SIGMA}\n{AGENT}", encoding="utf-8")
        (folder / "model").mkdir()
        write_tiny_model(folder / "model")
        first = None
        for staleness, seed in product(arguments.staleness, range(arguments.seeds)):
            found = measure(staleness, seed, arguments, folder)
            first = first or found["seconds"]
            rewards = " ".join(f"{reward:.3f}" for reward in found["rewards"])
            print(
                f"{staleness:>2} {seed:>5} {3600 / found['seconds']:>8.0f} {first / found['seconds']:>6.2f} "
                f"{found['seconds']:>7.2f} {found['waited']:>7.2f} {found['learning']:>9.2f} "
                f"{found['ahead']:>6.2f} {found['staleness']:>9.2f} ({found['stalest']:.0f}) "
                f"{found['of_bound']:>13.2f}  {rewards} {os.getloadavg()[0]:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
