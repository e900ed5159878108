"""What an engine pool promises about weights: in place, while calls are held, and never half."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import psutil
import pytest
import pytest_asyncio
import ray
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.stored import ObjectStorePublisher, SharedMemoryPublisher
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import AlRayError, BadRequestError, EngineUnavailableError
from al_ray.machines.placement import SharedSeat
from al_ray.types import ChatReply, ChatRequest, Sampling
from tests.support.models.engine_inputs import engine_spec

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
module_loop = pytest_asyncio.fixture(scope="module", loop_scope="module")

PROMPT = [1, 87, 85, 71, 84, 201, 74, 75, 2, 201, 30, 40, 50]
USER = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Begun:
    """A pool of one engine, and the cores of those before it, which were lost as they started."""

    pool: EnginePool
    lost: Mapping[int, psutil.Process]
    """By the signal that each was sent."""


@module_loop
async def begun(tiny_model: Path, ray_cluster: None) -> AsyncIterator[Begun]:
    """All that this module's tests begin with: a life of a real engine takes long."""
    template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    pool = EnginePool(engine_spec(tiny_model, chat_template=template), [SharedSeat({"num_cpus": 1})])
    starting = asyncio.create_task(pool.start())
    lost: dict[int, psutil.Process] = {}
    for signal in (SIGSTOP, SIGKILL):
        while signal not in lost and not starting.done():
            await asyncio.sleep(0.1)
            for core in await starting_cores(pool):
                if core not in lost.values():
                    lost[signal] = core
                    core.send_signal(signal)
    await starting
    yield Begun(pool, lost)
    await pool.shutdown()


async def starting_cores(pool: EnginePool) -> list[psutil.Process]:
    """Of the engine that starts, which may be lost at any moment."""
    if (engine := pool._slots[0].starting) is None:
        return []
    with suppress(ray.exceptions.RayActorError, psutil.NoSuchProcess):
        return cores_of(psutil.Process(await engine.__ray_call__.remote(lambda self: os.getpid())))
    return []


def cores_of(engine: psutil.Process) -> list[psutil.Process]:
    """vLLM's own process, as soon as it is there, which computes for the engine's actor."""
    return [child for child in engine.children() if child.name().startswith("VLLM")]


@pytest.fixture
def pool(begun: Begun) -> EnginePool:
    return begun.pool


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model)


def version_of(pool: EnginePool) -> int:
    """Of the weights that engines are given now."""
    return 0 if pool._update is None else pool._update.version


