"""Lengths that a model's ``config.json`` names: how far its tokens see, and how far it can count.

Rows that are packed into one sequence equal rows alone only while no such length tells them apart. Windows,
chunks and the like are called by a hundred names, so what counts is what is surely *not* a length: whatever
else is a whole number is taken for one. That may cost speed, never truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from al_ray.errors import Problem

_LENGTH: Final = re.compile(
    r"window|chunk|block|local|floor|context|ctx|position|length|seq_len|top_?k|budget|compress|distance"
    r"|extent|bucket|mem_|stride|cache|^max_"
)
"""In the name of a length, whatever else is in it."""
_NO_LENGTH: Final = re.compile(
    r"token_id|token_index|_index$|_idx$|^(bos|eos|pad|unk|sep|cls|mask|lang|image|video|audio|id)_|_ids?$"
    r"|(hidden|intermediate|embedding|embed|vocab|state|head|codebook|inner|feed_forward|mlp|patch|image"
    r"|router)_?(size|dim)|(^|_)(dim|rank|width|kernel|size_global|d_model|n_embd|d_inner|d_ff|dff|ffn)(_|$)"
    r"|(^|_)(num|n)_.*(heads?|layers?|experts?|groups?|stacks?|codebooks|tok|token|inputs|channels)(_|$)"
    r"|heads?$|layers?$|experts?$|groups?$|channels$|^n_embd$|^d_|_d_|^mamba_|_dim$|_rank$|period$|interval$"
    r"|step$|offset$|pattern$|expand|theta|base|scalar|scaling|scale|multiplier|factor|coef|alpha|beta|eps"
    r"|input_size|seed|ratio|pretraining_tp|dropout|_every|chunk_size_feed_forward|per_tok|_version$|_bits$"
)
_READ_BY_ENGINES: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_OVER_ALL: Final = "model_max_length"
_COUNTS_POSITIONS: Final = frozenset(
    {*_READ_BY_ENGINES, _OVER_ALL, "n_ctx", "context_length", "num_position_embeddings"}
)
"""Names of the longest sequence that a model is made for: positions are counted by row, so what is packed
beside a row does not lengthen it."""
_NO_LENGTH_THOUGH: Final = frozenset(
    {
        "chunk_size_feed_forward",
        "first_k_dense_replace",
        "full_attn_idxs",
        "max_window_layers",
        "moe_topk",
        "moe_top_k",
        "num_local_experts",
        "original_max_position_embeddings",  # counts where a rope uses it
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "topk_group",
        "top_k_experts",
        "zero_expert_num",
    }
)
_ELSEWHERE: Final = re.compile(r"^rope|^id2label$|^label2id$|quantization|^(vision|audio|image|vq|encoder)_")
_HARMLESS_ROPES: Final = frozenset({"default", "linear", "llama3", "yarn", "proportional", "mrope"})
_TURNING_ROPES: Final = frozenset({"longrope", "dynamic"})
_LONG_ALREADY: Final = frozenset({"longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
"""Ropes beside which a config names the length that they have stretched the model to."""
_OFF: Final = 1
"""A number up to this is a switch."""


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens, by the name of the config."""

    key: str
    tokens: int


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model that also sees or hears, what concerns text."""
    found = config.get("text_config")
    return found if isinstance(found, Mapping) else config


def bounds(config: Mapping[str, Any]) -> list[Length]:
    """Lengths beyond which two tokens may not see each other, or not as they are."""
    found = [each for each in _numbers(config) if each.key not in _COUNTS_POSITIONS]
    return [*found, *(bound for bound, _ in _ropes(config))]


def capacities(config: Mapping[str, Any]) -> list[Length]:
    """The longest sequences that the model is made for."""
    return [each for each in _numbers(config) if each.key in _COUNTS_POSITIONS]


def sampled(config: Mapping[str, Any]) -> Length | None:
    """The longest sequence that engines take, as vLLM 0.32 reads it (``_get_and_verify_max_len`` of its
    ``config/model.py``); None where the config names none."""
    named = [Length(key, config[key]) for key in _READ_BY_ENGINES if isinstance(config.get(key), int)]
    if isinstance(over_all := config.get(_OVER_ALL), int) and over_all:
        named = [Length(_OVER_ALL, over_all)]
    if not named:
        return None
    found = min(named, key=lambda each: each.tokens)
    if "gemma3" in str(config.get("model_type")):  # whose length is the stretched one, whatever the rope
        return found
    factor: Any = 1
    for _, kind, rope in _each_rope(config):
        if kind not in _LONG_ALREADY:
            factor = rope.get("factor", factor)
    if not isinstance(factor, (int, float)) or factor == 1:
        return found
    return Length(f"{found.key} (times its rope's factor)", int(found.tokens * factor))


def problem_of_rope(config: Mapping[str, Any], longest: int) -> Problem | None:
    """Where rows of up to ``longest`` tokens may be so long that positions turn with the length of a row.

    An engine fixes them once (vLLM 0.32's ``Phi3LongRoPEScaledRotaryEmbedding`` takes the long factors for
    all rows where its maximum length is beyond the short ones), a learner by each row, or even by the
    rows before: no row would be computed as it was sampled."""
    for bound, kind in _ropes(config):
        if kind in _TURNING_ROPES and bound.tokens < longest:
            return Problem(
                "model.max_length",
                longest,
                f"to train this model, at most {bound.tokens}: beyond that its {kind} rope turns with the "
                "length of a row, and learners would not compute what engines have sampled",
            )
    return None


def _numbers(config: Mapping[str, Any]) -> Iterator[Length]:
    """Of all whole numbers, those that may be lengths; also in lists and in parts."""
    for key, value in config.items():
        if _ELSEWHERE.search(key) or key in _NO_LENGTH_THOUGH:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif _LENGTH.search(key) or not _NO_LENGTH.search(key):
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, int) and number > _OFF:
                    yield Length(key, number)


def _ropes(config: Mapping[str, Any]) -> Iterator[tuple[Length, str]]:
    """Each rope that is not free of lengths, with its kind; one of a kind nobody here knows has length 0."""
    for key, kind, rope in _each_rope(config):
        if kind in _HARMLESS_ROPES:
            continue
        original = rope.get("original_max_position_embeddings")
        original = original or config.get("original_max_position_embeddings")
        original = original or config.get("max_position_embeddings")
        tokens = original if kind in _TURNING_ROPES and isinstance(original, int) else 0
        yield Length(f"{key} {kind}", tokens), kind


def _each_rope(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Where it stands, its kind and what it says."""
    for key in ("rope_parameters", "rope_scaling"):
        found = config.get(key) or {}
        by_layer = [part for part in found.values() if isinstance(part, Mapping)]
        for rope in by_layer or [found]:
            kind = str(rope.get("rope_type", rope.get("type", "default")))
            yield key, "longrope" if kind == "su" else kind, rope
