"""Rollouts while everything is killed: nothing is lost, doubled or mistaken.

    python -m benchmarks.faults.soak [--rollouts 2000] [--kills 60] [--seed 0] [--postgresql]

A real store, in SQLite or PostgreSQL; two gateways, three runners and two scripted
engines, each a Ray actor. Their processes are killed with SIGKILL, one at a time and at random, while
agents with OpenAI's client converse and a driver collects groups. Then the database is compared with what
each task's rollout must have said, heard and earned, and with what agents were told. Prints a line of
JSON; ends with 1 if anything was lost, doubled or mistaken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from al_ray.actors.gateway.calls.routes import CallRules
from al_ray.actors.gateway.calls.sampling import PinnedSampling, SamplingRules
from al_ray.actors.gateway.pool import GatewayPool
from al_ray.actors.gateway.spec import GatewaySpec
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.store.actor import STORE_OPTIONS, Store
from al_ray.database.backends import postgresql_url, sqlite_url
from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.recipe import AgentSection
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.agents import Agents
from al_ray.traces import call_span, semconv
from al_ray.types import (
    Attempt,
    AttemptStatus,
    RetryRules,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)
from benchmarks.agents.scripted import LOG_VARIABLE, ScriptedEngine, expected, prompt_ids
from tests.support.machines.postgresql import postgresql_server
from tests.support.machines.processes import is_called

KINDS = {
    "store": "Store",
    "gateway": "Gateway",
    "door": "Door",
    "runner": "Runner",
    "engine": "ScriptedEngine",
}
"""What is killed, by the name of its class."""
GROUP_SIZE = 4
BATCH = 200
SAMPLING = SamplingRules(PinnedSampling(temperature=1.0, top_p=1.0, max_tokens=64))


@dataclass
class Progress:
    """What the driver has seen of the rollouts."""

    total: int
    delivered: dict[str, Rollout] = field(default_factory=dict)
    delivered_twice: list[str] = field(default_factory=list)


def requests(count: int, seed: int) -> list[RolloutRequest]:
    dice = random.Random(seed)
    tasks = [
        Task(f"task-{index}", {"name": f"{dice.getrandbits(64):016x}", "calls": dice.randint(1, 5)})
        for index in range(-(-count // GROUP_SIZE))
    ]
    return [
        RolloutRequest(
            id=f"rollout-{index}",
            batch=f"batch-{index // BATCH}",
            group=f"batch-{index // BATCH}/{tasks[index // GROUP_SIZE].id}",
            task=tasks[index // GROUP_SIZE],
            retry=RetryRules(max_attempts=2),
        )
        for index in range(count)
    ]


async def drive(agents: Agents, wanted: Sequence[RolloutRequest], progress: Progress) -> None:
    """As the driver does: a batch, its groups as they end, the next batch."""
    for batch in dict.fromkeys(request.batch for request in wanted):
        async for groups in agents.rollouts([request for request in wanted if request.batch == batch]):
            for rollout in (rollout for group in groups for rollout in group.rollouts):
                if rollout.id in progress.delivered:
                    progress.delivered_twice.append(rollout.id)
                progress.delivered[rollout.id] = rollout


async def kill(kills: int, seed: int, progress: Progress) -> Counter[str]:
    """Spread over the work: each when so many rollouts have ended, and a moment later."""
    dice = random.Random(seed)
    killed: Counter[str] = Counter()
    # The kinds take turns, in random order, so that a short soak has all of them.
    kinds = [kind for _ in range(-(-kills // len(KINDS))) for kind in dice.sample(sorted(KINDS), len(KINDS))]
    moments = sorted(dice.uniform(0, 0.9 * progress.total) for _ in range(kills))
    for kind, moment in zip(kinds[:kills], moments, strict=True):
        while len(progress.delivered) < moment:
            await asyncio.sleep(0.02)
        await asyncio.sleep(dice.uniform(0, 0.5))
        while not (processes := list(actors(KINDS[kind]))):
            await asyncio.sleep(0.05)
        os.kill(dice.choice(processes), signal.SIGKILL)
        killed[kind] += 1
    return killed


def actors(name: str) -> Iterator[int]:
    """The processes of our cluster's actors of this class, by the titles that Ray gives them."""
    ours = psutil.Process().children(recursive=True)
    return (process.pid for process in ours if is_called(process.pid, f"ray::{name}"))


# --- the reckoning -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faults:
    """What must not be; each in words."""

    lost: Sequence[str]
    doubled: Sequence[str]
    mistaken: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        return {"lost": len(self.lost), "doubled": len(self.doubled), "mistaken": len(self.mistaken)}


