"""A learner of several policies: an adapter each beside one model, and each as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec, Reference
from al_ray.actors.weights.stored import adapters_of
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.passes import Passes
from al_ray.errors import CheckpointError
from al_ray.models.adapters import place_of
from al_ray.recipe import LoraSection
from al_ray.types import Row
from tests.support.models.learner_inputs import (
    POLICY_GRADIENT,
    PROBE,
    SECTION,
    learner_spec,
    probe_logprobs,
    rows,
    settled,
)

LORA = LoraSection(rank=4, alpha=32)
NAMES = ("writer", "critic")
STAGE = replace(SECTION, reference=Reference(every=2))
PASSES = Passes(epochs=2, mini_batches=2)


def spec(model: Path, **policies: str | None) -> LearnerSpec:
    return replace(
        learner_spec(model), lora=LORA, seed=3, policies=policies or dict.fromkeys(NAMES), recompute=True
    )


def started(model: Path, **policies: str | None) -> Learner:
    learner = Learner(spec(model, **policies))
    learner.start_stage(STAGE)
    return learner


def of(policy: str, seed: int) -> list[Row]:
    return [replace(row, policy=policy, rollout_id=f"{policy} {row.rollout_id}") for row in rows(seed)]


def both(seed: int) -> list[Row]:
    """Interleaved."""
    pairs = zip(of("writer", seed), of("critic", seed + 100), strict=True)
    return [row for pair in pairs for row in pair]


def divergences(learner: Learner, batch: list[Row]) -> Mapping[tuple[str, int], float]:
    found = learner.observe(batch, POLICY_GRADIENT, "k1", features=False)
    return dict(zip(found.calls, found.divergences.tolist(), strict=True))


async def test_each_policy_is_trained_as_it_would_be_in_a_run_of_its_own(tiny_model: Path) -> None:
    """Bit for bit: weights, optimizer, clipping, reference and what is told of it; over several epochs and
    mini-batches, and where one of the two has nothing to learn from, or fewer groups."""
    together = started(tiny_model)
    alone = {name: started(tiny_model, **{name: None}) for name in NAMES}
    for seed in range(4):
        batch = both(seed) if seed != 2 else of("writer", seed)
        batch = [row for row in batch if seed != 3 or row.policy == "writer" or row.group == "0"]
        told = together.update(PASSES(batch), POLICY_GRADIENT).metrics
        for name, learner in alone.items():
            own = [row for row in batch if row.policy == name]
            expected = learner.update(PASSES(own) if own else [[]] * 4, POLICY_GRADIENT).metrics
            for key in ("optim/loss", "optim/grad_norm", "policy/entropy", "learner/trained_tokens"):
                assert told.get(f"{key}/{name}") == expected.get(key), (seed, name, key)
            assert together.logprobs(PROBE, name) == learner.logprobs(PROBE, name)
        assert divergences(together, batch) == {
            call: of_call
            for name, learner in alone.items()
            for call, of_call in divergences(learner, [row for row in batch if row.policy == name]).items()
        }
    assert together.logprobs(PROBE, "writer") != pytest.approx(together.logprobs(PROBE, "critic"), abs=1e-2)
    tensors = await adapters_of(together.publish(4))
    for name, learner in alone.items():
        sent = (await adapters_of(learner.publish(4)))[name]
        assert tensors[name].keys() == sent.keys() and len(sent) == 2 * len(LORA.targets) * 2
        assert all(torch.equal(tensors[name][key], sent[key]) for key in sent)
        learner.close()
    together.close()


def test_what_is_told_of_an_update_is_of_all_policies(tiny_model: Path) -> None:
    told = started(tiny_model).update([both(0)], POLICY_GRADIENT).metrics
    assert told["optim/steps"] == 2
    for key, whole in (("learner/trained_tokens", 1), ("optim/loss", 2), ("optim/grad_norm", 2)):
        assert told[key] == pytest.approx(sum(told[f"{key}/{name}"] for name in NAMES) / whole)
    only = started(tiny_model).update([of("critic", 0)], POLICY_GRADIENT)
    assert only.policy_version == 1
    assert only.metrics["optim/steps"] == only.metrics["optim/steps_empty"] == 1
    assert only.metrics["optim/grad_norm/writer"] == 0 != only.metrics["optim/grad_norm/critic"]
    with pytest.raises(ValueError, match="rows of policies that do not learn: \\['opponent'\\]"):
        started(tiny_model).update([of("opponent", 0)], POLICY_GRADIENT)


def test_a_loaded_checkpoint_continues_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    learner = started(tiny_model)
    learner.update([both(0)], POLICY_GRADIENT)
    learner.save(str(tmp_path / "step_1"))
    resumed = Learner(spec(tiny_model))
    resumed.load(str(tmp_path / "step_1"))
    assert resumed.policy_version() == 1
    for seed in (1, 2, 3):
        expected, found = (each.update([both(seed)], POLICY_GRADIENT) for each in (learner, resumed))
        assert settled(expected) == settled(found)
    for name in NAMES:
        assert learner.logprobs(PROBE, name) == resumed.logprobs(PROBE, name)
    (place_of(tmp_path / "step_1", "critic") / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        Learner(spec(tiny_model)).load(str(tmp_path / "step_1"))


def test_each_adapter_has_a_folder_that_peft_loads_and_that_a_policy_may_begin_as(
    tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    learner = started(tiny_model)
    for seed in range(2):
        learner.update([both(seed)], CrossEntropy())
    learner.save(str(tmp_path / "step_2"))
    assert not list((tmp_path / "step_2").glob("*.safetensors"))
    assert (tmp_path / "step_2" / "tokenizer.json").is_file()
    for name in NAMES:
        folder = place_of(tmp_path / "step_2", name)
        assert folder == tmp_path / "step_2" / "policies" / name
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        adapted = PeftModel.from_pretrained(base, folder).eval()
        assert learner.logprobs(PROBE, name) == pytest.approx(probe_logprobs(adapted), abs=1e-5)
        assert all(key.startswith("base_model.model.model.layers.") for key in load_file(
            folder / "adapter_model.safetensors"))  # fmt: skip
    again = Learner(spec(tiny_model, eval=None, pupil=str(place_of(tmp_path / "step_2", "critic"))))
    assert again.logprobs(PROBE, "pupil") == learner.logprobs(PROBE, "critic")
    assert again.logprobs(PROBE, "eval") == pytest.approx(Learner(learner_spec(tiny_model)).logprobs(PROBE))
