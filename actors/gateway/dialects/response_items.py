"""The input items of OpenAI's responses, and the messages of OpenAI's chat that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field

from al_ray.actors.gateway.dialects.core import Body, Many
from al_ray.actors.gateway.dialects.fields import Does
from al_ray.actors.gateway.dialects.fields.responses import RESPONSES_FIELDS
from al_ray.actors.gateway.dialects.tools import custom_call, full_name, function_call
from al_ray.errors import BadRequestError
from al_ray.types import JSON

_ITEMS: Final = RESPONSES_FIELDS["input"]
_Built = dict[str, JSON]


class _Text(Body):
    type: Literal["input_text", "output_text"]
    text: str


class _Image(Body):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None


class _File(Body):
    model_config = ConfigDict(extra="allow")

    type: Literal["input_file"]


class _Refusal(Body):
    type: Literal["refusal"]
    refusal: str


_Part = Annotated[_Text | _Image | _File | _Refusal, Field(discriminator="type")]


class _Message(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Many[_Part]
    id: str | None = None


class _FunctionCall(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: str | None = None


class _CustomCall(Body):
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: str | None = None
    id: str | None = None


class _Output(Body):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str | None = None
    output: str | Many[_Part]


class _ReasoningText(Body):
    text: str


class _Reasoning(Body):
    type: Literal["reasoning"]
    content: Many[_ReasoningText] | None = None
    id: str | None = None


class _Reference(Body):
    type: Literal["item_reference"]
    id: str


class _Other(Body):
    """What has no model of its own: read by ``_CALLS`` and ``_RESULTS``, passed over, or refused."""

    model_config = ConfigDict(extra="allow")

    type: Literal[
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "computer_call",
        "computer_call_output",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "tool_search_call",
        "tool_search_output",
        "program",
        "program_output",
        "additional_tools",
        "configuration_update",
        "compaction",
        "compaction_trigger",
    ]
    id: str | None = None
    call_id: str | None = None

    @property
    def call(self) -> str:
        """The id of the call that it is, or answers."""
        return self.call_id or self.id or ""

    def get(self, name: str) -> Any:
        return (self.model_extra or {}).get(name)


def with_type(item: Any) -> Any:
    """A message or a reference may leave its type out."""
    if not isinstance(item, dict) or "type" in item:
        return item
    return item | {"type": "item_reference" if "id" in item and "role" not in item else "message"}


Item = Annotated[
    _Message | _FunctionCall | _CustomCall | _Output | _Reasoning | _Reference | _Other,
    Field(discriminator="type"),
]

_CALLS: Final[Mapping[str, Callable[[_Other], tuple[str, JSON]]]] = {
    "local_shell_call": lambda item: ("local_shell", _given(item.get("action"), type="exec", env={})),
    "shell_call": lambda item: ("shell", _given(item.get("action"))),
    "apply_patch_call": lambda item: ("apply_patch", item.get("operation")),
    "computer_call": lambda item: ("computer", [item.get("action"), item.get("actions")]),
    "tool_search_call": lambda item: ("tool_search", item.get("arguments")),
    "program": lambda item: ("program", {"code": item.get("code")}),
    "web_search_call": lambda item: ("web_search", item.get("action")),
    "file_search_call": lambda item: ("file_search", {"queries": item.get("queries")}),
    "code_interpreter_call": lambda item: ("code_interpreter", {"code": item.get("code")}),
    "mcp_call": lambda item: (str(item.get("name")), item.get("arguments")),
}
"""The function's name and its arguments, of the calls of the API's own tools."""
_RESULTS: Final[Mapping[str, Callable[[_Other], JSON]]] = {
    "web_search_call": lambda item: item.get("status"),
    "file_search_call": lambda item: item.get("results"),
    "code_interpreter_call": lambda item: item.get("outputs"),
    "mcp_call": lambda item: item.get("output") or item.get("error"),
    "local_shell_call_output": lambda item: item.get("output"),
    "shell_call_output": lambda item: item.get("output"),
    "apply_patch_call_output": lambda item: item.get("output"),
    "program_output": lambda item: item.get("result"),
    "tool_search_output": lambda item: _names(item.get("tools")),
}
"""The answer of a tool: of its own item, or in that of its call."""


@dataclass(slots=True)
class Conversation:
    """What the items of one request say."""

    messages: list[_Built] = field(default_factory=list)
    answers: list[tuple[int, str]] = field(default_factory=list)
    """Calls whose answers stand among the messages: before which of them, and the call's id."""
    tools: list[Any] = field(default_factory=list)
    """Those that items offer, as in the request's ``tools``."""


def conversation(sent: str | Sequence[Any]) -> Conversation:
    """What the assistant thought, said and called in a row is one message of OpenAI's chat: with one text,
    and one thought, though a stream told them in several items. Raises ``BadRequestError`` for an item that
    cannot be passed over."""
    if isinstance(sent, str):
        return Conversation([{"role": "user", "content": sent}])
    reader = _Reader()
    answers = [_answer_of(item) for item in sent]
    named = {answer for item, answer in zip(sent, answers, strict=True) if isinstance(item, _Reference)}
    for place, (item, answer) in enumerate(zip(sent, answers, strict=True)):
        if answer is not None and answer in named:
            reader.refer(answer)
        else:
            reader.read(item, place, answer)
    reader.end_turn()
    return reader.told


def _answer_of(item: Any) -> str | None:
    """The id of the answer that an item is of, as far as it says so."""
    match item:
        case _Message():
            is_the_models = item.role == "assistant"
        case _Other():
            is_the_models = item.type in _CALLS
        case _:
            is_the_models = not isinstance(item, _Output)
    if not is_the_models or item.id is None:
        return None
    kind, _, place_and_call = str(item.id).partition("_")
    return place_and_call.partition("_")[2] if kind == "item" else str(item.id)


