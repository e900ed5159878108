"""Adapters of low rank in files, as peft writes and vLLM reads them: an adapter's weights and what they are.

A folder that holds them is no model folder: whoever wants one has it merged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from al_ray.errors import Problem, RecipeError
from al_ray.machines.turns import turn
from al_ray.machines.whole import whole_folder
from al_ray.models import beside, tensors
from al_ray.models.config import config_of, read
from al_ray.recipe import LoraSection, Recipe

if TYPE_CHECKING:  # which takes seconds
    from transformers import PreTrainedModel

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_MERGED: Final = "merged"
_POLICIES: Final = "policies"
_OF_LAYER: Final = re.compile(r"\.\d+\..*?(\w+)\.weight$")
"""The last part of the name of something that each layer has."""
_OF_EXPERT: Final = re.compile(r"\.experts\.\d+\.")
_OF_EXPERTS: Final = re.compile(r"\.experts\.")
"""Of one, or of all of a layer in one tensor."""
_IN_FILES: Final = re.compile(r"\.(\w+)\.lora_[AB]\.weight$")
"""At the end of the name of an adapter's matrix: what it is put beside."""
_OTHERWISE: Final[Mapping[str, Sequence[object]]] = {
    "use_rslora": (),
    "use_dora": (),
    "use_qalora": (),
    "use_bdlora": (),
    "lora_bias": (),
    "bias": ("none",),
    "rank_pattern": (),
    "alpha_pattern": (),
    "modules_to_save": (),
    "target_parameters": (),
    "trainable_token_indices": (),
    "exclude_modules": (),
    "layers_to_transform": (),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "arrow_config": (),
    "kasa_config": (),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal", "mica", "lora_ga"),
}
"""What peft may do otherwise than to add ``alpha / rank * B A`` to each target of the model, with the values
by which it does not, beside none, false and empty. With other beginnings peft changes the model, too."""


def config(section: LoraSection, base: str) -> dict[str, Any]:
    """The content of ``CONFIG``; ``base`` is the folder of the model that it is an adapter of."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": section.rank,
        "lora_alpha": section.alpha,
        "target_modules": list(section.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def place_of(checkpoint: Path, policy: str) -> Path:
    """Where a checkpoint has the policy's adapter: within, where there are several."""
    return checkpoint / _POLICIES / policy if policy else checkpoint


@contextmanager
def folder_of(weights: Path, section: LoraSection, base: str) -> Iterator[Path]:
    """An adapter's folder of weights that lie in a file, wherever that is."""
    with TemporaryDirectory(prefix="al_ray-adapter-") as folder:
        (Path(folder) / WEIGHTS).symlink_to(weights)
        (Path(folder) / CONFIG).write_text(json.dumps(config(section, base)), encoding="utf-8")
        yield Path(folder)


def problem_of_targets(folder: Path, section: LoraSection) -> Problem | None:
    """Where a target is no matrix of the layers of the model in that folder, or one of experts: these are
    held as one tensor, on which peft puts an adapter that vLLM does not read."""
    known, of_experts = set[str](), set[str]()
    for name, shape in tensors.shapes(folder):
        if len(shape) == 2 and (match := _OF_LAYER.search(name)):
            (of_experts if _OF_EXPERT.search(name) else known).add(match[1])
    known -= of_experts
    for index, target in enumerate(section.targets):
        if target not in known:
            what = "a matrix of experts, which get no adapter" if target in of_experts else "no linear layer"
            cure = f"is {what}; this model has {', '.join(sorted(known)) or 'none'}"
            return Problem(f"model.lora.targets.{index}", target, cure)
    return None


def has_experts(folder: Path) -> bool:
    """Whether the model in that folder does."""
    return any(_OF_EXPERTS.search(name) for name, _ in tensors.shapes(folder))


