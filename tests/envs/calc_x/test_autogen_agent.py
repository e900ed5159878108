"""The AutoGen agent, whole: in its own interpreter, with its MCP server, at a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray.actors.agent import interpreter
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.envs.calc_x.calculator import ARGUMENT, DESCRIPTION
from al_ray.errors import RecipeError
from al_ray.recipe import AgentSection, loading
from al_ray.traces import semconv
from al_ray.types import ChatRequest, Choice, Rollout, RolloutRequest, RolloutStatus, SpanKind, Task
from tests.support.houses.beside_the_store import finished
from tests.support.houses.gateway import House, open_house
from tests.support.machines.processes import ROOT
from tests.support.models.fake_engine import FakeEngine

pytestmark = pytest.mark.slow


class Calculating(FakeEngine):
    """Asks for the value of what stands in brackets in the question, and answers with what it is told."""

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        choice = super()._choice(request, index)
        last = request.messages[-1]
        if last["role"] == "tool":
            choice.message["content"] = f"It is ### ANSWER: {last['content']} ###"
        else:
            (expression,) = re.findall(r"\[(.*)\]", last["content"])
            (call,) = choice.message["tool_calls"]
            call["function"]["arguments"] = json.dumps({"expression": expression})
        return choice


@pytest.fixture(autouse=True)
def uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """That which is installed beside our Python is found: pip takes three times the computing."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
async def house(ray_cluster: None, tmp_path: Path) -> AsyncIterator[House]:
    engine = ray.remote(Calculating).options(num_cpus=0, max_concurrency=10).remote("a")
    # The first agent's runner, as it ends, may hold what is asked of the second's.
    with open_house(tmp_path, lease_seconds=6.0) as opened:
        await opened.admit(engine)
        yield opened
    ray.kill(engine)


def agent(name: str) -> AgentSection:
    """The recipe's, with that function of the module; skips where its environment cannot be made."""
    recipe = loading.load(ROOT / "recipes" / "calc_x.yaml")
    section = recipe.agent.model_copy(update={"run": f"al_ray.envs.calc_x.autogen_agent:{name}"})
    try:
        interpreter.check(section, recipe.model.name, recipe.services)
    except RecipeError as error:
        if "agent.requirements" in str(error):
            pytest.skip(f"AutoGen could not be installed: {error}")
        raise
    return section


async def rollouts(house: House, section: AgentSection, *questions: tuple[str, str]) -> list[Rollout]:
    """One of each question and result."""
    pool = RunnerPool(RunnerSpec("runner", section, [house.url], "toy"), 1, house.store, {})
    pool.start()
    batch = section.run or ""
    tasks = [Task("t", {"question": question, "result": result}) for question, result in questions]
    await house.store.enqueue.remote(
        [RolloutRequest(f"{batch}/{n}", batch, batch, task) for n, task in enumerate(tasks)]
    )
    (group,) = await finished(house.store, batch, 240.0)
    await pool.stop()
    return sorted(group.rollouts, key=lambda rollout: rollout.id)


def calls(rollout: Rollout) -> list[Any]:
    assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
    return [span.attributes for span in rollout.spans if span.kind is SpanKind.CALL]


async def test_the_agent_calculates_over_mcp_and_in_process_and_both_are_the_same_to_the_model(
    house: House,
) -> None:
    """Two calls, the second with what the calculator said; what it refuses is told, and costs no reward
    but the task's."""
    questions = ("[12*4]?", "48"), ("[9**9**9]?", "1")
    seen = []
    for name in ("solve", "solve_in_process"):
        section = await asyncio.to_thread(agent, name)
        good, hostile = await rollouts(house, section, *questions)
        told = [calls(rollout)[-1][semconv.INPUT_MESSAGES][-1] for rollout in (good, hostile)]
        assert [message["content"] for message in told] == ["48", "error: the number is too large"]
        rewards = [
            [span.attributes[semconv.REWARD] for span in rollout.spans if span.kind is SpanKind.REWARD]
            for rollout in (good, hostile)
        ]
        assert rewards == [[1.0], [0.0]]
        keys = (semconv.INPUT_MESSAGES, semconv.TOOL_DEFINITIONS)
        seen.append([[call.get(key) for key in keys] for call in calls(good)])
    over_mcp, in_process = seen
    assert len(over_mcp) == 2 and over_mcp == in_process
    (tool,) = (each["function"] for each in over_mcp[0][1])
    assert (tool["name"], tool["description"]) == ("calculate", DESCRIPTION)
    assert tool["parameters"]["properties"]["expression"]["description"] == ARGUMENT
