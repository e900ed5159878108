"""What a config's whole numbers are taken for."""

from __future__ import annotations

from al_ray.models.limits import Length, bounds, capacities


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
