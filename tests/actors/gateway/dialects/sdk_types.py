"""The request types of the installed SDKs, and examples of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, Required, get_args, get_origin

from anthropic.types import message_count_tokens_params as count
from anthropic.types import message_create_params as messages
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_messages
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as responses
from typing_extensions import get_type_hints, is_typeddict

REQUESTS: Mapping[str, Sequence[Any]] = {
    "/v1/chat/completions": [chat.CompletionCreateParamsNonStreaming],
    "/v1/completions": [completions.CompletionCreateParamsNonStreaming],
    "/v1/responses": [responses.ResponseCreateParamsNonStreaming],
    "/v1/messages": [
        messages.MessageCreateParamsNonStreaming,
        beta_messages.MessageCreateParamsNonStreaming,
    ],
    "/v1/messages/count_tokens": [count.MessageCountTokensParams, beta_count.MessageCountTokensParams],
}


def things(path: str, section: str) -> dict[str, list[Any]]:
    """What may stand in a section of the table, such as ``input[message].content``: the SDK's types of it, by
    the value of ``type``, or of ``role``."""
    found: dict[str, list[Any]] = {}
    for request in REQUESTS[path]:
        within: list[Any] = [request]
        for step in section.split("."):
            name, _, tag = step.removesuffix("]").partition("[")
            hints = [get_type_hints(thing)[name] for thing in within if name in get_type_hints(thing)]
            within = [thing for hint in hints for thing in _dicts(hint) if not tag or tag in tags(thing)]
        for thing in within:
            for tag in tags(thing):
                if thing not in found.setdefault(tag, []):
                    found[tag].append(thing)
    return found


def tags(thing: Any) -> Iterator[str]:
    """The values of ``type``, or of ``role``."""
    hints = get_type_hints(thing)
    if "type" not in hints and "role" not in hints:
        return
    yield from _literals(hints["type"] if "type" in hints else hints["role"])


def _literals(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    for inner in get_args(hint):
        if not isinstance(inner, str):
            yield from _literals(inner)


def fields(things: Sequence[Any]) -> set[str]:
    return {name for thing in things for name in get_type_hints(thing)} - {"type", "role"}


def _dicts(hint: Any) -> Iterator[Any]:
    if is_typeddict(hint):
        yield hint
    for inner in get_args(hint):
        if not isinstance(inner, str):
            yield from _dicts(inner)


def _is_required(thing: Any, hint: Any) -> bool:
    """``__required_keys__`` does not know it of annotations that are text."""
    return get_origin(hint) is Required or (thing.__total__ and get_origin(hint) is not NotRequired)


def example(hint: Any, name: str = "") -> Any:
    """A value of the type, with no more in it than must be."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        return {key: example(inner, key) for key, inner in hints.items() if _is_required(hint, inner)}
    if origin is Literal:
        return inner[0]
    if hint is bool:
        return True
    if hint in (int, float):
        return 1
    if hint is str:
        return "x"
    if origin in (dict, Mapping):
        return {"x": example(inner[1])}
    if origin in (list, Iterable, Sequence):
        return [example(inner[0])]
    if inner:  # a union, Required, Annotated
        return example(next(kind for kind in inner if kind is not type(None)))
    return {}
