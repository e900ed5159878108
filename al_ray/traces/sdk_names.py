"""The many names of the same thing in agents' telemetry, in OpenTelemetry's words for GenAI.

Understood are OpenTelemetry's own conventions, OpenInference, OpenLLMetry, LangGraph's metadata in
either, AgentOps, and Agent Lightning 0.3. Names are added where they are missing; what the SDK wrote
stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from al_ray.errors import BadRequestError
from al_ray.traces import semconv
from al_ray.traces.reward_span import LARGEST, PRIMARY, reward_attributes
from al_ray.types import JSON

_LIGHTNING: Final = "agentlightning."
_OPERATIONS: Final = {
    ("openinference.span.kind", "LLM"): "chat",
    ("openinference.span.kind", "TOOL"): "execute_tool",
    ("openinference.span.kind", "AGENT"): "invoke_agent",
    ("openinference.span.kind", "CHAIN"): "operation",
    ("traceloop.span.kind", "tool"): "execute_tool",
    ("traceloop.span.kind", "agent"): "invoke_agent",
    ("traceloop.span.kind", "workflow"): "invoke_workflow",
    ("traceloop.span.kind", "task"): "operation",
    ("agentops.span.kind", "agent"): "invoke_agent",
    ("agentops.span.kind", "tool"): "execute_tool",
}
_LIGHTNING_OPERATIONS: Final = ("agentlightning.operation", "agentlightning.virtual")
_PLUMBING: Final = frozenset({"model", "agent", "tools", "call_model", "__start__"})
"""Nodes that LangGraph's prebuilt agents are made of; no one names an agent so."""
_TEXTS: Final = (
    semconv.OPERATION,
    semconv.AGENT_NAME,
    semconv.RESPONSE_ID,
    semconv.TOOL_NAME,
    semconv.TOOL_CALL_ID,
    semconv.REWARD_CALL,
    semconv.ERROR_TYPE,
    semconv.EXCEPTION_TYPE,
)
"""Names of things: whatever an SDK wrote there, they are compared as text."""
_CALL_ID: Final = re.compile(r'"id":\s*"((?:chatcmpl|cmpl|resp|msg)[-_][\w-]+)"')


def understood(name: str, told: Mapping[str, JSON]) -> dict[str, JSON]:
    """The attributes of the span ``name`` with what they mean. Raises ``BadRequestError`` for a reward
    that is no number, or too large for one."""
    attributes = dict(told)
    for key, meant in _meanings(name, told):
        if meant not in (None, ""):
            attributes.setdefault(key, meant)
    if attributes.get(semconv.OPERATION) == "execute_tool":
        _name_tool(name, attributes)
    if attributes.get(semconv.STATUS_CODE) == "ERROR":
        attributes.setdefault(semconv.ERROR_TYPE, attributes.get(semconv.EXCEPTION_TYPE, "_OTHER"))
    for key in _TEXTS:
        if key in attributes and not isinstance(attributes[key], str):
            attributes[key] = str(attributes[key])
    for key in (semconv.REWARD, semconv.REWARD_DIMENSIONS):
        attributes.pop(key, None)
    if rewards := _rewards(name, told):
        attributes |= reward_attributes(rewards, next(iter(rewards.values())))
    return attributes


def _meanings(name: str, told: Mapping[str, JSON]) -> Iterator[tuple[str, JSON]]:
    for (key, value), operation in _OPERATIONS.items():
        if told.get(key) == value:
            yield semconv.OPERATION, operation
    if name.startswith(_LIGHTNING_OPERATIONS):
        yield semconv.OPERATION, "operation"
    yield semconv.AGENT_NAME, told.get("agent.name")
    if told.get("agentops.span.kind") == "agent":
        yield semconv.AGENT_NAME, told.get("operation.name")
    yield semconv.AGENT_NAME, told.get("executor.id")
    yield semconv.AGENT_NAME, _langgraph_agent(told)
    if told.get("openinference.span.kind") == "LLM":
        found = _CALL_ID.search(str(told.get("output.value", "")))
        yield semconv.RESPONSE_ID, found[1] if found else None
    for key, value in _numbered(told, _LIGHTNING + "link", "key_match", "value_match"):
        if key == semconv.RESPONSE_ID:
            yield semconv.REWARD_CALL, value


