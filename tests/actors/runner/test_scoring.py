"""An evaluator is the user's code: it may block, hang and print, at the expense of its own attempt alone."""

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
    scored, barrier = scoring("meet", UserCode()), threading.Barrier(2, timeout=60)
    spans = await asyncio.gather(*(scored.terminal(job(barrier=barrier), reward) for reward in (0.25, 0.75)))
    assert [span.attributes[semconv.REWARD] for (span,) in spans] == [0.25, 0.75]


async def test_one_that_hangs_is_ended_by_the_deadline_and_counted_until_it_ends() -> None:
    """What it has printed is kept."""
    code, released = UserCode(), threading.Event()
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


async def test_what_an_async_evaluator_prints_is_kept_too() -> None:
    said = job()
    with routed():
        (span,) = await scoring("say", UserCode()).terminal(said, 1)
    assert span.attributes[semconv.REWARD] == 1.0
    assert said.printed.stdout.text == "said later\n"


def test_numbers_by_name_without_a_reward_are_told_as_they_were_returned() -> None:
    with pytest.raises(
        RewardError, match=r"^score returned \{'score': 1\.0\} without a 'reward'; give a fin"
    ):
        reward_span(Attempt("r", 1, "key"), {"score": 1.0}, "score")
