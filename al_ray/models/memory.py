"""What engines and learners will hold in memory, reckoned before anything starts.

Pure but for ``sizes_of``, which reads a model's folder. Reckoned are weights, gradients, optimizer, what a
forward pass keeps for the backward pass, masks and the loss head; what libraries hold is an allowance. The
activations are those of a decoder with gated layers; learners log beside the estimate what they held.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from al_ray.errors import PlacementError, Problem
from al_ray.machines.plan import Plan
from al_ray.machines.precision import Dtype
from al_ray.models import limits, tensors
from al_ray.models.config import config_of
from al_ray.recipe import LoraSection, Recipe

GIB: Final = 2**30
_FLOAT: Final = 4
_WIDTH: Final[Mapping[Dtype, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
_CHUNK: Final = 4 * 2**27
"""Of logits and what is made of them, at most (``algorithms/losses/head.py``)."""
_LIBRARIES: Final[Mapping[str, int]] = {"cpu": 3 * GIB // 4, "gpu": GIB}
"""torch and its like in a process; the context on a GPU."""
_ENGINE: Final = 3 * GIB // 2
"""vLLM's process on CPU, beside weights and cache."""
_DRIVER: Final = 2 * GIB
"""Driver, store, gateway and runners."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model, as its config and its weights' headers tell."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    """Of the feed-forward layers."""
    queries: int
    """All heads of queries together."""
    keys: int
    """All heads of keys, or of values, together."""
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes."""

    parts: Mapping[str, int]
    """Of one learner."""
    engine: int
    """One engine's share; 0: nobody here knows."""
    room: int
    """What one learner may have; 0: nobody here knows."""
    recompute: bool
    """Layers are computed again in the backward pass, or what they made would not fit."""

    @property
    def learner(self) -> int:
        return sum(self.parts.values())

    def lines(self) -> list[str]:
        """For whoever starts a run."""
        told = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items())
        held, room = f"{self.learner / GIB:.1f}", f"{self.room / GIB:.1f}"
        of = f" of {room}" if self.room else ""
        engine = f"; an engine {self.engine / GIB:.1f} GiB" if self.engine else ""
        lines = [f"memory, estimated: a learner {held}{of} GiB ({told}){engine}"]
        if self.room and self.learner > self.room:
            lines.append(
                f"warning: a learner is likely to hold {held} GiB, and has {room}: lower "
                "learners.micro_batch_tokens, model.max_length or what engines take (engines.gpu_memory, "
                "engines.kv_cache_gib), or set learners.recompute to auto"
            )
        return lines


def sizes_of(folder: Path) -> Sizes | None:
    """None where the config does not call its sizes by their usual names."""
    text = limits.text_part(config_of(folder))
    return sizes(text, sum(math.prod(shape) for _, shape in tensors.shapes(folder)))