@dataclass(slots=True)
class _Turn:
    """A message of the assistant's, on its way."""

    parts: list[Mapping[str, JSON]] | None = None
    """Of its content. None: no item has any."""
    reasoning: list[str] = field(default_factory=list)
    calls: list[JSON] = field(default_factory=list)
    answer: str | None = None
    """Whose item was the last that said or thought something, as far as it told."""

    def __bool__(self) -> bool:
        return self.parts is not None or any(self.reasoning) or bool(self.calls)

    def goes_on(self, answer: str | None) -> bool:
        """Whether what an item of ``answer`` says or thinks is of this turn. Many clients leave ids out; but
        while calls wait for their answers, no other turn begins."""
        return bool(self.calls) or (answer is not None and answer == self.answer)

    def say(self, parts: Iterable[Mapping[str, JSON]]) -> None:
        self.parts = [] if self.parts is None else self.parts
        self.parts += parts

    def message(self) -> _Built:
        told: _Built = {"role": "assistant", "content": None if self.parts is None else _told(self.parts)}
        if thought := "".join(self.reasoning):
            told["reasoning"] = thought
        if self.calls:
            told["tool_calls"] = self.calls
        return told


class _Reader:
    """Makes messages of items, one after the other."""

    def __init__(self) -> None:
        self.told = Conversation()
        self._turn = _Turn()
        """What the assistant has said by now."""
        self._referred: set[str] = set()

    def read(self, item: Any, place: int, answer: str | None) -> None:
        match item:
            case _Message(role="assistant"):
                if self._turn.parts is not None and not self._turn.goes_on(answer):
                    self.end_turn()
                self._turn.say(_parts(item.content))
                self._turn.answer = answer
            case _Reasoning():
                if not self._turn.goes_on(answer):
                    self.end_turn()
                self._turn.reasoning += [part.text for part in item.content or ()]
                self._turn.answer = answer
            case _FunctionCall():
                name = full_name(item.name, item.namespace)
                self._turn.calls.append(function_call(item.call_id, name, item.arguments))
            case _CustomCall():
                name = full_name(item.name, item.namespace)
                self._turn.calls.append(custom_call(item.call_id, name, item.input))
            case _Message():
                role = "system" if item.role == "developer" else item.role
                self._add({"role": role, "content": _content(item.content)})
            case _Output():
                self._add(_tool_message(item.call_id or "", _content(item.output)))
            case _Other():
                self._read_other(item, f"input.{place}")

    def refer(self, answer: str) -> None:
        """To a whole answer, whichever of its items is named or sent: its others say nothing more, and no
        item is twice in one conversation."""
        if answer not in self._referred:
            self._referred.add(answer)
            self.end_turn()
            self.told.answers.append((len(self.told.messages), answer))

    def end_turn(self) -> None:
        """The assistant's message is whole, if it says anything."""
        turn, self._turn = self._turn, _Turn()
        if turn:
            self.told.messages.append(turn.message())

    def _add(self, message: _Built) -> None:
        self.end_turn()
        self.told.messages.append(message)

    def _read_other(self, item: _Other, place: str) -> None:
        treatment = _ITEMS[item.type]
        if treatment.does is Does.REFUSED:
            raise BadRequestError(f"{place}: {item.type}: {treatment.told}")
        if item.type in _CALLS:
            name, arguments = _CALLS[item.type](item)
            self._turn.calls.append(function_call(item.call, name, _as_text(arguments)))
        if item.type in _RESULTS:
            failed = bool(item.get("error")) or item.get("status") == "failed"
            self._add(_tool_message(item.call, _as_text(_RESULTS[item.type](item)), failed=failed))
        if item.type in ("additional_tools", "tool_search_output"):
            self.told.tools += item.get("tools") or ()


def _given(action: Any, **added: JSON) -> JSON:
    """What the model gave the tool: without what the API adds where it gave nothing, and without the nulls of
    the SDK's own types."""
    if not isinstance(action, Mapping):
        return action
    return {name: value for name, value in action.items() if value not in (None, added.get(name))}


def _tool_message(call_id: str, content: JSON, *, failed: bool = False) -> _Built:
    message: _Built = {"role": "tool", "tool_call_id": call_id, "content": content}
    return message | {"status": "error"} if failed else message


def _as_text(value: JSON) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _content(sent: str | Sequence[Any]) -> JSON:
    return sent if isinstance(sent, str) else _told(_parts(sent))


def _told(parts: Sequence[Mapping[str, JSON]]) -> JSON:
    """Text as text, for templates that know nothing else."""
    if all(part["type"] == "text" for part in parts):
        return "".join(str(part["text"]) for part in parts)
    return list(parts)


def _parts(sent: str | Sequence[Any]) -> list[Mapping[str, JSON]]:
    if isinstance(sent, str):
        return [{"type": "text", "text": sent}]
    return [_part(part) for part in sent]


def _part(part: Any) -> Mapping[str, JSON]:
    match part:
        case _Image():
            return {"type": "image_url", "image_url": {"url": part.image_url or part.file_id}}
        case _File():
            return {"type": "file", "file": part.model_extra}
        case _Refusal():
            return {"type": "text", "text": part.refusal}
    return {"type": "text", "text": part.text}


def _names(tools: Any) -> list[str]:
    known = tools if isinstance(tools, list) else []
    return [str(tool.get("name")) for tool in known if isinstance(tool, Mapping)]