def reckon(
    wanted: Sequence[RolloutRequest],
    progress: Progress,
    rollouts: Sequence[Rollout],
    spans: Sequence[Span],
    told: Iterable[Sequence[str]],
) -> Faults:
    """``told`` has a line for each call and reward that an agent saw acknowledged: key, id and text."""
    found = {rollout.id: rollout for rollout in rollouts}
    lost = [request.id for request in wanted if request.id not in found]
    doubled = [f"{rollout_id} was delivered twice" for rollout_id in progress.delivered_twice]
    mistaken: list[str] = []
    for rollout in rollouts:
        if not rollout.status.ended or any(not attempt.status.ended for attempt in rollout.attempts):
            lost.append(f"{rollout.id} has not ended")
        if rollout.id not in progress.delivered:
            lost.append(f"{rollout.id} was not delivered")
        elif progress.delivered[rollout.id] != rollout:
            mistaken.append(f"{rollout.id} was delivered otherwise than it is recorded")
        deciding = [a.number for a in rollout.attempts if a.status is AttemptStatus.SUCCEEDED]
        if rollout.status is RolloutStatus.SUCCEEDED:
            if deciding != [len(rollout.attempts)]:
                doubled.append(f"{rollout.id} was decided by attempts {deciding}")
            mistaken += _mistakes(rollout)
        elif deciding or any(_is_terminal(span) for span in rollout.spans):
            mistaken.append(f"{rollout.id} has failed, and has an outcome")
    doubled += _doubled(spans)
    mistaken += _mixed_up(spans, found)
    lost += _forgotten(told, rollouts, spans)
    return Faults(lost, doubled, mistaken)


def _is_terminal(span: Span) -> bool:
    return span.kind is SpanKind.REWARD and semconv.REWARD_CALL not in span.attributes


def _mistakes(rollout: Rollout) -> Iterator[str]:
    """Of a rollout that succeeded: whether it said, heard and earned what its task wants, as the learner
    sees it."""
    want = expected(rollout.request.task.data)
    seen = trajectory(rollout)
    if [bytes(t.response_ids).decode() for t in seen.transitions] != list(want.answers):
        yield f"{rollout.id} has other answers than it must"
    earned = [want.step_reward, *[0.0] * (len(want.answers) - 1)]
    earned[-1] += want.reward
    if [transition.reward for transition in seen.transitions] != earned:
        yield f"{rollout.id}: its calls earned other rewards than {earned}"
    if (seen.reward, seen.terminal_reward) != (want.step_reward + want.reward, want.reward):
        yield f"{rollout.id} earned {seen.reward}, not {want.step_reward} and {want.reward}"
    for number, transition in enumerate(seen.transitions):
        said = [text for pair in zip(want.questions, want.answers, strict=True) for text in pair]
        if list(transition.prompt_ids) != prompt_ids(said[: 2 * number + 1]):
            yield f"{rollout.id}: call {number} has other tokens in its prompt than were said"


def _doubled(spans: Sequence[Span]) -> Iterator[str]:
    """Questions that an attempt has asked twice and was answered twice: each is asked once."""
    asked = Counter(
        (span.rollout_id, span.attempt, span.attributes[semconv.INPUT_MESSAGES][-1]["content"])
        for span in spans
        if span.kind is SpanKind.CALL and not call_span.is_aborted(span)
    )
    yield from (f"{question} was answered {times} times" for question, times in asked.items() if times > 1)


def _mixed_up(spans: Sequence[Span], rollouts: Mapping[str, Rollout]) -> Iterator[str]:
    """Calls of any attempt that are not of its task."""
    for span in spans:
        if span.kind is SpanKind.CALL:
            want = expected(rollouts[span.rollout_id].request.task.data)
            if span.attributes[semconv.INPUT_MESSAGES][-1]["content"] not in want.questions:
                yield f"{span.id} is not of {span.rollout_id}"


def _forgotten(
    told: Iterable[Sequence[str]], rollouts: Sequence[Rollout], spans: Sequence[Span]
) -> Iterator[str]:
    """What an agent was told of and the store has not, or has of another attempt or in other words."""
    owners = {a.key: (a.rollout_id, a.number) for rollout in rollouts for a in rollout.attempts}
    recorded = {span.id: span for span in spans}
    for key, span_id, text in told:
        span = recorded.get(span_id)
        if span is None or (span.rollout_id, span.attempt) != owners[key]:
            yield f"{span_id} of {owners[key]} is not recorded"
        elif text and span.attributes[semconv.OUTPUT_MESSAGES][0]["content"] != text:
            yield f"{span_id} of {owners[key]} is recorded in other words"


