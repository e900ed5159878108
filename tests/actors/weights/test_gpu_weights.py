"""One GPU that an engine and a learner share: weights go over as CUDA's IPC handles, and arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
import ray
import torch

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.learner.group import LearnerGroup
from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.actors.weights.update import BACKENDS, transport
from al_ray.machines.placement import SharedSeat
from al_ray.recipe import LoraSection, OptimizerSection
from al_ray.types import ChatRequest, Sampling
from tests.support.models.engine_inputs import engine_spec
from tests.support.models.learner_inputs import POLICY_GRADIENT, PROBE, learner_spec, rows

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.gpu, pytest.mark.slow]

Dtype = Literal["float32", "bfloat16"]
TOLERANCE: dict[Dtype, float] = {"float32": 0.02, "bfloat16": 0.25}
"""Of a logprob; the steps below move them by units. vLLM's attention multiplies float32 in TF32."""
BIG_STEPS = OptimizerSection(learning_rate=0.03, schedule="constant", warmup_steps=0)
HALF = {"num_cpus": 1, "num_gpus": 0.5}
WAY = transport("gpu", together=True)


class Pair:
    """An engine and a learner on one device."""

    def __init__(self, model: Path, dtype: Dtype) -> None:
        shared = replace(learner_spec(model), dtype=dtype, device="cuda", transport=WAY)
        self.dtype = dtype
        self.learners = LearnerGroup(shared, [HALF])
        spec = engine_spec(model, device="gpu", dtype=dtype, weight_transfer=BACKENDS[WAY])
        self.pool = EnginePool(spec, [SharedSeat(HALF)])

    async def start(self) -> None:
        await self.pool.start()
        await asyncio.to_thread(self.learners.start)
        self.learners.start_stage(StageSpec(BIG_STEPS, 10, Reference()))
        await asyncio.to_thread(self.learners.connect_engines, self.pool.engines(), 1)

    async def transfer(self, version: int) -> None:
        update = await asyncio.to_thread(self.learners.publish, version)
        await self.pool.update(update, partial(asyncio.to_thread, self.learners.send_weights))

    async def served(self) -> torch.Tensor:
        [engine] = self.pool.admitted()
        return torch.tensor(await engine.logprobs.remote(PROBE))

    async def learnt(self) -> torch.Tensor:
        return torch.tensor(await asyncio.to_thread(self.learners.logprobs, PROBE))

    async def assert_equal(self) -> None:
        torch.testing.assert_close(
            await self.served(), await self.learnt(), atol=TOLERANCE[self.dtype], rtol=0
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["float32", "bfloat16"])
async def pair(request: pytest.FixtureRequest, tiny_model: Path, ray_cluster: None) -> AsyncIterator[Pair]:
    pair = Pair(tiny_model, request.param)
    try:
        await pair.start()
        yield pair
    finally:
        await pair.pool.shutdown()
        pair.learners.close()


async def test_each_of_two_updates_gives_the_engine_the_learners_weights(pair: Pair) -> None:
    await pair.assert_equal()
    for version in (1, 2):
        before = await pair.served()
        await asyncio.to_thread(pair.learners.update, rows(version), POLICY_GRADIENT)
        await pair.transfer(version)
        await pair.assert_equal()
        assert (await pair.served() - before).abs().max() > 1


async def test_an_engine_that_was_replaced_gets_them_when_they_are_sent_again(pair: Pair) -> None:
    [engine] = pair.pool.admitted()
    version = await engine.policy_version.remote()
    ray.kill(engine)
    while pair.pool.engines() in ([], [engine]):
        await asyncio.sleep(0.2)
    assert pair.pool.admitted() == []
    await asyncio.to_thread(pair.learners.connect_engines, pair.pool.engines(), 1)
    await pair.transfer(version)
    await pair.assert_equal()


async def test_a_seed_gives_the_same_tokens_again(pair: Pair) -> None:
    [engine] = pair.pool.admitted()
    said = [{"role": "user", "content": "hi"}]
    one, same, other = [
        await engine.chat.remote(ChatRequest(f"seeded {number}", said, Sampling(max_tokens=32, seed=seed)))
        for number, seed in enumerate((1, 1, 2))
    ]
    assert one.choices[0].response_ids == same.choices[0].response_ids != other.choices[0].response_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_an_engine_is_given_adapters_alone(tiny_model: Path, ray_cluster: None, dtype: Dtype) -> None:
    """As files, also on a device that it shares with the learner."""
    lora = LoraSection(rank=4, alpha=64)
    learners = LearnerGroup(replace(learner_spec(tiny_model), dtype=dtype, device="cuda", lora=lora), [HALF])
    pool = EnginePool(engine_spec(tiny_model, device="gpu", dtype=dtype, lora=lora), [SharedSeat(HALF)])
    try:
        await pool.start()
        [engine] = pool.admitted()
        await asyncio.to_thread(learners.start)
        learners.start_stage(StageSpec(BIG_STEPS, 10, Reference()))
        told = [await engine.logprobs.remote(PROBE)]
        for version in range(3):
            await pool.update(await asyncio.to_thread(learners.publish, version))
            told.append(await engine.logprobs.remote(PROBE))
            expected = await asyncio.to_thread(learners.logprobs, PROBE)
            assert told[-1] == pytest.approx(expected, abs=TOLERANCE[dtype])
            await asyncio.to_thread(learners.update, rows(version), POLICY_GRADIENT)
        assert max(abs(a - b) for a, b in zip(told[0], told[-1], strict=True)) > 1
    finally:
        await pool.shutdown()
        learners.close()
