"""What training an adapter saves beside training the model: of an update, and of its way to an engine.

    python -m benchmarks.learner.adapter [--shape spider] [--rank 16] [--rounds 3]

One process a side, one after the other, on CPU: updates of the rows of ``update``, and after each what is
published, through shared memory into a running engine, whose log-probabilities are then compared with the
learner's. The peak is that of the learner's process, before an engine is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Final

import ray

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.machines.placement import SharedSeat
from al_ray.models import folders
from al_ray.recipe import LoraSection, OptimizerSection
from benchmarks.learner.update import SHAPES, rows_of
from benchmarks.peers.update_load import samples
from tests.support.models.engine_inputs import engine_spec

TOKENS: Final = 2048
"""Of a micro-batch, and of the longest row."""
LEARNING_RATE: Final = {"model": 1e-6, "adapter": 1e-4}


def measure(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.learner.adapter", "--side", side, "--shape", arguments.shape]
    command += ["--rank", str(arguments.rank), "--rounds", str(arguments.rounds), "--model", arguments.model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="spider")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        asyncio.run(_be(arguments))
        return
    print(f"{'':>8} update s  peak GiB  MB sent  publish s  load s  differs")
    for side in ("model", "adapter"):
        found = measure(side, arguments)
        sent = f"{found['mb']:>8.1f} {found['publish']:>10.2f} {found['load']:>7.2f} {found['differs']:>8.1e}"
        print(f"{side:>8} {found['update']:>8.1f} {found['peak']:>9.2f} {sent}", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} processors")


async def _be(arguments: argparse.Namespace) -> None:
    model = folders.resolve(arguments.model)
    lora = LoraSection(rank=arguments.rank) if arguments.side == "adapter" else None
    spec = LearnerSpec(str(model), "float32", "cpu", 1, TOKENS, TOKENS, "shared_memory", lora=lora)
    learner = Learner(spec)
    learner.start_stage(StageSpec(OptimizerSection(learning_rate=LEARNING_RATE[arguments.side]), 1000))
    rows, loss = rows_of(samples(arguments.shape)), PolicyGradient(Clipped(0.2, 0.2))
    for _ in range(2):  # the optimizer is there from the second on
        peak = learner.update([rows], loss).metrics["learner/peak_gib"]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    of_engine = engine_spec(model, max_length=TOKENS, kv_cache_gib=0.25, lora=lora)
    pool = EnginePool(of_engine, [SharedSeat({"num_cpus": 1})])
    await pool.start()
    [engine] = pool.admitted()
    probe = rows[0].tokens[:200].tolist()
    rounds = []
    for version in range(1, arguments.rounds + 1):
        times = [time.perf_counter()]
        learner.update([rows], loss)
        times.append(time.perf_counter())
        update = learner.publish(version)
        times.append(time.perf_counter())
        await pool.update(update)
        times.append(time.perf_counter())
        assert update.path is not None
        pairs = zip(await engine.logprobs.remote(probe), learner.logprobs(probe), strict=True)
        of_update, of_publish, of_load = (b - a for a, b in pairwise(times))
        rounds.append(
            {
                "update": of_update,
                "publish": of_publish,
                "load": of_load,
                "mb": Path(update.path).stat().st_size / 1e6,
                "differs": max(abs(a - b) for a, b in pairs),
            }
        )
    await pool.shutdown()
    learner.close()
    print(json.dumps({key: statistics.median(r[key] for r in rounds) for key in rounds[0]} | {"peak": peak}))


if __name__ == "__main__":
    main()
