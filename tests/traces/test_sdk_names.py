"""Other projects' names for things, and Agent Lightning's."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from al_ray.errors import BadRequestError
from al_ray.traces import semconv
from al_ray.traces.sdk_names import understood


@pytest.mark.parametrize(
    ("name", "told", "dimensions"),
    [
        ("reward", {"al_ray.reward": 1}, {"reward": 1.0}),
        (
            "reward",
            {"al_ray.reward": 1.0, "al_ray.reward.dimensions": {"style": 0.5, "reward": 1.0}},
            {"reward": 1.0, "style": 0.5},
        ),
        (
            "agentlightning.annotation",
            {
                "agentlightning.reward.0.name": "task",
                "agentlightning.reward.0.value": 0.75,
                "agentlightning.reward.1.name": "speed",
                "agentlightning.reward.1.value": 1,
            },
            {"task": 0.75, "speed": 1.0},
        ),
        (
            "agentlightning.annotation",
            {
                "agentlightning.reward.0.name": "task",
                "agentlightning.reward.0.value": 1.0,
                "agentlightning.reward.1.name": "speed",
                "agentlightning.reward.1.value": 2,
                "agentlightning.reward.2.name": "task",
                "agentlightning.reward.2.value": 0.25,
            },
            {"task": 1.25, "speed": 2.0},
        ),
        ("agentlightning.annotation", {"reward": 0.5}, {"reward": 0.5}),
        ("any", {"agentops.task.output": '{"type": "reward", "value": 0.5}'}, {"reward": 0.5}),
    ],
)
def test_rewards_are_understood_with_their_dimensions_the_first_is_the_primary(
    name: str, told: dict[str, Any], dimensions: dict[str, float]
) -> None:
    """Those of one name are added up, as those of several spans are."""
    attributes = understood(name, told)
    assert attributes[semconv.REWARD_DIMENSIONS] == dimensions
    assert attributes[semconv.REWARD] == next(iter(dimensions.values()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1e308, 10**400, "1", None, [1]])
def test_a_reward_that_is_no_finite_number_or_a_huge_one_is_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="finite number"):
        understood("agentlightning.annotation", {"agentlightning.reward.0.value": value})


def test_the_sum_of_several_under_one_name_is_held_to_the_same_limit() -> None:
    with pytest.raises(BadRequestError, match="finite number"):
        understood("any", {f"agentlightning.reward.{n}.value": 0.9e30 for n in range(2)})


@pytest.mark.parametrize("depth", [10, 251, 252, 253, 254, 255, 300, 1000])
def test_a_tools_result_can_be_stored_however_deep_it_is_nested(depth: int) -> None:
    """What is nested too deep to be written as JSON stays the text that it was."""
    deep = "[" * depth + "]" * depth
    output = f'{{"output": {{"data": {{"content": {deep}, "tool_call_id": "c1"}}}}}}'
    attributes = understood("look", {"openinference.span.kind": "TOOL", "output.value": output})
    assert json.loads(orjson.dumps(attributes))["output.value"] == output
    assert (attributes[semconv.TOOL_CALL_RESULT] == output) is (depth > 251)


def test_a_reward_linked_to_a_response_is_that_calls() -> None:
    attributes = understood(
        "agentlightning.annotation",
        {
            "agentlightning.reward.0.value": 1.0,
            "agentlightning.link.0.key_match": "span_id",
            "agentlightning.link.0.value_match": "abc",
            "agentlightning.link.1.key_match": "gen_ai.response.id",
            "agentlightning.link.1.value_match": "chatcmpl-1",
        },
    )
    assert attributes[semconv.REWARD_CALL] == "chatcmpl-1"


@pytest.mark.parametrize(
    ("told", "operation", "agent"),
    [
        ({"openinference.span.kind": "AGENT", "agent.name": "writer"}, "invoke_agent", "writer"),
        ({"agentops.span.kind": "agent", "operation.name": "writer"}, "invoke_agent", "writer"),
        ({"traceloop.span.kind": "workflow"}, "invoke_workflow", None),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "writer"}, "invoke_agent", "writer"),
        ({"executor.id": "writer"}, None, "writer"),
    ],
)
def test_operations_and_agents_have_opentelemetrys_names(
    told: dict[str, Any], operation: str | None, agent: str | None
) -> None:
    attributes = understood("any", told)
    assert (attributes.get(semconv.OPERATION), attributes.get(semconv.AGENT_NAME)) == (operation, agent)


@pytest.mark.parametrize(
    ("metadata", "agent"),
    [
        ({"langgraph_node": "checker", "langgraph_checkpoint_ns": "checker:1"}, "checker"),
        ({"langgraph_node": "model", "lc_agent_name": "writer"}, "writer"),
        ({"langgraph_node": "model", "langgraph_checkpoint_ns": "writer:1|model:2"}, "writer"),
        ({"langgraph_node": "model", "langgraph_checkpoint_ns": "model:2"}, None),
        ({"ls_integration": "langgraph"}, None),
    ],
)
def test_an_agent_of_langgraph_is_its_name_or_its_node(metadata: dict[str, str], agent: str | None) -> None:
    inference = {"openinference.span.kind": "LLM", "metadata": json.dumps(metadata)}
    traceloop = {f"traceloop.association.properties.{key}": value for key, value in metadata.items()}
    for told in (inference, traceloop):
        assert understood("ChatOpenAI", told).get(semconv.AGENT_NAME) == agent


def test_the_execution_of_a_tool_has_name_arguments_and_result() -> None:
    message = {"kwargs": {"content": "no such table", "tool_call_id": "call_1", "status": "error"}}
    attributes = understood(
        "query.tool",
        {
            "traceloop.span.kind": "tool",
            "traceloop.entity.name": "query",
            "traceloop.entity.input": "{}",
            "traceloop.entity.output": json.dumps({"output": message}),
        },
    )
    assert attributes[semconv.OPERATION] == "execute_tool"
    assert attributes[semconv.TOOL_NAME] == "query"
    assert attributes[semconv.TOOL_CALL_ARGUMENTS] == "{}"
    assert attributes[semconv.TOOL_CALL_RESULT] == "no such table"
    assert (attributes[semconv.TOOL_CALL_ID], attributes[semconv.ERROR_TYPE]) == ("call_1", "tool_error")
    plain = understood("add", {"openinference.span.kind": "TOOL", "output.value": "3"})
    assert (plain[semconv.TOOL_NAME], plain[semconv.TOOL_CALL_RESULT]) == ("add", "3")


def test_a_model_call_of_openinference_tells_the_response_in_its_output() -> None:
    output = json.dumps({"generations": [[{"message": {"response_metadata": {"id": "chatcmpl-ab12"}}}]]})
    attributes = understood("ChatOpenAI", {"openinference.span.kind": "LLM", "output.value": output})
    assert attributes[semconv.RESPONSE_ID] == "chatcmpl-ab12"


def test_names_are_text_whatever_an_sdk_wrote_there() -> None:
    attributes = understood("x", {semconv.AGENT_NAME: ["a"], semconv.RESPONSE_ID: {"a": 1}})
    assert (attributes[semconv.AGENT_NAME], attributes[semconv.RESPONSE_ID]) == ("['a']", "{'a': 1}")


def test_what_the_sdk_wrote_stays() -> None:
    told = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "own", "tool.name": "other", "x": 1}
    assert understood("any", told).items() >= told.items()
