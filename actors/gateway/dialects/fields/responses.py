"""OpenAI's responses."""

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
    Api,
    ignored,
    left_out,
    refused,
    taken,
)

_NO_CUT: Final = ignored("nothing is cut; a prompt that is too long is refused as such")
_CALL: Final = "a call of the function that the tool is to the model"
_RESULT: Final = "a tool's answer"
_HOSTED_CALL: Final = "a tool call and its answer"
_ASIDE: Final = ignored("it says nothing to the model")
_BY_ITS_NAME: Final = "the function that the tool is to the model"
_OF_OUTPUT: Final = {
    "input_text": taken("", "text", "prompt_cache_breakpoint"),
    "input_image": NOT_TEXT,
    "input_file": NOT_TEXT,
}

RESPONSES_FIELDS: Final[Api] = {
    "request": {
        "input": taken("text, or the items below"),
        "model": taken("a hosted model's name; any other is the trained model's"),
        "instructions": taken("a system message of this call alone"),
        "previous_response_id": taken("of a response of the same attempt"),
        "tools": taken("below"),
        "tool_choice": taken("below"),
        "parallel_tool_calls": taken("false: one tool call an answer"),
        "text": taken("", "format", "verbosity"),
        "temperature": taken("as far as the recipe leaves it to the agent; it is recorded"),
        "top_p": taken("as far as the recipe leaves it to the agent; it is recorded"),
        "max_output_tokens": taken("at most the recipe's"),
        "include": taken("message.output_text.logprobs; there is nothing that the others name"),
        "top_logprobs": taken("up to 20"),
        "metadata": taken("repeated in the response"),
        "stream": taken("server-sent events"),
        "stream_options": ignored("events are not padded"),
        "background": refused("a response is answered where it is asked for; leave it out", False),
        "conversation": refused("conversations are not kept; send previous_response_id, or all items"),
        "prompt": refused("prompt templates are not kept; send instructions and input"),
        "background_options": ignored("of background alone"),
        "context_management": _NO_CUT,
        "truncation": _NO_CUT,
        "image": ignored("of images alone"),
        "max_tool_calls": ignored("it limits the API's own tools, and none is offered"),
        "access_programs": ONE_SERVICE,
        "service_tier": ONE_SERVICE,
        "reasoning": NO_DIAL,
        "moderation": NOBODY_CENSORS,
        "prompt_cache_key": CACHE,
        "prompt_cache_options": CACHE,
        "prompt_cache_retention": CACHE,
        "safety_identifier": NAMES_SOMEBODY,
        "user": NAMES_SOMEBODY,
        "store": KEPT,
    },
    "input": {
        "message": taken("the type may be left out", "content", "id status phase"),
        "function_call": taken("", "call_id name arguments namespace", "id status caller async"),
        "function_call_output": taken(_RESULT, "call_id output", "id name namespace status caller"),
        "custom_tool_call": taken(_CALL, "call_id name input namespace", "id caller async"),
        "custom_tool_call_output": taken(_RESULT, "call_id output", "id caller"),
        "local_shell_call": taken(_CALL, "call_id action", "id status"),
        "local_shell_call_output": taken(_RESULT, "id output", "status"),
        "shell_call": taken(_CALL, "call_id action", "id status caller environment"),
        "shell_call_output": taken(_RESULT, "call_id output", "id status caller max_output_length"),
        "apply_patch_call": taken(_CALL, "call_id operation", "id status caller"),
        "apply_patch_call_output": taken(_RESULT, "call_id output", "id status caller"),
        "computer_call": taken(_CALL, "call_id action actions", "id status pending_safety_checks"),
        "computer_call_output": NOT_TEXT,
        "web_search_call": taken(_HOSTED_CALL, "id action status"),
        "file_search_call": taken(_HOSTED_CALL, "id queries results", "status"),
        "code_interpreter_call": taken(_HOSTED_CALL, "id code outputs", "container_id status"),
        "mcp_call": taken(
            _HOSTED_CALL, "id name arguments output error", "server_label approval_request_id status"
        ),
        "image_generation_call": NOT_TEXT,
        "tool_search_call": taken(_CALL, "call_id arguments", "id execution status"),
        "tool_search_output": taken("its tools are offered", "call_id tools", "id execution status"),
        "program": taken(_CALL, "call_id code", "id fingerprint"),
        "program_output": taken(_RESULT, "call_id result", "id status"),
        "additional_tools": taken("they are offered", "tools", "id"),
        "reasoning": taken(
            "what it says, where that is not encrypted", "content", "id summary status encrypted_content"
        ),
        "item_reference": taken(
            "the answer of that response, as a whole; its other items, named or sent, are not told twice",
            "id",
        ),
        "configuration_update": _ASIDE,
        "mcp_list_tools": _ASIDE,
        "mcp_approval_request": _ASIDE,
        "mcp_approval_response": _ASIDE,
        "compaction": refused("it is encrypted; send the conversation, or a summary as a message"),
        "compaction_trigger": refused("conversations are not compacted; ask for a summary"),
    },
    "input[message].content": {
        "input_text": taken("", "text", "prompt_cache_breakpoint"),
        "output_text": taken("", "text", "annotations logprobs"),
        "refusal": taken("text", "refusal"),
        "input_image": NOT_TEXT,
        "input_file": NOT_TEXT,
    },
    "input[function_call_output].output": _OF_OUTPUT,
    "input[custom_tool_call_output].output": _OF_OUTPUT,
    "tools": {
        "function": taken(
            "", "name description parameters strict", "async allowed_callers defer_loading output_schema"
        ),
        "custom": taken(
            "a function of one string, whose description tells the grammar",
            "name description format",
            "async allowed_callers defer_loading",
        ),
        "namespace": taken("its tools, as NAMESPACE__NAME", "name tools", "description"),
        "local_shell": taken("a function of that name"),
        "shell": taken("a function of that name, where the agent runs it", "environment", "allowed_callers"),
        "apply_patch": taken("a function of that name", "", "allowed_callers"),
        "web_search": left_out(),
        "web_search_2025_08_26": left_out(),
        "web_search_preview": left_out(),
        "web_search_preview_2025_03_11": left_out(),
        "file_search": left_out(),
        "code_interpreter": left_out(),
        "image_generation": left_out(),
        "mcp": left_out(),
        "tool_search": left_out("every tool is offered at once"),
        "programmatic_tool_calling": left_out(),
        "computer": left_out("it needs a model that sees"),
        "computer_use_preview": left_out("it needs a model that sees"),
    },
    "tool_choice": {
        "function": taken("", "name"),
        "custom": taken("", "name"),
        "allowed_tools": taken("the others are not offered", "mode tools"),
        "shell": taken(_BY_ITS_NAME),
        "apply_patch": taken(_BY_ITS_NAME),
        **dict.fromkeys(
            (
                *("file_search", "web_search_preview", "web_search_preview_2025_03_11", "computer"),
                *("computer_use_preview", "computer_use", "image_generation", "code_interpreter", "mcp"),
                "programmatic_tool_calling",
            ),
            refused("that tool cannot be offered; choose another"),
        ),
    },
    "text.format": {
        "text": taken(""),
        "json_object": taken("any object"),
        "json_schema": taken("", "name schema strict", "description"),
    },
}
