"""Anthropic's messages, those of its beta too."""

from __future__ import annotations

from typing import Final

from al_ray.actors.gateway.dialects.fields import (
    CACHE,
    KEPT,
    NAMES_SOMEBODY,
    NO_DIAL,
    NOT_TEXT,
    ONE_SERVICE,
    SAMPLING,
    Api,
    Treatment,
    ignored,
    left_out,
    refused,
    taken,
)

_NO_CUT: Final = ignored("nothing is cut; a prompt that is too long is refused as such")
_TOOL: Final = "allowed_callers cache_control defer_loading eager_input_streaming input_examples"
_OF_SERVER: Final = "a tool's answer"
_BLOCK: Final = "cache_control caller"


def _own(ignores: str = "") -> Treatment:
    """A tool of the API's own whose work the agent does."""
    told = "a function with the arguments that the API gives it"
    return taken(told, "name strict", f"allowed_callers cache_control defer_loading input_examples {ignores}")


MESSAGES_FIELDS: Final[Api] = {
    "request": {
        "messages": taken("the conversation"),
        "model": taken("a hosted model's name; any other is the trained model's"),
        "max_tokens": taken("at most the recipe's"),
        "system": taken("text, or blocks of it"),
        "tools": taken("below"),
        "tool_choice": taken("below"),
        "stop_sequences": taken(""),
        "temperature": taken("as far as the recipe leaves it to the agent; it is recorded"),
        "top_p": taken("as far as the recipe leaves it to the agent; it is recorded"),
        "top_k": SAMPLING,
        "stream": taken("server-sent events"),
        "output_config": taken("", "format", "effort task_budget"),
        "output_format": taken("as output_config.format"),
        "mcp_servers": left_out(),
        "container": refused("there are no containers; offer a tool that runs code"),
        "thread": refused("conversations are not kept; send all messages"),
        "thinking": NO_DIAL,
        "context_management": _NO_CUT,
        "compaction": _NO_CUT,
        "cache_control": CACHE,
        "metadata": NAMES_SOMEBODY,
        "user_profile_id": NAMES_SOMEBODY,
        "workspace_id": NAMES_SOMEBODY,
        "diagnostics": KEPT,
        "inference_geo": ONE_SERVICE,
        "service_tier": ONE_SERVICE,
        "speed": ONE_SERVICE,
        "billing_policy": ONE_SERVICE,
        "fallbacks": ONE_SERVICE,
        "fallback_credit_token": ONE_SERVICE,
        "betas": ignored("a header; nothing depends on it"),
    },
    "messages": {
        "user": taken("", "content"),
        "assistant": taken("not the last: the trained model begins each answer itself", "content"),
        "system": taken("wherever it stands", "content", "output_config clear_at"),
    },
    "messages.content": {
        "text": taken("", "text", "cache_control citations"),
        "image": NOT_TEXT,
        "document": taken(
            "its text, or that of its blocks; no PDF", "source title context", "cache_control citations"
        ),
        "search_result": taken("its text", "content source title", "cache_control citations"),
        "thinking": taken("", "thinking", "signature"),
        "redacted_thinking": ignored("it is encrypted"),
        "tool_use": taken("", "id name input", "toolset_name " + _BLOCK),
        "tool_result": taken(
            "with is_error the record counts it as an error",
            "tool_use_id content is_error",
            "cache_control toolset_name",
        ),
        "server_tool_use": taken("a tool call", "id name input", _BLOCK),
        "mcp_tool_use": taken("a tool call", "id name input", "server_name cache_control"),
        "web_search_tool_result": taken(_OF_SERVER, "tool_use_id content", _BLOCK),
        "web_fetch_tool_result": taken(_OF_SERVER, "tool_use_id content", _BLOCK),
        "code_execution_tool_result": taken(_OF_SERVER, "tool_use_id content", "cache_control"),
        "bash_code_execution_tool_result": taken(_OF_SERVER, "tool_use_id content", "cache_control"),
        "text_editor_code_execution_tool_result": taken(_OF_SERVER, "tool_use_id content", "cache_control"),
        "tool_search_tool_result": taken(_OF_SERVER, "tool_use_id content", "cache_control"),
        "advisor_tool_result": taken(_OF_SERVER, "tool_use_id content", "cache_control"),
        "mcp_tool_result": taken(_OF_SERVER, "tool_use_id content is_error", "cache_control"),
        "compaction": taken(
            "the summary", "content", "cache_control encrypted_content signature tool_changes"
        ),
        "mcp_tool_listing": ignored("of the API's own servers"),
        "fallback": ignored("it says nothing to the model"),
        "tool_addition": refused("send the tools that there are now as tools"),
        "tool_removal": refused("send the tools that there are now as tools"),
        "container_upload": refused("there are no containers; put the file's text into a message"),
    },
    "messages.content[tool_result].content": {
        "text": taken("", "text", "cache_control citations"),
        "image": NOT_TEXT,
        "document": taken(
            "its text, or that of its blocks; no PDF", "source title context", "cache_control citations"
        ),
        "search_result": taken("its text", "content source title", "cache_control citations"),
        "tool_reference": taken("the tool's name", "tool_name", "cache_control"),
        "browser_state": taken("as JSON", "tabs state_changes", "cache_control"),
    },
    "tools": {
        "custom": taken("the type may be left out", "name description input_schema strict", _TOOL),
        **dict.fromkeys(("bash_20241022", "bash_20250124"), _own()),
        **dict.fromkeys(("text_editor_20241022", "text_editor_20250124", "text_editor_20250429"), _own()),
        "text_editor_20250728": _own("max_characters"),
        "memory_20250818": _own(),
        **dict.fromkeys(
            (
                *("code_execution_20250522", "code_execution_20250825", "code_execution_20260120"),
                *("code_execution_20260521", "advisor_20260301", "mcp_toolset"),
                *("web_search_20250305", "web_search_20260209", "web_search_20260318"),
                *("web_fetch_20250910", "web_fetch_20260209", "web_fetch_20260309", "web_fetch_20260318"),
            ),
            left_out(),
        ),
        **dict.fromkeys(
            (
                *("tool_search_tool_bm25", "tool_search_tool_bm25_20251119"),
                *("tool_search_tool_regex", "tool_search_tool_regex_20251119"),
            ),
            left_out("every tool is offered at once"),
        ),
        **dict.fromkeys(
            (
                *("computer_20241022", "computer_20250124", "computer_20251124"),
                *("computer_toolset_20260801", "browser_toolset_20260801"),
            ),
            left_out("it needs a model that sees"),
        ),
    },
    "tool_choice": {
        "auto": taken("", "disable_parallel_tool_use"),
        "any": taken("", "disable_parallel_tool_use"),
        "tool": taken("", "name disable_parallel_tool_use"),
        "none": taken(""),
    },
    "output_config.format": {"json_schema": taken("", "schema")},
}

_OF_ANSWERS: Final = taken("checked; it adds nothing to the prompt")
COUNT_FIELDS: Final[Api] = {
    "request": {
        **{
            name: MESSAGES_FIELDS["request"][name]
            for name in (
                *("messages", "system", "tools", "mcp_servers", "thinking", "context_management"),
                *("compaction", "cache_control", "user_profile_id", "workspace_id", "speed"),
                *("billing_policy", "betas"),
            )
        },
        "model": taken("the trained model's tokens are counted; a hosted model's name is refused"),
        **dict.fromkeys(("tool_choice", "output_config", "output_format"), _OF_ANSWERS),
    }
}
"""Of a request whose tokens are to be counted; what may stand in its fields is as in messages."""
