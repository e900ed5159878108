"""The runner actor: claims rollouts and runs the agent on them, many at once.

An attempt ends exactly once, in the store: succeeded with its reward, failed with the agent's
traceback, timed out, or lost when this process or its gateway dies. A failed attempt has no reward. By
the time the store is told, the agent is gone, as far as its isolation lets it be ended.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import ray

from al_ray.actors.agent.guarded_process import allow_open_files
from al_ray.actors.agent.inherited import shed
from al_ray.actors.agent.interpreter import interpreter
from al_ray.actors.agent.isolation import ISOLATIONS
from al_ray.actors.agent.job import MAX_RESULT_BYTES, Job, ReadyAgent, Running, too_large
from al_ray.actors.agent.printed import Printed, ends_of, route_prints
from al_ray.actors.coalescer import Coalescer
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.runner.clock import expire
from al_ray.actors.runner.failure import failed, is_cancelled
from al_ray.actors.runner.hooks import Hooks
from al_ray.actors.runner.judging import Judging
from al_ray.actors.runner.scoring import Scoring
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.runner.user_code import UserCode
from al_ray.errors import AttemptEndedError, StoreError
from al_ray.traces import semconv
from al_ray.types import JSON, Attempt, AttemptStatus, Claim, Endpoint, Span, Start

RUNNER_OPTIONS: Final = {"num_cpus": 0, "max_concurrency": 16}
_CLAIM_WAIT: Final = 10.0
_GATEWAY_WAIT: Final = 60.0
"""Far longer than it takes to replace one."""

_log = logging.getLogger(__name__)


class Runner:
    """Make it an actor with ``RUNNER_OPTIONS``; ``run`` goes on until the actor is killed."""

    def __init__(self, spec: RunnerSpec, store: Any) -> None:
        self._spec = spec
        self._store = store
        self._tell_start: Coalescer[Start, bool] = Coalescer(store.start.remote)
        self._finish: Coalescer[tuple[Attempt, Sequence[Span]], bool] = Coalescer(store.finish.remote)
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._prepared = False
        self._leaving = False
        self._left_behind: list[Running] = []
        """Agents that could not be ended."""
        self._user_code = UserCode(spec.agent.grace)
        self._agent: ReadyAgent
        self._scoring: Scoring
        self._judging: Judging
        self._hooks: Hooks

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return self._spec.name

    async def ping(self) -> None:
        """Answers unless an agent keeps the event loop to itself."""

    async def node(self) -> str:
        """The id of its node."""
        return str(ray.get_runtime_context().get_node_id())

    async def leave(self) -> None:
        """Claim no more; ``run`` returns when the attempts under way have ended."""
        self._leaving = True

    async def prepare(self) -> None:
        """Import what the recipe names, which ``run`` does where nobody has asked for it before. In a thread:
        imports may take their time, and virtual environments more."""
        if not self._prepared:
            await asyncio.to_thread(self._prepare)
            self._prepared = True

    async def run(self) -> str:
        """Claim and run. What it raises is no agent's error, but the recipe's, the store's or our own.

        Returns why the process must be given up, for what an agent has done to it.
        """
        await self.prepare()
        try:
            await self._claim_and_run()
        except asyncio.CancelledError:  # nobody else does that
            return "one of its agents has cancelled every task of its event loop"
        except ExceptionGroup as group:
            if (of_store := group.subgroup(StoreError)) is not None:
                raise _first(of_store) from None
            raise
        if self._leaving:
            return "its attempts have ended"
        return "too many of its agents, hooks or evaluators could not be ended"

    async def _claim_and_run(self) -> None:
        """Until it is to leave, or more of what it runs than may run at once could not be ended."""
        async with asyncio.TaskGroup() as tasks:
            renewing = None
            while await self._has_room() and not self._leaving:
                claims = await self._claim()
                for claim in claims:
                    self._start(claim, tasks)
                if claims and renewing is None:
                    renewing = tasks.create_task(self._renew_leases(claims[0].lease_seconds / 3))
            while self._running:
                await asyncio.wait(self._running.values())
            if renewing is not None:
                renewing.cancel()

    def _prepare(self) -> None:
        allow_open_files()
        route_prints()
        agent = self._spec.agent
        if agent.isolation == "process":
            interpreter(agent)  # while the variables are here that pip or uv is configured by
        shed(agent, self._spec.environment, [*self._spec.base_urls, *self._spec.services.values()])
        self._agent = ISOLATIONS[agent.isolation](agent)
        self._scoring = Scoring(agent, self._store.rewarded.remote, self._user_code)
        self._judging = Judging(agent, self._store, self._user_code)
        self._hooks = Hooks(agent, self._user_code)

    async def _has_room(self) -> bool:
        """Waits until another attempt may run; False if too many agents could not be ended."""
        while len(self._running) >= self._spec.agent.concurrency:
            await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        return self._still_there() <= self._spec.agent.concurrency

    async def _claim(self) -> Sequence[Claim]:
        """As many rollouts as there is room for."""
        room = self._spec.agent.concurrency - len(self._running)
        with unwrapped():
            claims: Sequence[Claim] = await self._store.claim.remote(
                self._spec.name, uuid.uuid4().hex, room, _CLAIM_WAIT
            )
        return claims

    def _start(self, claim: Claim, tasks: asyncio.TaskGroup) -> None:
        reference = (claim.attempt.rollout_id, claim.attempt.number)
        task = self._running[reference] = tasks.create_task(self._attempt(claim))
        task.add_done_callback(lambda _: self._running.pop(reference))

    async def _attempt(self, claim: Claim) -> None:
        """Run the agent once and tell the store how it ended."""
        spec = self._spec
        endpoint = Endpoint(self._base_url(claim.request.id), claim.attempt.key, spec.model, spec.services)
        job = Job(claim.request, claim.attempt, endpoint, Printed())
        try:
            ended, rewards = await self._play_in_time(job)
            ended = await _excused(ended, endpoint.base_url)
        except asyncio.CancelledError:  # the store has ended it already
            if job.request.mode != "judge":
                await self._hooks.after(job, replace(job.attempt, status=AttemptStatus.CANCELLED))
            raise
        if job.request.mode != "judge":
            ended = await self._hooks.after(job, ended)
        if ended.status is not AttemptStatus.SUCCEEDED:
            rewards = ()
        await self._finish((ended, [*job.printed.spans(ended), *rewards]))

    def _base_url(self, rollout_id: str) -> str:
        urls = self._spec.base_urls
        return urls[zlib.crc32(rollout_id.encode()) % len(urls)]

    async def _play_in_time(self, job: Job) -> tuple[Attempt, Sequence[Span]]:
        timeout = self._spec.agent.timeout
        try:
            async with asyncio.timeout(None) as deadline:
                clock = asyncio.create_task(expire(deadline, timeout, job.endpoint.base_url))
                try:
                    outcome = await self._play(job)
                finally:
                    clock.cancel()
        except TimeoutError:  # the deadline's: everybody else's are caught before they come here
            outcome = None
        # It has expired all the same where somebody suppressed the cancellation.
        if outcome is not None and not deadline.expired():
            return outcome
        who = "judge" if job.request.mode == "judge" else "agent"
        error = f"the {who} had not ended after {timeout:g} s"
        return replace(job.attempt, status=AttemptStatus.TIMED_OUT, error=error), ()

    async def _play(self, job: Job) -> tuple[Attempt, Sequence[Span]]:
        """Hook, agent and reward, or the judge; whatever they raise ends the attempt and is kept with it."""
        attempt = job.attempt
        try:
            if job.request.mode == "judge":
                return await self._judged(job)
            await self._hooks.before(job)
            await self._begin(job)
            output = await self._output(job)
            attempt = replace(attempt, output=as_json(output))
            rewards = await self._scoring.terminal(job, output)
        except BaseException as error:
            if is_cancelled(error):
                raise
            return failed(attempt, error), ()
        return replace(attempt, status=AttemptStatus.SUCCEEDED), rewards

    async def _begin(self, job: Job) -> None:
        """Tell the store that the agent starts, or the judge."""
        if not await self._tell_start(Start(job.attempt.rollout_id, job.attempt.number)):
            raise AttemptEndedError("the attempt had ended before its agent began")

    async def _judged(self, job: Job) -> tuple[Attempt, Sequence[Span]]:
        """A judge's attempt, with the rewards of those that it judged."""
        await self._begin(job)
        rewards = await self._judging.rewards(job)
        output = {span.rollout_id: span.attributes[semconv.REWARD] for span in rewards}
        return replace(job.attempt, status=AttemptStatus.SUCCEEDED, output=output), rewards

    async def _output(self, job: Job) -> Any:
        """What the agent returned; by then, or if it is cancelled, the agent has been ended: to the last,
        though the deadline may come while what the store has cancelled is ended."""
        starting = asyncio.ensure_future(self._agent.start(job))
        try:
            running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A start goes on in its thread, with files whose numbers would be the next one's if they were
            # closed now.
            await asyncio.shield(asyncio.ensure_future(self._end_started(job, starting)))
            raise
        try:
            return await running.wait()
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end(job, running)))

    async def _end_started(self, job: Job, starting: asyncio.Future[Running]) -> None:
        """End what nobody waits for any more, once it has started, if it can be."""
        with suppress(Exception):
            await self._end(job, await starting)

    async def _end(self, job: Job, running: Running) -> None:
        await running.end()
        if not running.ended:
            self._left_behind.append(running)
            _log.warning(
                "attempt %d of rollout %s has ended, but its agent could not be ended; %d such agents, hooks "
                "or evaluators are in this runner (agent.isolation: process ends agents for good)",
                job.attempt.number,
                job.attempt.rollout_id,
                self._still_there(),
            )

    async def _renew_leases(self, period: float) -> None:
        """Keep the leases; an attempt that the store no longer grants (cancelled, expired) is ended."""
        while True:
            await asyncio.sleep(period)
            before = set(self._running)
            with unwrapped():
                held = {tuple(reference) for reference in await self._store.renew.remote(self._spec.name)}
            for reference in before - held:
                task = self._running.get(reference)
                if task is not None and not task.cancelling():  # once: its agent may take its grace
                    task.cancel()

    def _still_there(self) -> int:
        """How much of what was to be ended is not: agents, and hooks, evaluators and judges."""
        self._left_behind = [running for running in self._left_behind if not running.ended]
        return len(self._left_behind) + self._user_code.still_there()


