"""A learner that trains an adapter alone: what moves, what is kept, and what others load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import Reference
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.models import folders
from al_ray.recipe import LoraSection
from tests.support.models.learner_inputs import (
    POLICY_GRADIENT,
    PROBE,
    SECTION,
    WITH_REFERENCE,
    learner_spec,
    probe_logprobs,
    rows,
    settled,
)

LORA = LoraSection(rank=4, alpha=8)


def started(model: Path, **changed: object) -> Learner:
    learner = Learner(replace(learner_spec(model), lora=LORA, **changed))
    learner.start_stage(WITH_REFERENCE)
    return learner


def parameters(learner: Learner) -> Mapping[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner._held.model.named_parameters()}


def test_an_update_moves_the_adapter_and_nothing_else(tiny_model: Path) -> None:
    """Before the first, the model computes as it did without."""
    plain = Learner(learner_spec(tiny_model))
    learner = started(tiny_model)
    assert learner.logprobs(PROBE) == pytest.approx(plain.logprobs(PROBE), abs=1e-6)
    before = parameters(learner)
    for seed in range(2):  # the first gradient of A is zero, as B is
        learner.update([rows(seed)], CrossEntropy())
    moved = {name for name, value in parameters(learner).items() if not torch.equal(value, before[name])}
    adapter = {name for name in before if "lora_" in name}
    assert moved == adapter and len(adapter) == 2 * len(LORA.targets) * 2
    base = load_file(tiny_model / "model.safetensors")
    for name, value in parameters(learner).items():
        if "lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer.", ".")]), name


def test_the_base_is_held_in_what_is_computed_in_and_the_adapter_in_float32(tiny_model: Path) -> None:
    learner = started(tiny_model, dtype="bfloat16")
    learner.update([rows()], POLICY_GRADIENT)
    found = {("lora_" in name, value.dtype) for name, value in learner._held.model.named_parameters()}
    assert found == {(True, torch.float32), (False, torch.bfloat16)}
    plain = Learner(replace(learner_spec(tiny_model), dtype="bfloat16"))
    plain.start_stage(SECTION)
    assert started(tiny_model, dtype="bfloat16").logprobs(PROBE) == pytest.approx(
        plain.logprobs(PROBE), abs=0.15
    )


def test_divergence_is_measured_from_the_model_as_the_stage_begins(tiny_model: Path) -> None:
    """The reference of the first stage is the untrained model, as the learner of all weights has it."""
    learner = started(tiny_model)
    assert learner.update([rows()], POLICY_GRADIENT).metrics["policy/kl"] == 0
    found = learner.observe(rows(1), POLICY_GRADIENT, "k1", features=False)
    untrained = Learner(learner_spec(tiny_model))
    for (rollout, _), divergence in zip(found.calls, found.divergences, strict=True):
        (row,) = (row for row in rows(1) if row.rollout_id == rollout)
        ours, others = (np.array(each.logprobs(row.tokens))[row.trained[1:]] for each in (learner, untrained))
        assert divergence == pytest.approx((ours - others).sum(), rel=1e-3, abs=1e-5) and divergence
    assert learner.update([rows()], POLICY_GRADIENT).metrics["policy/kl"] > 1e-7
    learner.start_stage(WITH_REFERENCE)
    assert learner.update([rows()], POLICY_GRADIENT).metrics["policy/kl"] == 0


def test_a_loaded_adapter_continues_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    learner = started(tiny_model, seed=3)
    learner.start_stage(replace(SECTION, reference=Reference(every=2)))
    learner.update([rows(0)], POLICY_GRADIENT)
    learner.save(str(tmp_path / "step_1"))
    resumed = Learner(replace(learner_spec(tiny_model), lora=LORA))
    resumed.load(str(tmp_path / "step_1"))
    for seed in (1, 2, 3):
        expected, found = (each.update([rows(seed)], POLICY_GRADIENT) for each in (learner, resumed))
        assert settled(expected) == settled(found)
    ours, theirs = parameters(learner), parameters(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_is_an_adapters_folder_that_peft_loads_and_a_model_that_can_be_named(
    tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    learner = started(tiny_model)
    for seed in range(2):
        learner.update([rows(seed)], CrossEntropy())
    folder = tmp_path / "step_2"
    learner.save(str(folder))
    assert not (folder / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = PeftModel.from_pretrained(base, folder).eval()
    assert folders.check(str(folder)) is None
    merged = folders.resolve(str(folder))
    assert folders.resolve(str(folder)) == merged == folders.check(str(folder))
    assert (merged / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    whole = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert learner.logprobs(PROBE) != pytest.approx(Learner(learner_spec(tiny_model)).logprobs(PROBE))
    for model in (adapted, whole):
        assert learner.logprobs(PROBE) == pytest.approx(probe_logprobs(model), abs=1e-5)
    assert folders.check(str(merged)) == merged


def test_only_the_adapter_is_published(tiny_model: Path) -> None:
    learner = started(tiny_model)
    update = learner.publish(version=1)
    assert update.path is not None
    published = load_file(update.path)
    assert len(published) == 2 * len(LORA.targets) * 2
    assert all(name.startswith("base_model.model.model.layers.") for name in published)
    assert published.keys() == {name for name, _ in learner.named_tensors()}
    learner.close()
