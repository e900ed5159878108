"""The runner actor: claims rollouts and runs the agent on them, many at once.

An attempt ends exactly once, in the store: succeeded with its reward, failed with the agent's
traceback, timed out, or lost when this process dies. A failed attempt has no reward.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from al_ray import dotted, semconv
from al_ray.actors.store import LEASE_SECONDS
from al_ray.types import JSON, AttemptStatus, Claim, Endpoint, Span, SpanKind

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
    """Make it an actor with ``RUNNER_OPTIONS``; ``run`` returns only after ``stop``."""

    def __init__(self, spec: RunnerSpec, store: Any) -> None:
        self._spec = spec
        self._store = store
        self._agent = dotted.load(spec.agent, "agent.run")
        self._evaluate = dotted.load(spec.evaluate, "agent.evaluate") if spec.evaluate else None
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Claim and run until stopped."""
        renewal = asyncio.create_task(self._renew_leases())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                free = self._spec.concurrency - len(self._running)
                if free == 0:
                    await asyncio.wait({stopped, *self._running.values()}, return_when=asyncio.FIRST_COMPLETED)
                    continue
                for claim in await self._store.claim.remote(self._spec.name, free, _CLAIM_WAIT):
                    self._start(claim)
        finally:
            renewal.cancel()
            stopped.cancel()
            for task in self._running.values():
                task.cancel()

    async def stop(self) -> None:
        """End the attempts under way and claim no more."""
        self._stopping.set()

    def _start(self, claim: Claim) -> None:
        reference = (claim.attempt.rollout_id, claim.attempt.number)
        task = asyncio.create_task(self._attempt(claim))
        self._running[reference] = task
        task.add_done_callback(lambda _: self._running.pop(reference))

    async def _attempt(self, claim: Claim) -> None:
        """Run the agent once and tell the store how it ended."""
        endpoint = Endpoint(self._spec.base_url, claim.attempt.key, self._spec.model)
        data = dict(claim.request.task.data)
        rewards: tuple[Span, ...] = ()
        output: Any = None
        error = None
        deadline = asyncio.timeout(self._spec.timeout)
        try:
            async with deadline:
                output = await self._agent(data, endpoint)
                rewards = (_reward_span(claim, await self._score(data, output)),)
            status = AttemptStatus.SUCCEEDED
        except Exception as raised:  # whatever the agent raises ends its attempt, and is kept with it
            timed_out = isinstance(raised, TimeoutError) and deadline.expired()
            status = AttemptStatus.TIMED_OUT if timed_out else AttemptStatus.FAILED
            error = f"no end after {self._spec.timeout:g} s" if timed_out else traceback.format_exc()
        ended = replace(
            claim.attempt, status=status, ended_at=time.time(), error=error, output=_as_json(output)
        )
        await self._store.finish.remote(ended, rewards)

    async def _score(self, data: Mapping[str, JSON], output: Any) -> Mapping[str, float]:
        """The rewards by name, ``reward`` among them."""
        result = output if self._evaluate is None else self._evaluate(data, output)
        if inspect.isawaitable(result):
            result = await result
        rewards = result if isinstance(result, Mapping) else {"reward": result}
        source = "the evaluator" if self._evaluate else "the agent"
        for name, value in (("reward", rewards.get("reward")), *rewards.items()):
            if isinstance(value, bool | int | float) and math.isfinite(value):
                continue
            raise TypeError(f"{source} returned {value!r} as {name}; a finite number is needed")
        return {name: float(value) for name, value in rewards.items()}

    async def _renew_leases(self) -> None:
        """Keep the leases; an attempt that the store no longer grants (cancelled, expired) is ended."""
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            before = set(self._running)
            held = {tuple(reference) for reference in await self._store.renew.remote(self._spec.name)}
            for reference in before - held:
                if reference in self._running:
                    self._running[reference].cancel()


def _reward_span(claim: Claim, rewards: Mapping[str, float]) -> Span:
    now = time.time()
    attributes = {semconv.REWARD: rewards["reward"], semconv.REWARD_DIMENSIONS: dict(rewards)}
    attempt = claim.attempt
    return Span(uuid.uuid4().hex, attempt.rollout_id, attempt.number, SpanKind.REWARD, "reward", now, now, attributes)


def _as_json(output: Any) -> JSON:
    """What the agent returned if it is JSON, else how it prints."""
    try:
        json.dumps(output)
    except (TypeError, ValueError):
        return repr(output)
    return output
