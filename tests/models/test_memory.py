"""What a learner will hold is reckoned from sizes alone, and is near what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from al_ray.errors import PlacementError
from al_ray.machines.plan import Plan, plan
from al_ray.models import memory
from al_ray.models.memory import GIB, Sizes, estimate
from al_ray.recipe import LoraSection, NodeShape, Recipe, loading
from tests.support.runs import toy

QWEN = Sizes(1_543_714_304, 28, 1536, 8960, 1536, 256, 151_936)
"""Qwen2.5-1.5B, and its Coder."""
LLAMA = Sizes(3_212_749_824, 28, 3072, 8192, 3072, 1024, 128_256)
"""Llama-3.2-3B."""
CARD = 80 * GIB
GPU_NODE = [NodeShape(cpus=16, gpus=1)]
CPU_NODE = [NodeShape(cpus=2)]


def recipe(**learners: Any) -> Recipe:
    told = toy.recipe(Path("model"), Path("out"))
    return Recipe.model_validate({**told, "learners": {**told.get("learners", {}), **learners}})


def placed(told: Recipe, nodes: list[NodeShape] = CPU_NODE) -> Plan:
    return plan(told, nodes)


@pytest.mark.parametrize(("name", "model"), [("calc_x", QWEN), ("spider", QWEN), ("musique", LLAMA)])
def test_the_recipes_for_a_gpu_fit_one_of_80_gib(name: str, model: Sizes) -> None:
    told = loading.load(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    found = estimate(told, plan(told, GPU_NODE), model, "bfloat16", CARD)
    assert found.learner < found.room, found.lines()


def test_of_a_gpu_that_nobody_here_can_see_no_engines_share_is_told() -> None:
    told = loading.load(Path(__file__).parents[2] / "recipes" / "calc_x.yaml")
    for memory_of_gpu, said in ((0, False), (CARD, True)):
        found = estimate(told, placed(told, GPU_NODE), QWEN, "bfloat16", memory_of_gpu)
        line = found.lines()[0]
        assert ("; an engine " in line, "engine" in line) == (said, said)


def test_sizes_are_read_from_the_config_and_the_headers_of_the_weights(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    found = memory.sizes_of(tiny_model)
    assert found is not None
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    config = json.loads((tiny_model / "config.json").read_text())
    assert (found.layers, found.hidden, found.inner, found.vocabulary) == (2, 64, 128, config["vocab_size"])
    assert memory.sizes({"n_embd": 64}, 10) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_near_what_a_forward_pass_keeps(dtype: memory.Dtype) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own and tensor.numel() > 96 * 256:  # no cast weight
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        model.model(input_ids=torch.arange(1024)[None] % 64)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    found = memory._activations(Sizes(0, 4, 96, 256, 96, 32, 64), dtype, 1024)
    assert found == pytest.approx(measured, rel=0.25)


def test_layers_are_computed_again_where_what_they_keep_would_not_fit() -> None:
    told = recipe(micro_batch_tokens=8192)
    small, large = (estimate(told, placed(told), QWEN, "float32", size * GIB) for size in (64, 512))
    assert small.recompute and not large.recompute
    assert small.parts["activations"] < large.parts["activations"] / 10
    for wanted, expected in (("always", True), ("never", False)):
        chosen = recipe(micro_batch_tokens=8192, recompute=wanted)
        assert estimate(chosen, placed(chosen), QWEN, "float32", 64 * GIB).recompute == expected


def test_a_gpu_that_cannot_be_seen_from_here_is_not_to_run_out_of_memory() -> None:
    told = toy.recipe(Path("model"), Path("out"))
    on_gpu = Recipe.model_validate({**told, "placement": {"device": "gpu"}})
    found = estimate(on_gpu, placed(on_gpu, GPU_NODE), QWEN, "bfloat16", 0)
    assert found.recompute and found.room == 0 and len(found.lines()) == 1


def test_what_is_likely_not_to_fit_is_warned_of_and_what_cannot_is_refused() -> None:
    told = recipe(micro_batch_tokens=200_000, recompute="never")
    _, warning = estimate(told, placed(told), QWEN, "float32", 64 * GIB).lines()
    assert warning.startswith("warning: a learner is likely to hold") and "micro_batch_tokens" in warning
    with pytest.raises(PlacementError, match=r"model\.path: '29.5 GiB': is what a learner .* at least"):
        estimate(told, placed(told), QWEN, "float32", 16 * GIB)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_learners_for_which_the_engines_leave_nothing_are_refused_however_many_they_are(
    replicas: int,
) -> None:
    told = recipe(replicas=replicas)
    with pytest.raises(PlacementError, match="is what a learner of this model holds at least"):
        estimate(told, placed(told, [NodeShape(cpus=8)]), QWEN, "float32", 4 * GIB)


def test_a_reference_is_counted_where_a_stage_keeps_one() -> None:
    """The toy's does."""
    told = recipe()
    parts = estimate(told, placed(told), QWEN, "float32", CARD).parts
    assert parts["reference"] == parts["weights"] == 4 * QWEN.parameters
    without = told.model_copy(update={"stages": told.stages[:1]})
    assert "reference" not in estimate(without, placed(without), QWEN, "float32", CARD).parts


def test_an_adapter_needs_a_small_part_and_its_parameters_are_those_that_peft_makes(tiny_model: Path) -> None:
    from al_ray.actors.learner.holding.adapter import add_adapters

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    section = LoraSection(rank=4)
    add_adapters(model, section, ["writer", "critic"], 0)
    made = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sizes = memory.sizes_of(tiny_model)
    assert sizes is not None and 2 * memory._adapter(sizes, section) == made
    told = recipe(recompute="always")
    small = Recipe.model_validate({**told.model_dump(), "model": {"path": "model", "lora": {}}})
    whole, adapted = (estimate(each, plan(each, GPU_NODE), LLAMA, "bfloat16", CARD) for each in (told, small))
    assert whole.learner > 60 * GIB and 2 * LLAMA.parameters < adapted.parts["weights"] < 7 * GIB
    assert 4 * LLAMA.parameters <= adapted.learner < 20 * GIB
    policies = {
        "writer": {"agents": ["w"]},
        "critic": {"agents": ["c"]},
        "old": {"agents": ["o"], "frozen": True},
    }
    several = Recipe.model_validate({**small.model_dump(), "policies": policies})
    parts = estimate(several, plan(several, GPU_NODE), LLAMA, "bfloat16", CARD).parts
    assert parts["optimizer"] == 2 * adapted.parts["optimizer"]


def test_sharded_learners_share_all_but_activations_and_what_is_put_together() -> None:
    told = recipe(replicas=4, weights="sharded", recompute="always")
    nodes = [NodeShape(cpus=16, gpus=5)]
    apart = {**told.model_dump(), "placement": {"layout": "disaggregated"}}
    whole = {**apart, "learners": {"replicas": 4, "recompute": "always"}}
    each, alone = (
        estimate(made, plan(made, nodes), LLAMA, "bfloat16", CARD)
        for made in map(Recipe.model_validate, (apart, whole))
    )
    for name in ("gradients", "optimizer", "reference"):
        assert each.parts[name] == alone.parts[name] // 4
    assert each.parts["weights"] == LLAMA.parameters and alone.parts["weights"] == 6 * LLAMA.parameters
    assert 0 < each.parts["put together"] < alone.parts["weights"] / 3
    assert 4 * LLAMA.parameters < each.learner < alone.learner / 2
