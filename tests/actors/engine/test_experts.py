"""Engines of models with experts compute with the weights that learners send them, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import StageSpec
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.machines.placement import SharedSeat
from al_ray.recipe import OptimizerSection
from al_ray.types import ChatRequest, Sampling
from tests.conftest import write_tiny_model
from tests.support.models.engine_inputs import engine_spec
from tests.support.models.learner_inputs import PROBE, learner_spec, rows

pytestmark = pytest.mark.slow

MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN3_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 32}
"""Experts of a width that vLLM pads on CPU."""


@pytest.mark.parametrize(("kind", "own"), [("mixtral", MIXTRAL), ("qwen3_moe", QWEN3_MOE)])
async def test_after_each_update_an_engine_of_experts_says_what_the_learner_says(
    kind: str, own: dict[str, Any], tmp_path: Path, ray_cluster: None
) -> None:
    """vLLM 0.32 packs experts for its kernels on CPU once, and would compute with what comes as if it were
    packed."""
    write_tiny_model(tmp_path, kind, **own)
    learner = Learner(learner_spec(tmp_path))
    learner.start_stage(StageSpec(OptimizerSection(learning_rate=1e-2, warmup_steps=0), 3))
    pool = EnginePool(engine_spec(tmp_path), [SharedSeat({"num_cpus": 1})])
    await pool.start()
    [engine] = pool.admitted()
    expected = learner.logprobs(PROBE)
    assert await engine.logprobs.remote(PROBE) == pytest.approx(expected, abs=1e-4)
    for version in (1, 2):
        learner.update([rows(version)], CrossEntropy())
        await pool.update(learner.publish(version))
        before, expected = expected, learner.logprobs(PROBE)
        assert await engine.logprobs.remote(PROBE) == pytest.approx(expected, abs=1e-4)
        assert max(abs(a - b) for a, b in zip(before, expected, strict=True)) > 0.1
    said = [{"role": "user", "content": "hi"}]
    reply = await engine.chat.remote(ChatRequest("call", said, Sampling(max_tokens=20)))
    [choice] = reply.choices
    whole = learner.logprobs([*reply.prompt_ids, *choice.response_ids])
    assert choice.logprobs == pytest.approx(whole[len(reply.prompt_ids) - 1 :], abs=1e-4)
    learner.close()
    await pool.shutdown()