def sizes(config: Mapping[str, Any], parameters: int) -> Sizes | None:
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        width = int(config.get("head_dim") or hidden // heads)
        keys = int(config.get("num_key_value_heads") or heads) * width
        layers, inner = int(config["num_hidden_layers"]), int(config["intermediate_size"])
        return Sizes(parameters, layers, hidden, inner, heads * width, keys, int(config["vocab_size"]))
    except (KeyError, TypeError, ValueError):
        return None


def estimate(recipe: Recipe, plan: Plan, model: Sizes, dtype: Dtype, memory: int) -> Estimate:
    """``memory`` is that of the machine, or of a GPU; 0: unknown. Raises ``PlacementError`` where not even
    weights, gradients and optimizer fit."""
    engine, room = _engine_and_room(recipe, plan, model, dtype, memory)
    fixed = _fixed(recipe, plan.device, model, dtype)
    if room and (least := sum(fixed.values())) > room:
        cure = f"is what a learner of this model holds at least, and it has {room / GIB:.1f} GiB: "
        cure += (
            "name a smaller model, train an adapter (model.lora), share the weights out among more learners "
        )
        cure += "(learners.weights: sharded), give the engines less, or the learners devices of their own "
        cure += "(placement.layout: disaggregated)"
        raise PlacementError(Problem("model.path", f"{least / GIB:.1f} GiB", cure))
    tokens = max(recipe.learners.micro_batch_tokens, recipe.model.max_length)
    passing = _passing(plan.device, model, dtype, tokens, trained=recipe.model.lora is None)
    whole = _activations(model, dtype, tokens)
    if _sharers(recipe) > 1:
        passing["put together"] = _together(recipe, model, dtype)
        whole += _cast(recipe, model, dtype)
    wanted = recipe.learners.recompute
    # A GPU that nobody here can see is not to run out of memory.
    short = sum(fixed.values()) + sum(passing.values()) + whole > room if room else plan.device == "gpu"
    recompute = short if wanted == "auto" else wanted == "always"
    kept = _FLOAT * model.hidden * model.layers * tokens + whole // model.layers if recompute else whole
    parts = {**fixed, "activations": kept, **passing}
    if recipe.model.lora is not None or _sharers(recipe) > 1:  # it is loaded, and tried out, in one piece
        spare = fixed["libraries"] + _FLOAT * model.parameters - sum(parts.values())
        parts |= {"loading": spare} if spare > 0 else {}
    return Estimate(parts, engine, room, recompute)


def _engine_and_room(recipe: Recipe, plan: Plan, model: Sizes, dtype: Dtype, memory: int) -> tuple[int, int]:
    if plan.device == "gpu":
        engine = int(memory * recipe.engines.gpu_memory)
        return engine, memory - engine if plan.layout == "colocated" else memory
    cache = int(recipe.engines.kv_cache_gib * GIB)
    engine = model.parameters * _WIDTH[dtype] + cache + _ENGINE
    others = _DRIVER + recipe.engines.replicas * engine
    return engine, max((memory - others) // recipe.learners.replicas, 1) if memory else 0


def _fixed(recipe: Recipe, device: Literal["cpu", "gpu"], model: Sizes, dtype: Dtype) -> dict[str, int]:
    sharers = _sharers(recipe)
    trained = _FLOAT * _trained(recipe, model)
    frozen = _base_width(recipe, dtype) * model.parameters if recipe.model.lora else 0
    reference = any(getattr(stage, "kl_coefficient", 0) > 0 for stage in recipe.stages)
    return {
        "weights": (trained + frozen) // sharers + (_cast(recipe, model, dtype) if sharers == 1 else 0),
        "gradients": trained // sharers,
        "optimizer": 2 * trained // sharers,
        **({"reference": trained // sharers} if reference else {}),
        "libraries": _LIBRARIES[device],
    }


def _trained(recipe: Recipe, model: Sizes) -> int:
    """Parameters."""
    section = recipe.model.lora
    return len(recipe.trained_policies) * _adapter(model, section) if section else model.parameters


def _sharers(recipe: Recipe) -> int:
    """Learners that the weights are shared out among."""
    return recipe.learners.replicas if recipe.learners.weights == "sharded" else 1


def _base_width(recipe: Recipe, dtype: Dtype) -> int:
    """Bytes of a number of the model as it is held."""
    return 2 if recipe.model.lora and dtype == "bfloat16" else _FLOAT


def _cast(recipe: Recipe, model: Sizes, dtype: Dtype) -> int:
    """Of float32 weights, as they are multiplied: kept from the forward pass to the end of the other."""
    return 2 * model.parameters if dtype == "bfloat16" and not recipe.model.lora else 0


def _together(recipe: Recipe, model: Sizes, dtype: Dtype) -> int:
    """Of sharded weights what is put together at a time: embeddings or output head, a layer and the next, and
    the gradients of what is trained."""
    width, of_head = _base_width(recipe, dtype), model.vocabulary * model.hidden
    of_layer = max(model.parameters - of_head, 0) // model.layers
    trained = not recipe.model.lora
    return width * (of_head * (1 + trained) + of_layer * (2 + trained))


def _adapter(model: Sizes, section: LoraSection) -> int:
    """Its parameters: a target's two matrices have a row or a column for each of its inputs and outputs."""
    ends = {
        "q_proj": model.queries,
        "k_proj": model.keys,
        "v_proj": model.keys,
        "o_proj": model.queries,
    }
    sides = (model.hidden + ends.get(target, model.inner) for target in section.targets)
    return model.layers * section.rank * sum(sides)


def _activations(model: Sizes, dtype: Dtype, tokens: int) -> int:
    """What all layers keep for the backward pass: of a layer's token, its two norms' inputs and normed values
    in float32; the projections' inputs, queries (also scaled), keys, values and attention's output; gate,
    activated gate, up and their product."""
    norms = 4 * model.hidden
    inner = 2 * model.hidden + 4 * model.queries + 2 * model.keys + 4 * model.inner
    width = 2 if dtype == "bfloat16" else _FLOAT
    return tokens * model.layers * (_FLOAT * norms + width * inner)


def _passing(
    device: Literal["cpu", "gpu"], model: Sizes, dtype: Dtype, tokens: int, *, trained: bool
) -> dict[str, int]:
    """The loss head, with the gradient of its matrix if that is ``trained``; on GPU the mask of all pairs,
    boolean and added."""
    head = min(_CHUNK, 4 * _FLOAT * tokens * model.vocabulary)
    head += _FLOAT * model.vocabulary * model.hidden if trained else 0
    mask = tokens**2 * (1 + (2 if dtype == "bfloat16" else _FLOAT)) if device == "gpu" else 0
    return {"loss head": head, **({"mask": mask} if mask else {})}