def _langgraph_agent(told: Mapping[str, JSON]) -> str | None:
    """The agent's own name, else that of the innermost node that is no plumbing."""
    metadata = _object(told.get("metadata")) or {
        key.removeprefix("traceloop.association.properties."): value for key, value in told.items()
    }
    if "langgraph_node" not in metadata:
        return None
    if metadata.get("lc_agent_name"):
        return str(metadata["lc_agent_name"])
    path = str(metadata.get("langgraph_checkpoint_ns", metadata["langgraph_node"])).split("|")
    nodes = [step.partition(":")[0] for step in path]
    return next((node for node in reversed(nodes) if node and node not in _PLUMBING), None)


def _name_tool(name: str, attributes: dict[str, JSON]) -> None:
    """Name, arguments and result of a tool's execution; LangChain's are inside a message."""
    for key, sources in (
        (semconv.TOOL_NAME, ("tool.name", "traceloop.entity.name")),
        (semconv.TOOL_CALL_ID, ("tool_call.id", "tool.call.id")),
        (semconv.TOOL_CALL_ARGUMENTS, ("input.value", "traceloop.entity.input")),
        (semconv.TOOL_CALL_RESULT, ("output.value", "traceloop.entity.output")),
    ):
        found = next((attributes[source] for source in sources if source in attributes), None)
        if found is not None:
            attributes.setdefault(key, found)
    attributes.setdefault(semconv.TOOL_NAME, name)
    result = _object(attributes.get(semconv.TOOL_CALL_RESULT)) or {}
    result = _object(result.get("output")) or result
    message = _object(result.get("kwargs")) or _object(result.get("data")) or {}
    if "content" in message and "tool_call_id" in message:
        attributes[semconv.TOOL_CALL_RESULT] = message["content"]
        attributes.setdefault(semconv.TOOL_CALL_ID, message["tool_call_id"])
        if message.get("status") == "error":
            attributes.setdefault(semconv.ERROR_TYPE, "tool_error")


def _rewards(name: str, told: Mapping[str, JSON]) -> dict[str, float]:
    """By name, the primary one first; what is given several times under one name is added up."""
    rewards: list[tuple[str, JSON]] = []
    if semconv.REWARD in told:
        dimensions = told.get(semconv.REWARD_DIMENSIONS)
        others = dimensions.items() if isinstance(dimensions, Mapping) else ()
        primary = next((key for key, value in others if value == told[semconv.REWARD]), PRIMARY)
        rewards = [(primary, told[semconv.REWARD]), *((k, v) for k, v in others if k != primary)]
    elif numbered := list(_numbered(told, _LIGHTNING + "reward", "name", "value")):
        rewards = [(str(key), value) for key, value in numbered]
    elif name == _LIGHTNING + "annotation" and "reward" in told:  # as Agent Lightning 0.2 wrote it
        rewards = [(PRIMARY, told["reward"])]
    else:
        for source in ("agentops.task.output", "agentops.entity.output"):
            output = _object(told.get(source)) or {}
            if output.get("type") == "reward" and output.get("value") is not None:
                rewards = [(PRIMARY, output["value"])]
    given: dict[str, list[float]] = {}
    for key, value in rewards:
        given.setdefault(key, []).append(_number(key, value))
    return {key: _number(key, math.fsum(values)) for key, values in given.items()}


def _number(name: str, value: JSON) -> float:
    if isinstance(value, int | float) and abs(value) <= LARGEST:
        return float(value)
    raise BadRequestError(f"reward {name!r}: {value!r}: give a finite number, of at most {LARGEST:g}")


def _numbered(told: Mapping[str, JSON], prefix: str, key: str, value: str) -> Iterator[tuple[JSON, JSON]]:
    """``PREFIX.0.KEY`` with ``PREFIX.0.VALUE`` and so on."""
    index = 0
    while f"{prefix}.{index}.{value}" in told:
        yield told.get(f"{prefix}.{index}.{key}", PRIMARY), told[f"{prefix}.{index}.{value}"]
        index += 1


def _object(value: JSON) -> Mapping[str, JSON] | None:
    """A mapping, or the text of one; none that is nested deeper than can be written."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = orjson.loads(value)
            orjson.dumps(value)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            return None
    return value if isinstance(value, Mapping) else None
