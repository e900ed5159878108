"""How long a reader waits for the pages of ``al-ray view`` over a run of many rollouts.

A store is written by the store's own writer: rollouts in groups of eight, each with a reward and four calls
of 100 tokens that continue each other. Then a process that serves it is asked for each page over HTTP, one
after another; told are the median and the slowest time, and what the first page takes, which reads the run.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import psutil
from yarl import URL

from al_ray.database.backends import close_log
from al_ray.database.writer import Ask, Database
from al_ray.recipe import Recipe
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.rollouts.requests import step_batch
from al_ray.run.folder import RunFolder
from al_ray.traces import call_span, semconv
from al_ray.traces.reward_span import reward_attributes
from al_ray.types import (
    Attempt,
    AttemptStatus,
    ChatReply,
    Choice,
    Claim,
    RolloutRequest,
    Span,
    SpanKind,
    Task,
    VersionSpan,
)
from al_ray.viewing.server import LOOPBACK, serve

GROUP: Final = 8
GROUPS: Final = 64
"""A step."""
CALLS: Final = 4
PROMPT, RESPONSE = 200, 100
TASKS: Final = 2000
AT_ONCE: Final = 512
"""Rollouts that are written in one transaction."""


def write(folder: Path, rollouts: int) -> RunFolder:
    """A run of so many."""
    stage = {
        "algorithm": "grpo",
        "steps": 1 + rollouts // (GROUP * GROUPS),
        "groups_per_step": GROUPS,
        "group_size": GROUP,
        "optimizer": {"learning_rate": 1e-6},
    }
    content = {
        "name": "long",
        "output": str(folder),
        "model": {"path": "model"},
        "data": {"load": "agent:load"},
        "agent": {"run": "agent:solve"},
        "stages": [stage],
    }
    recipe = Recipe.model_validate(content)
    run = RunFolder.create(recipe, "run")
    drawn = random.Random(0)
    database = Database(run.store_url)
    requests = list(_requests(rollouts))
    for start in range(0, rollouts, AT_ONCE):
        some = requests[start : start + AT_ONCE]
        with database.begin() as connection:
            database.enqueue(connection, some)
            [claims] = database.claim(connection, [Ask("w", f"claim {start}", len(some))], 1e9, 30.0, 1e9)
            database.append(connection, [[*_calls(claim, drawn)] for claim in claims])
            ended = [(_ended(claim, drawn), [_reward(claim, drawn)]) for claim in claims]
            database.finish(connection, ended)
    database.close()
    close_log(run.store_url)
    sink = JsonlSink(run.path, None)
    for step in range(1, recipe.stages[0].steps):
        sink.log(
            step, {"time/step": 9.0, "time/rollouts": 6.0, "time/update": 3.0, "reward/mean": drawn.random()}
        )
    sink.close(True)
    return run


def _requests(rollouts: int) -> Iterator[RolloutRequest]:
    for number in range(rollouts):
        group, member = divmod(number, GROUP)
        step, place = divmod(group, GROUPS)
        task = Task(f"t{group % TASKS}", {"question": f"What is {group} + {step}?"})
        batch = step_batch(step)
        yield RolloutRequest(f"{batch}/{place}/{member}", batch, f"{batch}/{place}", task)


def _calls(claim: Claim, drawn: random.Random) -> Iterator[Span]:
    name = claim.request.id
    said = [{"role": "user", "content": str(claim.request.task.data["question"])}]
    tokens = [drawn.randrange(50_000) for _ in range(PROMPT)]
    for number in range(CALLS):
        answer = {"role": "assistant", "content": f"I think it is {drawn.randrange(10**6)}. " * 8}
        ids = [drawn.randrange(50_000) for _ in range(RESPONSE)]
        logprobs = [-drawn.expovariate(2.0) for _ in range(RESPONSE)]
        reply = ChatReply(tokens, [Choice(0, answer, "stop", ids, logprobs, [VersionSpan(1, 0, RESPONSE)])])
        told = {semconv.INPUT_MESSAGES: list(said), **call_span.reply_attributes(reply)}
        yield Span(f"{name}/{number}", name, 1, SpanKind.CALL, "chat", 1e9 + number, 1e9 + number + 0.5, told)
        said += [answer, {"role": "user", "content": "go on"}]
        tokens = [*tokens, *ids, *range(5)]


def _reward(claim: Claim, drawn: random.Random) -> Span:
    name = claim.request.id
    given = reward_attributes({"reward": round(drawn.random(), 3)})
    return Span(f"{name}/reward", name, 1, SpanKind.REWARD, "reward", 1e9 + 5, 1e9 + 5, given)


def _ended(claim: Claim, drawn: random.Random) -> Attempt:
    return replace(claim.attempt, status=AttemptStatus.SUCCEEDED, ended_at=1e9 + drawn.uniform(1, 9))


async def measure(run: RunFolder, rollouts: int, rounds: int) -> None:
    """Print a table of the pages."""
    middle = step_batch(rollouts // (GROUP * GROUPS) // 2)
    list_of = "/rollouts?run=run"
    pages = {
        "a page of rollouts, the newest": list_of,
        "... the last page": f"{list_of}&page={max(1, rollouts // 50)}",
        "... sorted by reward": f"{list_of}&sort=reward",
        "... of a reward from 0.9 on, by seconds": f"{list_of}&min_reward=0.9&sort=seconds",
        "... with an error": f"{list_of}&error=ValueError",
        "... with a text that one step has": f"{list_of}&text=is+{GROUPS}+%2B+1%3F&batch=step-000001",
        "... with a text that none has (2 s of search)": f"{list_of}&text=nobody+says+this",
        "a run": "/run?run=run",
        "a rollout": f"/rollout?run=run&id={middle}/0/0",
        "a group of 8": f"/group?run=run&batch={middle}&group={middle}/0",
        "a task": "/task?run=run&task=t7",
    }
    told: list[str] = []
    serving = asyncio.create_task(serve(run.path, LOOPBACK, 0, with_token=False, tell=told.append))
    while not told:
        await asyncio.sleep(0.01)
    process = psutil.Process()
    before = process.memory_info().rss
    async with aiohttp.ClientSession(URL(told[0])) as session:
        first = await _seconds(session, list_of)
        grown = (process.memory_info().rss - before) / 2**20
        print(f"the first page, which reads the run: {first:.2f} s, and {grown:.0f} MiB of memory\n")
        print("| page | median ms | slowest ms | kB |\n|---|---|---|---|")
        for name, path in pages.items():
            few = 2 if "2 s" in name else rounds
            times = [await _seconds(session, path) for _ in range(few)]
            size = len(await (await session.get(path)).read()) / 1000
            print(
                f"| {name} | {1000 * statistics.median(times):.0f} | {1000 * max(times):.0f} | {size:.0f} |"
            )
    serving.cancel()


def measured(run: RunFolder, rollouts: int, rounds: int) -> None:
    """``measure`` in a process of its own."""
    asyncio.run(measure(run, rollouts, rounds))


async def _seconds(session: aiohttp.ClientSession, path: str) -> float:
    begun = time.perf_counter()
    async with session.get(path) as answer:
        body = await answer.read()
    assert answer.status == 200, body.decode()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rollouts", nargs="?", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run = write(Path(folder), arguments.rollouts)
        size = (run.path / "store.sqlite").stat().st_size / 2**30
        seconds = time.perf_counter() - begun
        print(f"{arguments.rollouts} rollouts written in {seconds:.0f} s, a store of {size:.2f} GiB")
        context = multiprocessing.get_context("spawn")  # or the memory of the writer would be counted
        serving = context.Process(target=measured, args=(run, arguments.rollouts, arguments.rounds))
        serving.start()
        serving.join()


if __name__ == "__main__":
    main()
