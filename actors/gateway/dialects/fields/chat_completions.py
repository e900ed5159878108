"""OpenAI's chat completions."""

from __future__ import annotations

from typing import Final

from al_ray.actors.gateway.dialects.fields import (
    CACHE,
    KEPT,
    NAMES_SOMEBODY,
    NO_DIAL,
    NOBODY_CENSORS,
    NOT_TEXT,
    ONE_SERVICE,
    SAMPLING,
    Api,
    Fields,
    ignored,
    left_out,
    refused,
    taken,
)

_PINNED: Final = "as far as the recipe leaves it to the agent; it is recorded"

SAMPLED: Final[Fields] = {
    "temperature": taken(_PINNED),
    "top_p": taken(_PINNED),
    "max_tokens": taken("at most the recipe's"),
    "n": taken("up to 16"),
    "stop": taken("one text or several"),
    "seed": taken("recorded; the gateway has a seed for each call"),
    "presence_penalty": SAMPLING,
    "frequency_penalty": SAMPLING,
    "logit_bias": refused("the trained model is sampled as it is; ask for a format or a tool instead", {}),
    "stream": taken("server-sent events"),
    "stream_options": taken(
        "a part that tells the usage", reads="include_usage", ignores="include_obfuscation"
    ),
    "user": NAMES_SOMEBODY,
}
"""What OpenAI's two older APIs have in common."""

CHAT_COMPLETIONS_FIELDS: Final[Api] = {
    "request": {
        **SAMPLED,
        "messages": taken("the conversation"),
        "model": taken("a hosted model's name; any other is the trained model's"),
        "tools": taken("below"),
        "tool_choice": taken("below"),
        "parallel_tool_calls": taken("false: one tool call an answer"),
        "response_format": taken("below"),
        "max_completion_tokens": taken("before max_tokens; at most the recipe's"),
        "logprobs": taken("of each token"),
        "top_logprobs": taken("up to 20"),
        "audio": refused("the trained model answers in text; leave it out"),
        "modalities": refused("the trained model answers in text; ask for ['text']", [], ["text"]),
        "functions": refused("the API has had tools since 2023; send them instead", []),
        "function_call": refused("the API has had tool_choice since 2023; send it instead"),
        "web_search_options": left_out(),
        "prediction": ignored("it could only make an answer faster"),
        "reasoning_effort": NO_DIAL,
        "verbosity": NO_DIAL,
        "metadata": KEPT,
        "store": KEPT,
        "moderation": NOBODY_CENSORS,
        "prompt_cache_key": CACHE,
        "prompt_cache_options": CACHE,
        "prompt_cache_retention": CACHE,
        "safety_identifier": NAMES_SOMEBODY,
        "service_tier": ONE_SERVICE,
    },
    "messages": {
        "developer": taken("a system message", "content name"),
        "system": taken("", "content name"),
        "user": taken("", "content name"),
        "assistant": taken("reasoning too", "content name tool_calls", "refusal audio function_call"),
        "tool": taken("", "content tool_call_id"),
        "function": refused("answer a tool call with a message of the role 'tool'"),
    },
    "messages.content": {
        "text": taken("", "text", "prompt_cache_breakpoint"),
        "refusal": taken("text", "refusal"),
        "image_url": NOT_TEXT,
        "input_audio": NOT_TEXT,
        "file": NOT_TEXT,
    },
    "messages.tool_calls": {
        "function": taken("", "id function"),
        "custom": taken("a call of a function of one string", "id custom"),
    },
    "tools": {
        "function": taken("", "function"),
        "custom": taken("a function of one string, whose description tells the grammar", "custom"),
    },
    "tool_choice": {
        "function": taken("", "function"),
        "custom": taken("", "custom"),
        "allowed_tools": taken("the others are not offered", "allowed_tools"),
    },
    "response_format": {
        "text": taken(""),
        "json_object": taken("any object"),
        "json_schema": taken("", "json_schema"),
    },
}