def require_alike(recipe: Recipe) -> None:
    """Raises ``RecipeError`` where what a policy is to begin as is no adapter like the others."""
    section = recipe.model.lora
    begin = {name: each.adapter for name, each in recipe.policies.items() if each.adapter is not None}
    problems = [
        problem
        for name, folder in begin.items()
        if section and (problem := problem_of(f"policies.{name}.adapter", Path(folder), section))
    ]
    if problems:
        raise RecipeError(*problems)


def problem_of(where: str, folder: Path, section: LoraSection) -> Problem | None:
    """Why what lies in that folder, which stands ``where`` in the recipe, is no adapter like the others of a
    run, which are as ``section`` says."""
    if not is_adapter(folder) or not (folder / WEIGHTS).is_file():
        return Problem(where, str(folder), f"holds no adapter: no {CONFIG} and {WEIGHTS}")
    try:
        found, wanted = read(folder / CONFIG, where), config(section, "")
        names = tensors.shapes_in(folder / WEIGHTS, where)
    except RecipeError as error:
        return error.problems[0]
    for key, name in (("r", "rank"), ("lora_alpha", "alpha"), ("target_modules", "targets")):
        theirs, ours = found.get(key), wanted[key]
        if (sorted(theirs or ()) != sorted(ours)) if key == "target_modules" else theirs != ours:
            cure = f"has {key} {theirs}, and model.lora.{name} is {ours}: adapters of a run are alike"
            return Problem(where, str(folder), cure)
    for key, plain in _OTHERWISE.items():
        if (value := found.get(key)) and value not in plain:
            cure = f"has {key} {value}: adapters of a run are matrices that are scaled by alpha / rank alone"
            return Problem(where, str(folder), cure)
    for name in names:
        if (match := _IN_FILES.search(name)) is None or match[1] not in section.targets:
            cure = f"has {name}, which is no matrix of model.lora.targets: adapters of a run have no others"
            return Problem(where, str(folder), cure)
    return None


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The folder of the model that an adapter is added to. Raises ``RecipeError`` where it is not told."""
    return Path(str(read(folder / CONFIG, "model.path").get("base_model_name_or_path")))


def merged_at(folder: Path) -> Path | None:
    """The merged model of an adapter, where it was made already."""
    return folder / _MERGED if (folder / _MERGED / "config.json").is_file() else None


def require_mergeable(folder: Path) -> Path:
    """The folder of the adapter's base. Raises ``RecipeError`` where ``merged`` could not make the model."""
    base = base_of(folder)
    if not (base / "config.json").is_file():
        cure = f"is an adapter of {base}, which is not there: bring it back"
        raise RecipeError(Problem("model.path", str(folder), cure))
    config_of(base)
    tensors.shapes_in(folder / WEIGHTS, "model.path")
    for _ in tensors.shapes(base):  # raises at a file that is not whole
        pass
    if not os.access(folder, os.W_OK):
        raise RecipeError(_unmerged(folder, "it cannot be written"))
    return base


def merged(folder: Path, tell: Callable[[str], None]) -> Path:
    """A model folder inside the adapter's, made if it is not there yet: float32 weights of its base with the
    adapter added, and the other files of the adapter's folder. Raises ``RecipeError`` where that fails."""
    if (found := merged_at(folder)) is not None:
        return found
    base = require_mergeable(folder)
    try:
        with turn("model.path", folder / _MERGED, tell):
            if (found := merged_at(folder)) is not None:
                return found
            tell(f"adding an adapter to {base.name}")
            with whole_folder(folder / _MERGED) as partial:
                _merge(base, folder, partial)
    except OSError as error:
        raise RecipeError(_unmerged(folder, str(error))) from error
    return folder / _MERGED


def _unmerged(folder: Path, why: str) -> Problem:
    cure = f"is an adapter, which is merged with its base in its own folder: {why}; where it may not be "
    return Problem("model.path", str(folder), f"{cure}written, or has no room, copy it elsewhere")


def added(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter in ``folder`` added to its weights."""
    from peft import PeftModel

    with_adapter: PreTrainedModel = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return with_adapter


def _merge(base: Path, adapter: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    added(model, adapter).save_pretrained(into)
    beside.copy(adapter, into)
