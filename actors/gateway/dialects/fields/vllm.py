"""What vLLM's own servers of OpenAI's APIs take besides, which clients send by ``extra_body``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from al_ray.actors.gateway.dialects.fields import (
    CACHE,
    NAMES_SOMEBODY,
    NO_DIAL,
    SAMPLING,
    Fields,
    ignored,
    refused,
)

_FORMAT: Final = refused(
    "ask for a format with a JSON schema: response_format in chat completions, text.format in responses"
)
_ENDS: Final = "an answer ends where the model ends it"
_AS_IT_IS: Final = "the trained model is sampled as it is"
_NO_MORE_TOLD: Final = ignored("an answer tells what its API has, and the record the tokens")
_TEXT_ALONE: Final = ignored("the trained model reads text alone")
_OF_THE_CLUSTER: Final = ignored("the gateway chooses the engine, and how it is asked")

OF_VLLM: Final[Fields] = {
    "guided_json": _FORMAT,
    "guided_regex": _FORMAT,
    "guided_choice": _FORMAT,
    "guided_grammar": _FORMAT,
    "structured_outputs": _FORMAT,
    "chat_template_kwargs": refused("the recipe's model.chat_template says how messages are rendered", {}),
    "chat_template": refused("the recipe's model.chat_template says how messages are rendered"),
    "continue_final_message": refused("begin the answer in /v1/completions", False),
    "add_generation_prompt": refused("begin the answer in /v1/completions", True),
    "documents": refused("put them into a message", []),
    "truncate_prompt_tokens": refused("nothing is cut; send what fits"),
    "stop_token_ids": refused("send stop", []),
    "include_stop_str_in_output": refused("the answer is without its stop sequence; add it", False),
    "ignore_eos": refused(_ENDS, False),
    "min_tokens": refused(_ENDS, 0),
    "repetition_detection": refused(_ENDS),
    "bad_words": refused(_AS_IT_IS, []),
    "allowed_token_ids": refused(_AS_IT_IS + "; ask for a format"),
    "use_beam_search": refused(_AS_IT_IS + "; send n and choose", False),
    "skip_special_tokens": refused("the answer's text is without special tokens; leave it out", True),
    "top_k": SAMPLING,
    "min_p": SAMPLING,
    "repetition_penalty": SAMPLING,
    "length_penalty": SAMPLING,
    "watermarking": SAMPLING,
    "thinking_token_budget": NO_DIAL,
    "include_reasoning": ignored("what was thought stands beside the answer"),
    "spaces_between_special_tokens": ignored("of skip_special_tokens alone"),
    "truncation_side": ignored("of truncate_prompt_tokens alone"),
    "prompt_logprobs": _NO_MORE_TOLD,
    "logprob_token_ids": _NO_MORE_TOLD,
    "return_token_ids": _NO_MORE_TOLD,
    "return_tokens_as_token_ids": _NO_MORE_TOLD,
    "return_token_offsets": _NO_MORE_TOLD,
    "return_prompt_text": _NO_MORE_TOLD,
    "media_io_kwargs": _TEXT_ALONE,
    "mm_processor_kwargs": _TEXT_ALONE,
    "mm_payload": _TEXT_ALONE,
    "return_mm_kwargs": _TEXT_ALONE,
    "request_id": NAMES_SOMEBODY,
    "session_id": NAMES_SOMEBODY,
    "cache_salt": CACHE,
    "priority": _OF_THE_CLUSTER,
    "kv_transfer_params": _OF_THE_CLUSTER,
    "ec_transfer_params": _OF_THE_CLUSTER,
    "routed_experts_prompt_start": _OF_THE_CLUSTER,
    "stream_interval": _OF_THE_CLUSTER,
    "vllm_xargs": _OF_THE_CLUSTER,
}
"""In each of the three, whether vLLM has it there or not: what an agent means by it is the same."""

OF_VLLM_ALONE: Final[Mapping[str, Fields]] = {
    "/v1/chat/completions": {
        "echo": refused("the last message is not repeated in the answer; leave it out", False),
        "add_special_tokens": refused(
            "the recipe's model.chat_template says how messages are rendered", False
        ),
    },
    "/v1/completions": {
        "response_format": refused("ask for a format in chat completions", {"type": "text"}),
        "prompt_embeds": refused("send text or token ids"),
        "add_special_tokens": refused("send the prompt's token ids", True),
    },
    "/v1/responses": {
        "stop": refused("responses have none; send it in chat completions", [], ""),
        "logit_bias": refused(_AS_IT_IS + "; ask for a format or a tool instead", {}),
        "previous_input_messages": refused("send all items as input", []),
        "enable_response_messages": _NO_MORE_TOLD,
        "seed": ignored("the gateway has a seed for each call"),
        "presence_penalty": SAMPLING,
        "frequency_penalty": SAMPLING,
    },
}
"""In one of them."""


def with_vllms(fields: Fields, path: str) -> Fields:
    """Those of the API's own requests, and vLLM's besides."""
    return {**OF_VLLM, **OF_VLLM_ALONE[path], **fields}
