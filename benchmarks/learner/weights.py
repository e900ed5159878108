"""How long calls wait at a weight change, by the number of engines, beside vLLM's own load of the weights.

    python -m benchmarks.learner.weights [--engines 1 2 4] [--rounds 5]

A learner publishes through shared memory, and engines of vLLM, which share the machine's cores, are paused,
given the weights and resumed, as a run does it; then the same engines read the same bytes from the model's
folder, whose files are in the system's cache, by vLLM's ``reload_weights``. Prints medians: seconds of both,
their ratio, and the megabytes a second that all engines together took in.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import ray

from al_ray.actors.engine.actor import Engine
from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.machines.placement import SharedSeat
from al_ray.models import folders
from tests.support.models.engine_inputs import engine_spec

TOKENS: Final = 1024
"""Of the longest row."""


class Reloading(Engine):
    async def reload(self) -> None:
        await self._llm.collective_rpc("reload_weights")


async def seconds_of(what: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await what()
    return time.perf_counter() - begun


async def measure(model: Path, learner: Learner, engines: int, rounds: int) -> None:
    spec = engine_spec(model, max_length=TOKENS, kv_cache_gib=0.25)
    pool = EnginePool(spec, [SharedSeat({"num_cpus": 0})] * engines, engine_class=Reloading)
    await pool.start()
    ours, theirs = [], []
    for version in range(rounds + 1):
        update = learner.publish(version)
        assert update.path is not None
        ours.append(await seconds_of(lambda: pool.update(update)))  # noqa: B023
        theirs.append(await seconds_of(lambda: asyncio.gather(*(e.reload.remote() for e in pool.admitted()))))
    megabytes = Path(update.path).stat().st_size / 1e6
    await pool.shutdown()
    # The first, in which files come into the cache, is not counted.
    paused, reloaded = statistics.median(ours[1:]), statistics.median(theirs[1:])
    print(
        f"{engines:>7} {megabytes:>9.0f} {paused:>9.2f} {reloaded:>13.2f} {paused / reloaded:>6.2f} "
        f"{engines * megabytes / paused:>6.0f} {os.getloadavg()[0]:>5.1f}",
        flush=True,
    )


async def run(arguments: argparse.Namespace) -> None:
    model = folders.resolve(arguments.model)
    learner = Learner(LearnerSpec(str(model), "float32", "cpu", 1, TOKENS, TOKENS, "shared_memory"))
    print("engines MB of one  paused s  vLLM's own s  ratio   MB/s  load")
    for engines in arguments.engines:
        await measure(model, learner, engines, arguments.rounds)
    learner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    asyncio.run(run(arguments))
    ray.shutdown()


if __name__ == "__main__":
    main()
