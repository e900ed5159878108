"""The runner actor: claims rollouts and runs the agent on them, many at once.

An attempt ends exactly once, in the store: succeeded with its reward, failed with the agent's
traceback, timed out, or lost when this process dies. A failed attempt has no reward.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final

import orjson

from al_ray import dotted, semconv
from al_ray.actors.coalescer import Coalescer
from al_ray.types import JSON, Attempt, AttemptStatus, Claim, Endpoint, Span, SpanKind, Start

RUNNER_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 16}
_CLAIM_WAIT: Final = 10.0


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """What a runner runs."""

    name: str
    agent: str
    evaluate: str | None
    timeout: float
    concurrency: int
    base_url: str
    model: str


class Runner:
    """Make it an actor with ``RUNNER_OPTIONS``; ``run`` goes on until the actor is killed."""

    def __init__(self, spec: RunnerSpec, store: Any) -> None:
        self._spec = spec
        self._store = store
        self._start_agent: Coalescer[Start, bool] = Coalescer(store.start.remote)
        self._finish: Coalescer[tuple[Attempt, Sequence[Span]], bool] = Coalescer(store.finish.remote)
        self._agent: Any = None
        self._evaluate: Any = None
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def ping(self) -> None:
        """Answers unless an agent keeps the event loop to itself."""

    async def run(self) -> None:
        """Claim and run. What it raises is no agent's error, but the recipe's, the store's or our own."""
        self._agent = dotted.load(self._spec.agent, "agent.run")
        if self._spec.evaluate:
            self._evaluate = dotted.load(self._spec.evaluate, "agent.evaluate")
        renewing = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                claims = await self._claim()
                for claim in claims:
                    self._start(claim, tasks)
                if claims and renewing is None:
                    renewing = tasks.create_task(self._renew_leases(claims[0].lease_seconds / 3))

    async def _claim(self) -> Sequence[Claim]:
        """As many rollouts as there is room for, once there is room."""
        while len(self._running) >= self._spec.concurrency:
            await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        room = self._spec.concurrency - len(self._running)
        return await self._store.claim.remote(self._spec.name, uuid.uuid4().hex, room, _CLAIM_WAIT)

    def _start(self, claim: Claim, tasks: asyncio.TaskGroup) -> None:
        reference = (claim.attempt.rollout_id, claim.attempt.number)
        task = self._running[reference] = tasks.create_task(self._attempt(claim))
        task.add_done_callback(lambda _: self._running.pop(reference))

    async def _attempt(self, claim: Claim) -> None:
        """Run the agent once and tell the store how it ended.

        The agent has a task of its own: one that suppresses its cancellation has timed out all the same.
        """
        if not await self._start_agent(Start(claim.attempt.rollout_id, claim.attempt.number)):
            return  # cancelled, say, before it began
        playing = asyncio.create_task(self._play(claim))
        try:
            await asyncio.wait({playing}, timeout=self._spec.timeout)
        finally:
            playing.cancel()
        rewards: Sequence[Span] = ()
        if not playing.done():
            error = f"the agent had not ended after {self._spec.timeout:g} s"
            ended = replace(claim.attempt, status=AttemptStatus.TIMED_OUT, error=error)
        elif playing.cancelled():
            error = "the agent raised CancelledError, but nobody had cancelled it"
            ended = replace(claim.attempt, status=AttemptStatus.FAILED, error=error)
        else:
            ended, rewards = playing.result()
        await self._finish((ended, rewards))

    async def _play(self, claim: Claim) -> tuple[Attempt, Sequence[Span]]:
        """Agent and evaluator; whatever they raise ends the attempt and is kept with it."""
        endpoint = Endpoint(self._spec.base_url, claim.attempt.key, self._spec.model)
        task = claim.request.task.data
        output = None
        try:
            result = self._agent(copy.deepcopy(dict(task)), endpoint)
            if not inspect.isawaitable(result):
                raise TypeError(f"agent.run: {self._spec.agent} is not async: it returned {result!r}")
            output = await result
            rewards = await self._score(task, output)
        # SystemExit too: in an event loop it would end this process and everybody's attempts.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            ended = replace(
                claim.attempt,
                status=AttemptStatus.FAILED,
                error=_storable(traceback.format_exc()),
                error_class=f"{type(error).__module__}.{type(error).__qualname__}",
                output=_as_json(output),
            )
            return ended, ()
        ended = replace(claim.attempt, status=AttemptStatus.SUCCEEDED, output=_as_json(output))
        return ended, (_reward_span(claim.attempt, rewards),)

    async def _score(self, task: Mapping[str, JSON], output: Any) -> Mapping[str, float]:
        """The rewards by name, ``reward`` among them."""
        result = self._evaluate(task, output) if self._evaluate else output
        if inspect.isawaitable(result):
            result = await result
        rewards = result if isinstance(result, Mapping) else {"reward": result}
        source = self._spec.evaluate or self._spec.agent
        for name in ("reward", *rewards):
            value = rewards.get(name)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise TypeError(f"{source} returned {value!r} as {name}; it must be a finite number")
        return {str(name): float(value) for name, value in rewards.items()}

    async def _renew_leases(self, period: float) -> None:
        """Keep the leases; an attempt that the store no longer grants (cancelled, expired) is ended."""
        while True:
            await asyncio.sleep(period)
            before = set(self._running)
            held = {tuple(reference) for reference in await self._store.renew.remote(self._spec.name)}
            for reference in before - held:
                if reference in self._running:
                    self._running[reference].cancel()


def _reward_span(attempt: Attempt, rewards: Mapping[str, float]) -> Span:
    now = time.time()
    return Span(
        id=uuid.uuid4().hex,
        rollout_id=attempt.rollout_id,
        attempt=attempt.number,
        kind=SpanKind.REWARD,
        name="reward",
        start=now,
        end=now,
        attributes={semconv.REWARD: rewards["reward"], semconv.REWARD_DIMENSIONS: dict(rewards)},
    )


def _as_json(output: Any) -> JSON:
    """What the agent returned if the store can hold it, else how it prints."""
    try:
        return orjson.loads(orjson.dumps(output))
    except (TypeError, orjson.JSONDecodeError):
        return _storable(repr(output))


def _storable(text: str) -> str:
    """``text`` without what no database takes as text: lone surrogates and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