def changed(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """``model`` with every weight moved."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def logprobs(model: LlamaForCausalLM, token_ids: list[int]) -> torch.Tensor:
    scores = model(torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, torch.tensor(token_ids)[1:, None])[:, 0]


async def assert_holds(pool: EnginePool, model: LlamaForCausalLM) -> None:
    [engine] = pool.admitted()
    found = torch.tensor(await engine.logprobs.remote(PROMPT))
    torch.testing.assert_close(found, logprobs(model, PROMPT), atol=1e-4, rtol=0)


@pytest.mark.parametrize("signal", [SIGSTOP, SIGKILL])
async def test_an_engine_whose_core_is_lost_as_it_starts_is_followed_by_another(
    begun: Begun, signal: int
) -> None:
    """Also the first of a run, and the one after it. vLLM would wait for one that is stopped."""
    assert len(begun.pool.admitted()) == 1 and not begun.lost[signal].is_running()


async def test_the_recipes_template_replaces_the_models(pool: EnginePool, tiny_model: Path) -> None:
    [engine] = pool.admitted()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert await engine.render.remote(USER) == tokenizer("<hi>").input_ids


async def test_tools_are_refused_where_no_parser_would_find_their_calls(pool: EnginePool) -> None:
    [engine] = pool.admitted()
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    with pytest.raises(BadRequestError, match="tool_parser"):
        await engine.chat.remote(ChatRequest("call", USER, Sampling(), tools=[tool]))


async def test_an_update_that_nobody_sends_is_refused(pool: EnginePool) -> None:
    with pytest.raises(ValueError, match="give send"):
        await pool.update(WeightUpdate(99))


async def test_weights_of_a_running_engine_cannot_be_changed(
    pool: EnginePool, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    [engine] = pool.admitted()
    publisher = SharedMemoryPublisher(tmp_path)
    with pytest.raises(AlRayError, match="pause it first"):
        await engine.load.remote(publisher.publish(model.named_parameters(), 1))
    publisher.close()
    await assert_holds(pool, model)


@pytest.mark.parametrize("way", ["shared_memory", "object_store"])
async def test_each_of_two_updates_gives_the_engine_exactly_the_learners_weights(
    pool: EnginePool, model: LlamaForCausalLM, way: str, tmp_path: Path
) -> None:
    publisher = SharedMemoryPublisher(tmp_path) if way == "shared_memory" else ObjectStorePublisher()
    for version in (version_of(pool) + 1, version_of(pool) + 2):
        await pool.update(publisher.publish(changed(model, version).named_parameters(), version))
        await assert_holds(pool, model)
        [engine] = pool.admitted()
        assert await engine.policy_version.remote() == version_of(pool) == version
    publisher.close()


async def test_a_call_under_way_goes_on_with_the_new_weights_and_says_where(
    pool: EnginePool, model: LlamaForCausalLM
) -> None:
    [engine] = pool.admitted()
    old, publisher = version_of(pool), ObjectStorePublisher()
    request = ChatRequest("call", USER, Sampling(max_tokens=120, seed=1))
    pieces = engine.stream.options(num_returns="streaming").remote(request)
    await (await anext(pieces))
    old_model = LlamaForCausalLM(model.config)
    old_model.load_state_dict(model.state_dict())
    await pool.update(publisher.publish(changed(model, old + 1).named_parameters(), old + 1))
    reply = None
    async for piece in pieces:
        reply = await piece
    assert isinstance(reply, ChatReply)
    [choice] = reply.choices
    first, second = choice.versions
    assert (first.version, second.version) == (old, old + 1)
    assert first.start == 0 and first.end == second.start > 0 and second.end == len(choice.response_ids)
    whole, start = [*reply.prompt_ids, *choice.response_ids], len(reply.prompt_ids) - 1
    by_old, by_new = logprobs(old_model, whole)[start:], logprobs(model, whole)[start:]
    expected = torch.cat([by_old[: first.end], by_new[first.end :]])
    torch.testing.assert_close(torch.tensor(choice.logprobs), expected, atol=1e-3, rtol=0)
    await assert_holds(pool, model)


@pytest.mark.parametrize("signal", [SIGSTOP, SIGKILL])
async def test_an_engine_whose_core_ends_as_weights_change_is_replaced_and_has_them(
    pool: EnginePool, model: LlamaForCausalLM, tmp_path: Path, signal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead, which vLLM tells nobody who waits for it, or stopped, which its own check calls healthy. Nothing
    is left of the old one."""
    publisher = SharedMemoryPublisher(tmp_path)
    version = version_of(pool) + 1
    [engine] = pool.admitted()
    actor = psutil.Process(await engine.__ray_call__.remote(lambda self: os.getpid()))
    [core] = cores_of(actor)
    core.send_signal(signal)
    if signal == SIGSTOP:
        monkeypatch.setattr(pool, "_answer_seconds", 3.0)
    update = publisher.publish(changed(model, version).named_parameters(), version)
    asked = asyncio.create_task(pool.update(update))
    async with asyncio.timeout(60):
        while engine in pool.engines():
            await asyncio.sleep(0.1)
    monkeypatch.undo()
    await asked
    [replacement] = pool.admitted()
    assert await replacement.policy_version.remote() == version
    await assert_holds(pool, model)
    _, left = psutil.wait_procs([actor, core], timeout=20)
    assert left == []
    publisher.close()


async def test_an_engine_that_cannot_load_an_update_answers_no_more(
    pool: EnginePool, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    [engine] = pool.admitted()
    current, publisher = version_of(pool), SharedMemoryPublisher(tmp_path)
    lacking = list(model.named_parameters())[:-1]
    with pytest.raises(EngineUnavailableError, match="no engine could load it"):
        await pool.update(publisher.publish(lacking, current + 1))
    publisher.close()
    assert pool.admitted() == [] and version_of(pool) == current
    async with asyncio.timeout(30):
        with pytest.raises(ray.exceptions.RayActorError):
            while True:  # its end is on its way
                await engine.ping.remote()
