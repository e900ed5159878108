"""What a config's whole numbers are taken for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.models.limits import Length, bounds, capacities, sampled


def test_what_is_no_size_counts_as_a_bound_also_under_a_name_that_nobody_knows() -> None:
    config = {
        "hidden_size": 576,
        "num_attention_heads": 9,
        "vocab_size": 49152,
        "eos_token_id": 2,
        "query_pre_attn_scalar": 256,
        "rope_theta": 10000,
        "tie_word_embeddings": True,
        "sliding_window": 512,
        "attention_chunk_size": 8192,
        "index_topk": 2048,
        "seen_at_once": 1024,
        "attn_config": {"horizon": 300},
        "vision_config": {"patch_size": 14, "window": 7},
        "max_position_embeddings": 4096,
    }
    assert {bound.key: bound.tokens for bound in bounds(config)} == {
        "sliding_window": 512,
        "attention_chunk_size": 8192,
        "index_topk": 2048,
        "seen_at_once": 1024,
        "horizon": 300,
    }
    assert capacities(config) == [Length("max_position_embeddings", 4096)]


def test_a_rope_that_nobody_here_knows_is_a_bound_of_nothing() -> None:
    config = {"rope_parameters": {"full_attention": {"rope_type": "default"}, "far": {"rope_type": "spiral"}}}
    assert bounds(config) == [Length("rope_parameters spiral", 0)]


def rope(kind: str | None, **told: Any) -> dict[str, Any]:
    return {"rope_scaling": {**({} if kind is None else {"rope_type": kind}), **told}}


LONG = {"max_position_embeddings": 4096}
STRETCHED = {"rope_type": "linear", "factor": 2.0}
LENGTHS: list[tuple[dict[str, Any], int | None]] = [
    ({"hidden_size": 64}, None),
    (LONG, 4096),
    ({"n_positions": 1024, "n_embd": 64}, 1024),
    ({**LONG, "seq_length": 2048}, 2048),
    ({**LONG, "model_max_length": 65536}, 65536),
    ({**LONG, "rope_scaling": None}, 4096),
    ({**LONG, **rope("default")}, 4096),
    ({**LONG, **rope("default", mrope_section=[16, 24, 24])}, 4096),
    ({**LONG, **rope("mrope", mrope_section=[16, 24, 24])}, 4096),
    ({**LONG, **rope("linear", factor=4.0)}, 16384),
    ({**LONG, **rope("dynamic", factor=2.0)}, 8192),
    ({**LONG, **rope(None, factor=1.5)}, 6144),
    ({**LONG, **rope("yarn", factor=4.0)}, 4096),
    ({**LONG, **rope("llama3", factor=8.0)}, 4096),
    ({**LONG, **rope("longrope", factor=8.0)}, 4096),
    ({**LONG, **rope("linear", factor=8.0), "model_type": "gemma3_text"}, 4096),
    ({**LONG, "rope_parameters": STRETCHED}, 8192),
    ({**LONG, "rope_parameters": {"full_attention": STRETCHED, "sliding_attention": {}}}, 8192),
]
"""Of configs, with how long a sequence engines take."""


@pytest.mark.parametrize(("config", "tokens"), LENGTHS)
def test_the_longest_sequence_is_what_the_config_names_and_a_rope_stretches(
    config: dict[str, Any], tokens: int | None
) -> None:
    """Where the rope's kind is one whose configs name the length before it was stretched."""
    found = sampled(config)
    assert (None if found is None else found.tokens) == tokens


def test_the_longest_sequence_is_the_one_that_vllm_takes() -> None:
    """Not a token more."""
    from vllm.config.model import _get_and_verify_max_len
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    for config, tokens in LENGTHS:
        told = SimpleNamespace(**{"model_type": "llama", **config})
        # As vLLM finds it once transformers has read it.
        ropes = config.get("rope_parameters") or config.get("rope_scaling") or {}
        told.rope_parameters = (
            {layers: {"rope_type": "default", **each} for layers, each in ropes.items()}
            if "full_attention" in ropes
            else {"rope_type": "default", **ropes}
        )
        named = ModelArchConfigConvertorBase(told, told).derive_max_model_len_and_key()
        architecture = SimpleNamespace(derived_max_model_len_and_key=named)

        def taken(length: int, config: Any = told, architecture: Any = architecture) -> int:
            return _get_and_verify_max_len(config, architecture, None, length, False, None)

        if tokens is None:
            assert taken(2**20) == 2**20
            continue
        assert taken(tokens) == tokens
        with pytest.raises(ValueError, match="is greater than the derived max_model_len"):
            taken(tokens + 1)
