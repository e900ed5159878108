"""What is read out of a model: the tensors of its files, however it holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.model import in_files, in_state
from al_ray.actors.weights.pushed import IpcPublisher
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from tests.support.models.architectures import tiny_config, tiny_model
from tests.support.models.learner_inputs import SECTION, learner_spec, rows

HELD_OTHERWISE = [
    "deepseek_v32", "gemma3", "glm4_moe", "gpt_neox", "granitemoe", "jamba", "lfm2_moe", "minimax_m2",
    "mixtral", "olmoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe",
]  # fmt: skip
"""Experts in one tensor, other names, or buffers beside the parameters that an engine must have."""
AS_IN_FILES = ["bloom", "gemma2", "gpt2", "gpt_oss", "llama", "llama4_text", "qwen3"]


def saved(architecture: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a tiny model in the folder, which ``from_pretrained`` wrote."""
    tiny_model(tiny_config(architecture, vocab_size=256)).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("architecture", [*HELD_OTHERWISE, *AS_IN_FILES])
def test_a_models_state_is_told_as_its_files_have_it(architecture: str, tmp_path: Path) -> None:
    """All architectures were once compared: camembert and xlm-roberta alone name a tied weight otherwise."""
    expected = saved(architecture, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal(dict(in_files(model, in_state(model))), expected)
    own = {name for name, _ in in_state(model)}
    assert (own != expected.keys()) == (architecture in HELD_OTHERWISE)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "olmoe", "minimax_m2"])
def test_what_a_learner_of_experts_publishes_and_saves_is_what_it_holds_after_a_step(
    architecture: str, tmp_path: Path
) -> None:
    """And it is what another learner goes on from, to the last bit."""
    before = saved(architecture, tmp_path / "model")
    learner = Learner(learner_spec(tmp_path / "model"))
    learner.start_stage(SECTION)
    learner.update([rows()], CrossEntropy())
    update = learner.publish(version=1)
    assert update.path is not None
    published = load_file(update.path)
    assert published.keys() == before.keys()
    moved = {name for name in before if not torch.equal(published[name], before[name])}
    assert any(".experts." in name for name in moved) and any("gate" in name for name in moved)
    learner.save(str(tmp_path / "step_1"))
    learner.close()
    assert_equal(load_file(tmp_path / "step_1" / "model.safetensors"), published)
    other = Learner(learner_spec(tmp_path / "model"))
    other.load(str(tmp_path / "step_1"))
    for (name, mine), (_, theirs) in zip(learner.named_tensors(), other.named_tensors(), strict=True):
        assert torch.equal(mine, theirs), name


def test_what_is_pushed_is_announced_and_sent_as_files_have_it(tmp_path: Path) -> None:
    """Shapes are told before any tensor is put together; what no step moves stays in its own precision."""
    expected = saved("minimax_m2", tmp_path)
    learner = Learner(replace(learner_spec(tmp_path), dtype="bfloat16", transport="ipc"))
    assert isinstance(learner._publisher, IpcPublisher)
    learner.publish(version=1)
    source = learner._publisher._source()
    sent = dict(source)
    told = {each.name: (each.dtype, each.shape) for each in source.metadata()}
    assert told == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in sent.items()}
    assert list(told) == list(sent) and sent.keys() == expected.keys()
    kept = {name for name, tensor in sent.items() if tensor.dtype == torch.float32}
    assert kept == {name for name in expected if "bias" in name}
    for name in expected.keys() - kept:
        assert torch.equal(sent[name], expected[name].bfloat16()), name
