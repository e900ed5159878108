"""Intermediate rewards, from an agent's tool to the transition, through the real gateway and store."""

from __future__ import annotations

import pytest

from al_ray import tracing
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.trajectory import trajectory
from al_ray.types import Endpoint
from tests.support.houses.gateway import House

SETTINGS = TransitionsSection(intermediate={"empty_results": -0.05, "tool_errors": -0.1})


@tracing.tool
def execute_sql(query: str) -> str:
    return {"one": "(no rows)", "two": "error: no such table: x"}.get(query, "3 | 4")


async def test_what_an_agent_executes_without_a_tool_call_is_rewarded_to_the_call_of_the_same_operation(
    served: House,
) -> None:
    """However late its spans arrive: they are sent behind the calls' backs, here when all is over."""
    attempt = await served.attempt()
    async with tracing.attempt(Endpoint(served.url, attempt.key, "toy")):
        for query in ("one", "two", "three"):
            with tracing.agent("writer"):
                await served.ask(attempt, query, extra_headers=tracing.headers())
                execute_sql(query)
    found = trajectory(served.rollout(attempt), SETTINGS)
    assert [transition.agent for transition in found.transitions] == ["writer"] * 3
    assert [transition.reward for transition in found.transitions] == pytest.approx([-0.05, -0.1, 0.0])
    assert [t.signals.tool_ok for t in found.transitions] == [0, 0, 1]
    assert found.reward == pytest.approx(-0.15)
