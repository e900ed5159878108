"""An adapter's folder where a model's is asked for, and layers that an adapter may be put beside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from al_ray.errors import RecipeError, UserError
from al_ray.machines import turns
from al_ray.models import adapters, folders
from al_ray.models.config import read
from al_ray.recipe import LoraSection, ModelSection, Recipe
from tests.conftest import write_tiny_model
from tests.support.models.weights import write_weights
from tests.support.runs import toy

OF_QUERIES = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_an_adapter_whose_base_is_gone_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / adapters.CONFIG).write_text('{"base_model_name_or_path": "/nowhere"}')
    with pytest.raises(RecipeError, match="is an adapter of /nowhere, which is not there"):
        folders.resolve(str(tmp_path))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Of a base beside it, ``base``; nothing in them can be computed with."""
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    write_weights(tmp_path / "base" / "model.safetensors", {"a.weight": [8, 8]})
    write_weights(tmp_path / "adapter" / adapters.WEIGHTS, {OF_QUERIES: [32, 8]})
    config = adapters.config(LoraSection(), str(tmp_path / "base"))
    (tmp_path / "adapter" / adapters.CONFIG).write_text(json.dumps(config))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "file", ["adapter/adapter_model.safetensors", "base/model.safetensors", "base/config.json"]
)
def test_an_adapter_that_is_cut_off_or_whose_base_is_names_the_file(adapter: Path, file: str) -> None:
    """Before it is merged, and in what looks for mistakes before a run."""
    cut = adapter.parent / file
    assert folders.check(str(adapter)) is None
    cut.write_bytes(cut.read_bytes()[:-1])
    for look in (folders.check, folders.resolve):
        with pytest.raises(RecipeError, match=f"^model\\.path: '{cut}': is no .*was the download cut off"):
            look(str(adapter))


def test_an_adapter_that_is_cut_off_is_no_beginning_of_a_policy(adapter: Path) -> None:
    assert adapters.problem_of("policies.a.adapter", adapter, LoraSection()) is None
    weights = adapter / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    found = str(adapters.problem_of("policies.a.adapter", adapter, LoraSection()))
    assert found.startswith(f"policies.a.adapter: '{weights}': is no whole safetensors file")