# --- the run -------------------------------------------------------------------------------------------


async def soak(wanted: Sequence[RolloutRequest], kills: int, seed: int, url: str) -> dict[str, Any]:
    progress = Progress(len(wanted))
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        store = ray.remote(Store).options(**STORE_OPTIONS).remote(url)
        stack.callback(ray.kill, store)
        await store.ping.remote()
        records = Records(url)
        stack.callback(records.close)
        engines = [ray.remote(ScriptedEngine).options(num_cpus=0, max_restarts=-1).remote() for _ in range(2)]
        rules = CallRules("soak", {"train": SAMPLING, "eval": SAMPLING}, seed=0)
        gateways = GatewayPool(GatewaySpec(rules), 2, url, {})
        stack.push_async_callback(gateways.stop)
        agent = AgentSection(run="benchmarks.agents.scripted:act", concurrency=16, timeout=120)
        log = {LOG_VARIABLE: os.environ[LOG_VARIABLE]}
        spec = RunnerSpec("r", agent, await gateways.start(), "soak", environment=log)
        runners = RunnerPool(spec, 3, store, {})
        runners.start()
        stack.push_async_callback(runners.stop)
        async with asyncio.TaskGroup() as tasks:
            tending = tasks.create_task(_tend(gateways, engines))
            killing = tasks.create_task(kill(kills, seed, progress))
            agents = Agents(store, records, [runners, gateways])
            await drive(agents, wanted, progress)
            await killing
            tending.cancel()
    seconds = time.monotonic() - begun
    records = Records(url)
    rollouts = records.find_rollouts(Query(), tuple(SpanKind)).items
    spans = records.find_spans(Query()).items
    records.close()
    told = [line.split(" ") for line in Path(os.environ[LOG_VARIABLE]).read_text().splitlines()]
    faults = reckon(wanted, progress, rollouts, spans, told)
    for fault in [*faults.lost, *faults.doubled, *faults.mistaken][:20]:
        print(fault, file=sys.stderr)
    for told_once in dict.fromkeys(_unexpected(rollouts)):
        print(told_once, file=sys.stderr)
    return {
        "rollouts": len(rollouts),
        "seconds": round(seconds, 1),
        "kills": dict(sorted(killing.result().items())),
        "ended": dict(Counter(rollout.status for rollout in rollouts)),
        "attempts": dict(Counter(attempt.status for rollout in rollouts for attempt in rollout.attempts)),
        "failures": dict(Counter(_reasons(rollouts))),
        "calls": sum(span.kind is SpanKind.CALL for span in spans),
        "acknowledged": len(told),
        **faults.counts,
    }


async def _tend(gateways: GatewayPool, engines: Sequence[Any]) -> None:
    """As the parts of a run do: tell gateways which engines may answer."""
    while True:
        await gateways.admit(engines)
        await asyncio.sleep(1)


def _reasons(rollouts: Sequence[Rollout]) -> Iterator[str]:
    """Why attempts failed."""
    for rollout in rollouts:
        for attempt in rollout.attempts:
            if attempt.status is AttemptStatus.FAILED:
                yield _reason(attempt)


def _unexpected(rollouts: Sequence[Rollout]) -> Iterator[str]:
    """What ended attempts otherwise than by a gateway's death in mid-answer."""
    for rollout in rollouts:
        for attempt in rollout.attempts:
            if attempt.status is AttemptStatus.FAILED and attempt.error_class != "openai.APIConnectionError":
                yield attempt.error or attempt.error_class or "no error"


def _reason(attempt: Attempt) -> str:
    """The class of the error, and of its first cause."""
    lines = [line for line in (attempt.error or "").splitlines() if line[:1].isalpha()]
    first = next((line.partition(":")[0] for line in lines if not line.startswith("Traceback")), "")
    return f"{attempt.error_class} after {first}" if first != attempt.error_class else first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ[LOG_VARIABLE] = f"{folder}/told"
        url = sqlite_url(Path(folder) / "store.sqlite")
        if options.postgresql:
            url = postgresql_url(stack.enter_context(postgresql_server()), "soak")
        local = {"address": "local", "include_dashboard": False, "log_to_driver": False}
        ray.init(**local, num_cpus=2, object_store_memory=200 * 2**20)
        stack.callback(ray.shutdown)
        wanted = requests(options.rollouts, options.seed)
        result = asyncio.run(soak(wanted, options.kills, options.seed, url))
    print(json.dumps(result))
    return int(any(result[fault] for fault in ("lost", "doubled", "mistaken")))


if __name__ == "__main__":
    sys.exit(main())
