"""Several policies behind one URL: each call is its agent's policy's, and its record says whose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from al_ray.actors.gateway.calls.recorded.repeated import RETRY_HEADER
from al_ray.recipe import PolicySection
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from al_ray.types import Attempt, ChatRequest, CompletionRequest
from tests.support.houses.at_hand import open_at_hand
from tests.support.houses.gateway import SPEC, House, open_house, say
from tests.support.models.fake_engine import FakeEngine

POLICIES = {
    "writer": PolicySection(agents=["writer", "first *"]),
    "opponent": PolicySection(agents=["check*"], frozen=True),
}


@pytest.fixture(scope="module")
def two(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    spec = replace(SPEC, rules=replace(SPEC.rules, policies=POLICIES))
    with open_house(tmp_path_factory.mktemp("policies"), spec) as opened:
        yield opened


async def ask(house: House, attempt: Attempt, agent: str, model: str = "toy") -> Any:
    headers = {"x-al-ray-agent": agent} if agent else {}
    async with house.client(attempt) as client:
        return await client.chat.completions.create(model=model, messages=say("hi"), extra_headers=headers)


async def test_a_call_is_answered_by_its_agents_policy_which_its_transition_names(
    two: House, engine_a: Any
) -> None:
    await two.admit(engine_a)
    attempt = await two.attempt()
    for agent, policy in (("writer", "writer"), ("checker", "opponent"), ("first agent", "writer")):
        await ask(two, attempt, agent)
        request = (await engine_a.requests.remote())[-1]
        assert isinstance(request, ChatRequest) and request.policy == policy
    assert await two.chunks(attempt, extra_headers={"x-al-ray-agent": "checker"})
    async with two.client(attempt) as client:
        await client.completions.create(model="toy", prompt="go", extra_headers={"x-al-ray-agent": "writer"})
    request = (await engine_a.requests.remote())[-1]
    assert isinstance(request, CompletionRequest) and request.policy == "writer"
    found = [(t.policy, t.trained) for t in trajectory(two.rollout(attempt)).transitions]
    assert found == [
        ("writer", True),
        ("opponent", False),
        ("writer", True),
        ("opponent", False),
        ("writer", True),
    ]


async def test_an_agent_without_a_name_is_known_by_the_model_that_it_asks_for(
    two: House, engine_a: Any
) -> None:
    await two.admit(engine_a)
    attempt = await two.attempt()
    await ask(two, attempt, "", model="writer")
    assert (await engine_a.requests.remote())[-1].policy == "writer"
    await ask(two, attempt, "checker", model="writer")
    assert (await engine_a.requests.remote())[-1].policy == "opponent"


async def test_a_repeated_call_is_not_answered_by_what_another_policy_said(tmp_path: Path) -> None:
    """Agents without a name that ask the same of two policies, the second when its gateway has died."""
    spec = replace(SPEC, rules=replace(SPEC.rules, policies=POLICIES))
    engine = FakeEngine("a")
    async with open_at_hand(tmp_path, engine, spec) as house, open_at_hand(tmp_path, engine, spec) as late:
        attempt = await house.attempt()
        said = await ask(house, attempt, "", model="writer")
        async with late.client(attempt) as client:
            for model, is_the_same in (("checker", False), ("writer", True)):
                answer = await client.chat.completions.create(
                    model=model, messages=say("hi"), extra_headers={RETRY_HEADER: "1"}
                )
                assert (answer.id == said.id) is is_the_same


async def test_a_call_for_which_there_is_no_policy_is_refused_with_what_there_is(
    two: House, engine_a: Any
) -> None:
    await two.admit(engine_a)
    attempt = await two.attempt()
    asked = len(await engine_a.requests.remote())
    for agent, shown in (("judge", "judge"), ("", "toy")):
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(two, attempt, agent)
        told = str(caught.value)
        assert f"x-al-ray-agent: no policy answers '{shown}'" in told
        assert "writer ['writer', 'first *']; opponent ['check*']" in told
    assert len(await engine_a.requests.remote()) == asked and two.calls(attempt) == []


async def test_with_one_policy_nothing_is_said_of_it(served: House, engine_a: Any) -> None:
    attempt = await served.attempt()
    await ask(served, attempt, "writer")
    assert (await engine_a.requests.remote())[-1].policy == ""
    (call,) = served.calls(attempt)
    assert not {semconv.POLICY, semconv.FROZEN} & call.attributes.keys()