def test_an_adapter_where_nothing_can_be_written_is_told_and_a_merged_one_there_is_found(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's, for example."""
    told = f"^model\\.path: '{adapter}': is an adapter, .* in its own folder: .*, copy it elsewhere$"
    (adapter / ".merged.lock").mkdir()  # what can be told only by trying
    with pytest.raises(RecipeError, match=told):
        folders.resolve(str(adapter))
    monkeypatch.setattr(os, "access", lambda *_: False)
    for look in (folders.check, folders.resolve):
        with pytest.raises(RecipeError, match=told):
            look(str(adapter))
    shutil.copytree(adapter.parent / "base", adapter / "merged")
    assert folders.check(str(adapter)) == folders.resolve(str(adapter)) == adapter / "merged"


def test_who_waits_for_another_process_that_merges_says_so_and_not_for_ever(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def tell(doing: str, *_: object) -> None:
        told.append(doing)
        if ends:
            shutil.copytree(adapter.parent / "base", adapter / "merged")
            theirs.release()

    monkeypatch.setattr(turns, "_TOLD_AFTER", 0.1)
    monkeypatch.setattr(turns, "_HOUR", 0.3)
    theirs = FileLock(adapter / ".merged.lock")
    theirs.acquire()
    ends = False
    with pytest.raises(UserError, match=f"^model\\.path: '{adapter}/merged': another process .*`fuser "):
        folders.resolve(str(adapter), tell)
    monkeypatch.setattr(turns, "_HOUR", 60.0)
    ends = True
    assert folders.resolve(str(adapter), tell) == adapter / "merged"
    assert told == [f"waiting for another process that prepares {adapter}/merged"] * 2


@pytest.mark.parametrize("target", ["c_attn", "embed_tokens", "input_layernorm"])
def test_a_target_that_is_no_linear_layer_is_refused_with_those_that_are(
    tiny_model: Path, target: str
) -> None:
    section = ModelSection(path=str(tiny_model), lora=LoraSection(targets=["q_proj", target]))
    with pytest.raises(RecipeError, match=rf"targets\.1: '{target}': .* k_proj, o_proj, q_proj, up_proj"):
        folders.require_trainable(tiny_model, section)
    folders.require_trainable(tiny_model, ModelSection(path=str(tiny_model), lora=LoraSection()))


def test_experts_which_are_held_as_one_tensor_get_no_adapter(tmp_path: Path) -> None:
    """What is beside them, by the same names in files, does."""
    write_tiny_model(tmp_path, "qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    told = r"targets\.4: 'gate_proj': is a matrix of experts, .*; this model has gate, k_proj, o_proj, q_proj"
    with pytest.raises(RecipeError, match=told):
        folders.require_trainable(tmp_path, ModelSection(path=str(tmp_path), lora=LoraSection()))
    attention = LoraSection(targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    section = ModelSection(path=str(tmp_path), lora=attention)
    folders.require_trainable(tmp_path, section)
    folders.require_adaptable(tmp_path, section, "gpu")
    folders.require_adaptable(tmp_path, ModelSection(path=str(tmp_path)), "cpu")
    with pytest.raises(RecipeError, match=r"model\.lora: 'rank \d+': leave it out: the model has experts"):
        folders.require_adaptable(tmp_path, section, "cpu")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"r": 8}, "has r 8, and model.lora.rank is 4: adapters of a run are alike"),
        ({"lora_alpha": 1}, "has lora_alpha 1, and model.lora.alpha is 32"),
        (
            {"target_modules": ["q_proj"]},
            "has target_modules ['q_proj'], and model.lora.targets is ['k_proj', ",
        ),
        (
            {"use_rslora": True},
            "has use_rslora True: adapters of a run are matrices that are scaled",
        ),
        ({"use_dora": True}, "has use_dora True"),
        ({"alpha_pattern": {"q_proj": 128}}, "has alpha_pattern {'q_proj': 128}"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save ['lm_head']"),
        ({"bias": "lora_only"}, "has bias lora_only"),
        ({"layers_to_transform": [0]}, "has layers_to_transform [0]"),
        ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights pissa_niter_4"),
        (None, "holds no adapter: no adapter_config.json"),
    ],
)
def test_what_a_policy_begins_as_is_an_adapter_like_the_others(
    tmp_path: Path, changed: dict[str, object] | None, told: str
) -> None:
    section = LoraSection(rank=4, targets=["k_proj", "q_proj"])
    whole = adapters.config(section, "base") | {"target_modules": ["q_proj", "k_proj"]}
    write_weights(tmp_path / adapters.WEIGHTS, {OF_QUERIES: [4, 8]})
    if changed is not None:
        (tmp_path / adapters.CONFIG).write_text(json.dumps(whole))
        assert adapters.problem_of("policies.a.adapter", tmp_path, section) is None
        (tmp_path / adapters.CONFIG).write_text(json.dumps(whole | changed))
    found = str(adapters.problem_of("policies.a.adapter", tmp_path, section))
    assert found.startswith(f"policies.a.adapter: '{tmp_path}': {told}")
    policies = {"a": {"agents": ["x"], "adapter": str(tmp_path)}, "b": {"agents": ["y"]}}
    content = toy.recipe(Path("model"), Path("out")) | {"policies": policies}
    content["model"]["lora"] = section.model_dump()
    with pytest.raises(RecipeError) as caught:
        adapters.require_alike(Recipe.model_validate(content))
    assert [str(problem) for problem in caught.value.problems] == [found]


def test_an_adapter_that_peft_writes_is_like_the_others(tmp_path: Path, tiny_model: Path) -> None:
    """Its config has all that peft knows of."""
    section = LoraSection(rank=4, targets=["q_proj", "down_proj"])
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    like = LoraConfig(r=4, lora_alpha=section.alpha, target_modules=list(section.targets))
    get_peft_model(model, like).save_pretrained(tmp_path)
    assert adapters.problem_of("policies.a.adapter", tmp_path, section) is None
    assert adapters._OTHERWISE.keys() <= read(tmp_path / adapters.CONFIG, "").keys()


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight",
    ],
)
def test_an_adapter_with_tensors_beside_the_matrices_of_its_targets_is_none_like_the_others(
    tmp_path: Path, name: str
) -> None:
    """Whatever its config says; learners would leave them out."""
    section = LoraSection(rank=4, targets=["q_proj"])
    (tmp_path / adapters.CONFIG).write_text(json.dumps(adapters.config(section, "base")))
    write_weights(tmp_path / adapters.WEIGHTS, {OF_QUERIES: [4, 8], name: [8]})
    found = str(adapters.problem_of("policies.a.adapter", tmp_path, section))
    assert found.startswith(f"policies.a.adapter: '{tmp_path}': has {name}, which is no matrix of model.lora")
