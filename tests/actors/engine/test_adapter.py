"""An engine that keeps the model and is given one adapter after the other, each in the place of the last."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import StageSpec
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.errors import AlRayError
from al_ray.machines.placement import SharedSeat
from al_ray.models import adapters
from al_ray.recipe import LoraSection, OptimizerSection
from al_ray.types import ChatReply, ChatRequest, Sampling
from tests.support.models.engine_inputs import engine_spec
from tests.support.models.learner_inputs import PROBE, learner_spec, rows

pytestmark = pytest.mark.slow

USER = [{"role": "user", "content": "hi"}]
LONG = [{"role": "user", "content": "a prompt that is longer than a block of the cache"}]


async def test_an_engine_computes_with_each_adapter_as_the_learner_does_also_for_a_call_under_way(
    tiny_model: Path, ray_cluster: None
) -> None:
    """Over each way that a file can go."""
    lora = LoraSection(rank=4, alpha=64)
    pool = EnginePool(engine_spec(tiny_model, lora=lora, max_length=1000), [SharedSeat({"num_cpus": 1})])
    await pool.start()
    [engine] = pool.admitted()
    learners = [
        Learner(replace(learner_spec(tiny_model), lora=lora, transport=transport))
        for transport in ("shared_memory", "object_store")
    ]
    with pytest.raises(AlRayError, match="pause it first"):
        await engine.load.remote(learners[0].publish(0))
    await pool.update(learners[0].publish(0))
    expected = learners[0].logprobs(PROBE)
    assert await engine.logprobs.remote(PROBE) == pytest.approx(expected, abs=1e-4)

    # Of sixteen answers one does not end before both adapters are there.
    request = ChatRequest("call", USER, Sampling(max_tokens=900, n=16))
    pieces = engine.stream.options(num_returns="streaming").remote(request)
    await (await anext(pieces))
    for version, learner in enumerate(learners, 1):
        learner.start_stage(StageSpec(OptimizerSection(learning_rate=1e-2), 3))
        learner.update([rows(10 * version + seed) for seed in range(3)], CrossEntropy())
        await pool.update(learner.publish(version))
        before, expected = expected, learner.logprobs(PROBE)
        assert await engine.logprobs.remote(PROBE) == pytest.approx(expected, abs=1e-4)
        assert expected != pytest.approx(before, abs=1e-2)
    async for piece in pieces:
        reply = await piece
    assert isinstance(reply, ChatReply)
    choice = max(reply.choices, key=lambda choice: len(choice.response_ids))
    first, *_, last = choice.versions
    assert first.version == 0 and last.version == 2 and last.end == len(choice.response_ids)
    whole, start = [*reply.prompt_ids, *choice.response_ids], len(reply.prompt_ids) - 1
    of_last = learners[1].logprobs(whole)[start:][last.start :]
    assert choice.logprobs[last.start :] == pytest.approx(of_last, abs=1e-3)

    await pool.shutdown()


async def test_an_engine_answers_for_several_policies_each_by_its_own_adapter(
    tiny_model: Path, tmp_path: Path, ray_cluster: None
) -> None:
    """Updated in place together or each for itself, beside one that stays as it is and the bare model, one
    after the other or all at once; of what was computed for one, another takes nothing."""
    lora = LoraSection(rank=4, alpha=64)
    trained = dict.fromkeys(("writer", "critic"))
    learner = Learner(replace(learner_spec(tiny_model), lora=lora, policies=trained))
    learner.start_stage(StageSpec(OptimizerSection(learning_rate=1e-2), 9))

    def learn(**seeds: int) -> None:
        batch = [replace(row, policy=name) for name, seed in seeds.items() for row in rows(seed)]
        learner.update([batch] * 3, CrossEntropy())

    learn(critic=7)
    learner.save(str(tmp_path / "step"))
    learn(writer=1, critic=2)
    begins = {"opponent": str(adapters.place_of(tmp_path / "step", "critic"))}
    unchanged = Learner(replace(learner_spec(tiny_model), lora=lora, policies=begins))
    bare = Learner(learner_spec(tiny_model))
    spec = engine_spec(tiny_model, lora=lora, adapters=begins, max_adapters=3)
    pool = EnginePool(spec, [SharedSeat({"num_cpus": 1})])
    await pool.start()
    [engine] = pool.admitted()

    def computed(policy: str, ids: Sequence[int]) -> list[float]:
        if policy == "nobody":
            return bare.logprobs(ids)
        return (learner if policy in trained else unchanged).logprobs(ids, policy)

    def check(policy: str, reply: ChatReply) -> None:
        whole = [*reply.prompt_ids, *reply.choices[0].response_ids]
        told = computed(policy, whole)[len(reply.prompt_ids) - 1 :]
        assert reply.choices[0].versions[0].version == version
        assert reply.choices[0].logprobs == pytest.approx(told, abs=1e-3), (version, policy)

    async def sampled(policy: str) -> ChatReply:
        return await engine.chat.remote(
            ChatRequest(f"of {policy}", LONG, Sampling(max_tokens=8), policy=policy)
        )

    for version, seeds in enumerate(({"writer": 3, "critic": 4}, {"writer": 5}, {"critic": 6}), 1):
        await pool.update(learner.publish(version))
        expected = {name: computed(name, PROBE) for name in (*trained, "opponent", "nobody")}
        for name, of_policy in expected.items():
            found = await engine.logprobs.remote(PROBE, name)
            assert found == pytest.approx(of_policy, abs=1e-4), (version, name)
        apart = [*expected.values()]
        assert all(
            one != pytest.approx(other, abs=1e-2) for one in apart for other in apart if one is not other
        )
        for name in ("writer", "critic", "writer"):  # each prompt is in the cache by then, of another policy
            check(name, await sampled(name))
        for name, reply in zip(expected, await asyncio.gather(*map(sampled, expected)), strict=True):
            check(name, reply)
        learn(**seeds)

    ray.kill(engine)  # the one in its place begins with all of them
    while not pool.admitted() or pool.admitted() == [engine]:
        await asyncio.sleep(0.2)
    [engine] = pool.admitted()
    for name, of_policy in expected.items():
        assert await engine.logprobs.remote(PROBE, name) == pytest.approx(of_policy, abs=1e-4), name
    await pool.shutdown()
