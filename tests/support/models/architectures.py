"""Tiny random models of the architectures that transformers has, made by shrinking their own configs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

NOT_BUILT: Final = {
    "gemma3n": "its vision tower needs timm; gemma3n_text is built",
    "gemma4_assistant": "drafts for another model, whose states it is given",
    "gemma4_unified_assistant": "drafts for another model, whose states it is given",
    "musicgen": "has no config without the configs of an audio and a text encoder",
    "musicgen_melody": "has no config without the configs of an audio and a text encoder",
}
ARCHITECTURES: Final = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - NOT_BUILT.keys())

_NAMES: Final[Mapping[int, str]] = {
    1: "n_group topk_group num_expert_group n_shared_experts num_shared_experts",
    2: "num_attention_heads num_key_value_heads n_head n_heads num_heads attention_heads "
    "decoder_attention_heads encoder_attention_heads num_decoder_attention_heads "
    "num_encoder_attention_heads num_kv_heads kv_n_heads swa_num_attention_heads "
    "swa_num_key_value_heads linear_num_heads linear_num_key_heads linear_num_value_heads index_n_heads "
    "num_query_groups num_global_key_value_heads num_hidden_layers n_layer n_layers num_layers "
    "decoder_layers encoder_layers num_decoder_layers num_encoder_layers num_blocks depth "
    "num_experts_per_tok num_experts_per_token moe_k moe_top_k moe_topk",
    4: "num_experts n_routed_experts num_local_experts moe_num_experts",
    8: "q_lora_rank kv_lora_rank qk_rope_head_dim rotary_dim o_lora_rank laurel_rank adapter_rank "
    "mamba_dt_rank time_step_rank gated_norm_rank hc_lowrank d_rel mamba_d_state state_size "
    "ssm_state_size mamba_d_head mamba_headdim mamba_head_dim mamba_n_heads mamba_num_heads n_mamba_heads",
    16: "head_dim attention_head_dim attention_head_size dim_head d_head kv_channels swa_head_dim "
    "linear_head_dim linear_key_head_dim linear_value_head_dim index_head_dim global_head_dim v_head_dim "
    "qk_nope_head_dim",
    24: "qk_head_dim",
    32: "hidden_size d_model n_embd emb_dim embedding_dim embedding_size attention_hidden_size lru_width "
    "backbone_hidden_size input_embedding_size output_embedding_size word_embed_proj_dim "
    "hidden_size_global hidden_size_per_layer_input ple_embed_dim",
    64: "intermediate_size ffn_dim ffn_hidden_size decoder_ffn_dim encoder_ffn_dim dff dim_ff "
    "moe_intermediate_size intermediate_size_mlp dense_intermediate_size shared_expert_intermediate_size "
    "shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size "
    "feed_forward_size d_inner mamba_d_ssm mlp_dim router_hidden_size",
    96: "vocab_size decoder_vocab_size vocab_size_per_layer_input",
}
_SIZES: Final = {name: size for size, names in _NAMES.items() for name in names.split()}
_DEPTHS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

_SPARSE: Final = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 50,
    "split_ngram_parts": 2,
}
_ZAMBA: Final = {
    "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    "num_hidden_layers": 4,
    "attention_hidden_size": 64,
    "attention_head_dim": 32,
}
_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0}
_OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "blt": {"encoder_hash_byte_group_vocab": 60},
    "codegen": {"n_head": 4, "n_embd": 64, "rotary_dim": 8},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        "head_dim": 128,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 64, "hidden_size": 32},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mimo_v2_flash": {"num_attention_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen4_exp": _SPARSE,
    "qwen4_exp_text": _SPARSE,
    "reformer": {"axial_pos_embds": False},
    "roc_bert": {
        "pronunciation_vocab_size": 96,
        "shape_vocab_size": 96,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {**_ZAMBA, "n_mamba_heads": 2},
    "zamba2": {**_ZAMBA, "hybrid_layer_ids": [1, 3]},
}
"""What an architecture needs beside what all are given."""


def tiny_config(architecture: str, **changes: Any) -> Any:
    """Of two layers at least, and one of each kind; ``changes`` are made in every part of the config."""
    kind = CONFIG_MAPPING[architecture]
    named = kind().to_dict()
    for name in ("model_type", "transformers_version", "_name_or_path", "output_attentions", "architectures"):
        named.pop(name, None)
    config = kind(**_shrunk(named, {**_OWN.get(architecture, {}), **changes}))
    for part in (config, config.get_text_config(decoder=True)):
        if getattr(part, "is_decoder", None) is False:
            part.is_decoder = True
    return config


def tiny_model(config: Any, attention: str | None = None) -> PreTrainedModel:
    """With weights so large that nothing it computes is lost in rounding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.25, generator=draw)
    return model.eval()


def _shrunk(named: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    depth = next((named[name] for name in _DEPTHS if isinstance(named.get(name), int)), 0)
    by_layer = {k: v for k, v in named.items() if depth and isinstance(v, list) and len(v) == depth}
    layers = _some_layers(by_layer.values(), depth)
    made: dict[str, Any] = {}
    for name, value in named.items():
        if name in own:
            made[name] = own[name]
        elif name in by_layer:
            made[name] = [_small(name, value[i]) for i in layers]
        elif name in _DEPTHS and value == depth:
            made[name] = len(layers)
        elif name == "per_layer_config":
            continue
        elif isinstance(value, dict) and name.endswith("_config"):
            made[name] = _shrunk(value, own)
        else:
            made[name] = _small(name, value)
    if named.get("qk_rope_head_dim") and named.get("head_dim") == named["qk_rope_head_dim"]:
        made["head_dim"] = made["qk_rope_head_dim"]
    return made


def _small(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if re.search(r"_token_id$|_token_index$|_idx$", name):
        return min(value, 3)
    return min(value, _SIZES.get(name, value))


def _some_layers(lists: Iterable[Sequence[Any]], depth: int) -> list[int]:
    """Two at least, and one of each kind that a list tells."""
    layers: list[int] = []
    for kinds in lists:
        seen = {repr(kinds[i]) for i in layers}
        for i, kind in enumerate(kinds):
            if repr(kind) not in seen:
                seen.add(repr(kind))
                layers.append(i)
    others = (i for i in range(depth) if i not in layers)
    while len(layers) < min(2, depth):
        layers.append(next(others))
    return sorted(layers)
