"""The terminal reward. An evaluator is the user's code: it may block, hang and print, at the expense of its
own attempt alone."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import Printed, route_prints
from al_ray.actors.runner.scoring import Scoring, reward_span
from al_ray.actors.runner.user_code import UserCode
from al_ray.errors import RewardError
from al_ray.recipe import AgentSection
from al_ray.traces import semconv
from al_ray.types import Attempt, Endpoint, RolloutRequest, Task


def meet(task: Mapping[str, Any], output: Any) -> float:
    """Returns when as many evaluators are here as the task's barrier waits for."""
    task["barrier"].wait()
    return float(output)


async def say(task: Mapping[str, Any], output: Any) -> float:
    await asyncio.sleep(0)
    print("said later")
    return 1.0


def hang(task: Mapping[str, Any], output: Any) -> float:
    print("said before it hangs")
    task["released"].wait()
    return 1.0


async def go_on(task: Mapping[str, Any], output: Any) -> float:
    """Tries again whatever comes between, its cancellation too."""
    while not task["released"].is_set():
        try:
            task["begun"].set()
            await task["released"].wait()
        except BaseException:
            print("once more")
    return 1.0


async def never(rollout_id: str, number: int) -> bool:
    raise AssertionError("an evaluator gives the reward")


def scoring(evaluate: str, user_code: UserCode) -> Scoring:
    return Scoring(AgentSection(run="a:b", evaluate=f"{__name__}:{evaluate}"), never, user_code)


def job(**task: Any) -> Job:
    request = RolloutRequest("r", "g", "b", Task("t", task))
    return Job(request, Attempt("r", 1, "key"), Endpoint("http://gateway/v1", "key", "toy"), Printed())


@contextmanager
def routed() -> Iterator[None]:
    """As in a runner."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, getattr(sys, name))
        route_prints()
        yield


async def test_plain_evaluators_that_block_hold_up_neither_the_loop_nor_each_other() -> None:
    """In the loop the second would wait for the first, which waits for it."""
    scored, barrier = scoring("meet", UserCode(grace=0.1)), threading.Barrier(2, timeout=60)
    spans = await asyncio.gather(*(scored.terminal(job(barrier=barrier), reward) for reward in (0.25, 0.75)))
    assert [span.attributes[semconv.REWARD] for (span,) in spans] == [0.25, 0.75]


async def test_one_that_hangs_is_ended_by_the_deadline_and_counted_until_it_ends() -> None:
    """What it has printed is kept."""
    code, released = UserCode(grace=0.1), threading.Event()
    hung = job(released=released)
    with routed(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await scoring("hang", code).terminal(hung, 1)
    assert hung.printed.stdout.text == "said before it hangs\n"
    assert code.still_there() == 1
    released.set()
    async with asyncio.timeout(60):
        while code.still_there():
            await asyncio.sleep(0.01)


async def test_an_async_one_that_goes_on_has_its_grace_and_is_counted_until_it_ends() -> None:
    """Waited for, it would keep its attempt, and whoever waits for that, for good."""
    code, begun, released = UserCode(grace=0.1), asyncio.Event(), asyncio.Event()
    hung = job(begun=begun, released=released)
    with routed():
        scored = asyncio.create_task(scoring("go_on", code).terminal(hung, 1))
        await begun.wait()
        scored.cancel()
        try:
            await asyncio.wait({scored}, timeout=60)
            assert scored.cancelled()
            assert code.still_there() == 1
        finally:
            released.set()
        async with asyncio.timeout(60):
            while code.still_there():
                await asyncio.sleep(0.01)
    assert hung.printed.stdout.text == "once more\n"


async def test_what_an_async_evaluator_prints_is_kept_too() -> None:
    said = job()
    with routed():
        (span,) = await scoring("say", UserCode(grace=0.1)).terminal(said, 1)
    assert span.attributes[semconv.REWARD] == 1.0
    assert said.printed.stdout.text == "said later\n"


ANSWERS = ("Paris", {"answer": "Paris"}, "1")


async def returned(output: Any, *, posted: bool) -> list[Any]:
    """The terminal reward of an agent that returned this, and that has ``posted`` rewards or has not."""

    async def rewarded(rollout_id: str, number: int) -> bool:
        return posted

    spans = await Scoring(AgentSection(run="agents:solve"), rewarded, UserCode(grace=0.1)).terminal(
        job(), output
    )
    return [span.attributes[semconv.REWARD] for span in spans]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_agent_that_posted_its_rewards_may_return_its_answer(answer: Any) -> None:
    """As a program may print it. A reward that it returns comes on top."""
    assert await returned(answer, posted=True) == await returned(None, posted=True) == []
    assert await returned({"answer": 7, "reward": 0.5}, posted=True) == [0.5]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_alone_is_no_reward_and_what_would_be_is_told(answer: Any) -> None:
    with pytest.raises(
        RewardError,
        match=r"^agents:solve returned .* which is no reward, and posted none; return a finite number",
    ):
        await returned(answer, posted=False)


async def test_a_reward_that_is_no_number_is_not_made_up_for_by_those_that_were_posted() -> None:
    with pytest.raises(RewardError, match="agents:solve returned 'good' as reward"):
        await returned({"reward": "good"}, posted=True)


def test_numbers_by_name_without_a_reward_are_told_as_they_were_returned() -> None:
    with pytest.raises(
        RewardError, match=r"^score returned \{'score': 1\.0\} without a 'reward'; give a fin"
    ):
        reward_span(Attempt("r", 1, "key"), {"score": 1.0}, "score")