async def _excused(ended: Attempt, base_url: str) -> Attempt:
    """The attempt as it ended; but unresponsive if it failed and nobody listens at its gateway's address.

    That is no fault of its agent's, and any other agent would fail there too. So this waits for the next
    gateway.
    """
    if ended.status is not AttemptStatus.FAILED or await _is_open(base_url):
        return ended
    with suppress(TimeoutError):
        async with asyncio.timeout(_GATEWAY_WAIT):
            while not await _is_open(base_url):
                await asyncio.sleep(0.2)
    error = f"there was no gateway at {base_url}\n\n{ended.error}"
    return replace(ended, status=AttemptStatus.UNRESPONSIVE, error=error)


async def _is_open(url: str) -> bool:
    """False if whoever connects is refused."""
    address = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(address.hostname, address.port)
    except ConnectionRefusedError:
        return False
    except OSError:
        # It may be there and out of reach, which a failed attempt cannot tell from its own faults.
        return True
    writer.close()
    return True


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """An error of a group that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def as_json(output: Any) -> JSON:
    """What the agent returned if the store can hold it, else how it prints."""
    try:
        text = orjson.dumps(output)
    except TypeError:
        return ends_of(repr(output))
    if len(text) > MAX_RESULT_BYTES:
        raise too_large(len(text))
    return orjson.loads(text)
