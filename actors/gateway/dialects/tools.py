"""Tools in OpenAI's chat shape, whatever an API calls them, and how the model's calls are told back.

The model knows functions alone. A tool that takes free text is a function of one string to it, one within a
namespace a function with a longer name, and a tool of the API's own whose work the agent does, such as a
shell, a function with the arguments that the API gives it. A tool whose work the API's own servers would do
cannot be offered: it is left out, and the record says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import orjson

from al_ray.actors.gateway.dialects.core import ToldAs
from al_ray.errors import BadRequestError
from al_ray.types import JSON

_INPUT: Final = "input"
_ARGUMENTS: Final = "arguments"
STRING: Final[JSON] = {"type": "string"}
INTEGER: Final[JSON] = {"type": "integer"}
_TEXT_ALONE: Final = {
    "type": "object",
    "properties": {_INPUT: STRING},
    "required": [_INPUT],
    "additionalProperties": False,
}

_ABOVE: Final = 60
"""Levels that are free above a tool call's arguments: orjson writes 254, and the bodies in which agents send
them back are read to 200."""


@dataclass(slots=True)
class Offer:
    """The tools of one request."""

    functions: list[dict[str, JSON]] = field(default_factory=list)
    """In OpenAI's chat shape."""
    told_as: dict[str, ToldAs] = field(default_factory=dict)
    """By the function's name, those that the API knows otherwise."""
    left_out: list[str] = field(default_factory=list)
    """The types of those that cannot be offered."""

    def function(
        self,
        name: str,
        description: str | None,
        parameters: JSON,
        strict: bool | None = None,
        namespace: str | None = None,
    ) -> None:
        if namespace is not None:
            self.told_as[full_name(name, namespace)] = ToldAs("function", name, namespace)
        self.functions.append(function_tool(full_name(name, namespace), description, parameters, strict))

    def custom(self, name: str, description: str | None, format: JSON, namespace: str | None = None) -> None:
        """A tool that takes free text, or text of a grammar."""
        self.told_as[full_name(name, namespace)] = ToldAs("custom", name, namespace)
        told = "\n\n".join(part for part in (description, _grammar(format)) if part)
        self.functions.append(function_tool(full_name(name, namespace), told or None, _TEXT_ALONE))

    def own(self, type: str, name: str, description: str, parameters: JSON) -> None:
        """A tool of the API's own, whose work the agent does."""
        self.told_as[name] = ToldAs(type, name)
        self.functions.append(function_tool(name, description, parameters))

    def only(self, names: Iterable[str], mode: str) -> JSON:
        """Offer these alone, by the names that the agent gave them; the choice among them. Raises
        ``BadRequestError``."""
        allowed = {self.chosen(name) for name in names}
        self.functions = [tool for tool in self.functions if _name(tool) in allowed]
        return self.freely(mode)

    def chosen(self, name: str) -> str:
        """The function that the agent calls ``name``. Raises ``BadRequestError``."""
        for function in self.functions:
            known = _name(function)
            if known == name or (known in self.told_as and self.told_as[known].name == name):
                return known
        raise BadRequestError(f"tool_choice: no tool that can be offered is named {name!r}; add it to tools")

    def choice(self, choice: JSON) -> JSON:
        """``choice``, or none where all tools were left out. Raises ``BadRequestError`` where it demands
        one."""
        if told := self.unmet(choice):
            raise BadRequestError(told)
        return choice if self.functions or not self.left_out else None

    def unmet(self, choice: JSON) -> str | None:
        """Why a tool that ``choice`` demands cannot be had."""
        if self.functions or not self.left_out or choice != "required":
            return None
        return (
            f"tool_choice: a tool is demanded, and none of {', '.join(self.left_out)} can be offered: "
            "their work is done by the API's own servers; add a function"
        )

    def freely(self, choice: JSON) -> JSON:
        """``choice`` where the model may be left one among no tools, which vLLM refuses. Raises
        ``BadRequestError`` as ``choice`` does."""
        return self.choice(choice) if self.functions or choice != "auto" else None


def object_schema(required: str, **properties: JSON) -> JSON:
    """The JSON schema of the arguments of a tool of the API's own; ``required`` are names with spaces between
    them."""
    return {"type": "object", "properties": properties, "required": required.split()}


def _name(tool: Mapping[str, JSON]) -> str:
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def named(name: str) -> dict[str, JSON]:
    """A tool choice in OpenAI's chat shape."""
    return {"type": "function", "function": {"name": name}}


def full_name(name: str, namespace: str | None) -> str:
    """That of the function."""
    return name if not namespace else f"{namespace.removesuffix('__')}__{name}"


def function_tool(
    name: str, description: str | None, parameters: JSON, strict: bool | None = None
) -> dict[str, JSON]:
    """A tool in OpenAI's chat shape, without what was not said."""
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def function_call(call_id: str, name: str, arguments: str) -> dict[str, JSON]:
    """A tool call in OpenAI's chat shape."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def custom_call(call_id: str, name: str, input: str) -> dict[str, JSON]:
    """A call of a tool that takes free text, in OpenAI's chat shape."""
    return function_call(call_id, name, orjson.dumps({_INPUT: input}).decode())


def custom_input(arguments: str) -> str:
    """The text that the model gives a tool that takes free text; what is no such object is not lost."""
    given = (as_object(arguments) or {}).get(_INPUT)
    return given if isinstance(given, str) else arguments


def as_object(arguments: str) -> Mapping[str, Any] | None:
    """A tool call's arguments. None: they are no object, not yet a whole one, or one that could not be told
    and sent back."""
    try:
        value = orjson.loads(arguments)
        orjson.dumps(reduce(lambda inner, _: [inner], range(_ABOVE), value))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if isinstance(value, dict) else None


def input_object(arguments: str) -> Mapping[str, Any]:
    """A tool call's arguments for an API that knows objects alone; what is none is not lost then."""
    value = as_object(arguments or "{}")
    return {_ARGUMENTS: arguments} if value is None else value


def input_arguments(given: Mapping[str, JSON], *, has_such: bool) -> str:
    """The arguments of which ``input_object`` made what is given. ``has_such``: the tool has one of its own
    that is named as what is no object is."""
    text = given.get(_ARGUMENTS)
    if isinstance(text, str) and not has_such and input_object(text) == given:
        return text
    return orjson.dumps(given).decode()


def has_such_arguments(parameters: Mapping[str, Any] | None) -> bool:
    """Whether the schema of a tool has the name by which what is no object is told."""
    properties = (parameters or {}).get("properties")
    return isinstance(properties, Mapping) and _ARGUMENTS in properties


def _grammar(format: JSON) -> str | None:
    """What a custom tool's format says, for the model to read."""
    if not isinstance(format, Mapping) or format.get("type") != "grammar":
        return None
    told = format.get("grammar", format)
    return f"The input is text of this {told.get('syntax')} grammar:\n{told.get('definition')}"
