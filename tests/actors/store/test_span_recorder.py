"""Spans are durable when their recorder says so, however many write and whoever is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.backends import sqlite_url
from al_ray.database.log import LOG_BYTES
from al_ray.database.writer import Ask, Database
from al_ray.errors import AttemptEndedError
from al_ray.types import Attempt, AttemptStatus, RolloutRequest, Span, SpanKind, Task

WRITER = """
import asyncio, sys
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.writer import Database
from al_ray.types import Span, SpanKind

url, rollout_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def record(recorder, number):
    name = f"{rollout_id}/{number}"
    await recorder.record(Span(name, rollout_id, 1, SpanKind.CALL, "chat", 0.0, 1.0, {"x": [0.5] * 200}))
    print(number, flush=True)

async def write():
    recorder = SpanRecorder(Database(url))
    for start in range(0, count, 8):
        await asyncio.gather(*(record(recorder, number) for number in range(start, start + 8)))

asyncio.run(write())
"""


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    opened = Database(store_url)
    yield opened
    opened.close()


def attempts(database: Database, *rollout_ids: str) -> list[Attempt]:
    """One of each new rollout, running."""
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest(name, "b", "g", Task("t", {})) for name in rollout_ids])
        (claims,) = database.claim(connection, [Ask("w", "c", len(rollout_ids))], time.time(), 600.0, 600.0)
    return [claim.attempt for claim in claims]


def span(name: str, attempt: Attempt, attributes: object = None) -> Span:
    return Span(name, attempt.rollout_id, attempt.number, SpanKind.CALL, "chat", 0.0, 1.0, {"x": attributes})


async def test_each_batch_of_spans_succeeds_or_fails_for_itself(database: Database) -> None:
    a, b = attempts(database, "a", "b")
    with database.begin() as connection:
        database.finish(connection, [(Attempt("a", 1, "", AttemptStatus.SUCCEEDED), ())])
    recorder = SpanRecorder(database)
    refused, kept, failed = await recorder.append(
        [[span("s1", a)], [span("s2", b)], [span("s3", b, attributes=object)]]
    )
    assert isinstance(refused, AttemptEndedError)
    assert kept is None
    assert "not JSON serializable" in str(failed)
    assert [kept.id for kept in database.attempt_spans("b", 1)] == ["s2"]


async def test_what_is_recorded_twice_is_there_once(database: Database) -> None:
    (attempt,) = attempts(database, "a")
    recorder = SpanRecorder(database)
    await asyncio.gather(*(recorder.record(span("s", attempt)) for _ in range(5)))
    assert [kept.id for kept in database.attempt_spans("a", 1)] == ["s"]


async def test_a_lone_span_waits_for_another_writer_and_the_event_loop_does_not(database: Database) -> None:
    (attempt,) = attempts(database, "a")
    recorder = SpanRecorder(database)
    await recorder.record(span("before", attempt))
    with database.begin():
        recording = asyncio.create_task(recorder.record(span("during", attempt)))
        started = time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert time.monotonic() - started < 5
        assert not recording.done()
    await recording
    assert [kept.id for kept in database.attempt_spans("a", 1)] == ["before", "during"]


async def test_what_is_durable_is_exported_though_its_agent_hangs_up_meanwhile(database: Database) -> None:
    (attempt,) = attempts(database, "a")
    exporter = Mock()
    recorder = SpanRecorder(database, exporter)
    with database.begin():
        recording = asyncio.create_task(recorder.record(span("s", attempt)))
        await asyncio.sleep(0)  # it waits for the other writer
        recording.cancel()
        await asyncio.wait({recording})
    async with asyncio.timeout(60):
        while not exporter.offer.called:
            await asyncio.sleep(0.01)
    assert [kept.id for kept in database.attempt_spans("a", 1)] == ["s"]


async def test_spans_of_any_size_are_recorded(database: Database) -> None:
    (attempt,) = attempts(database, "a")
    recorder = SpanRecorder(database)
    sizes = [10, 10**3, 10**5, 10**6, 10**7]
    for size in sizes:
        await recorder.record(span(str(size), attempt, "x" * size))
    kept = {kept.id: len(kept.attributes["x"]) for kept in database.attempt_spans("a", 1)}
    assert kept == {str(size): size for size in sizes}


async def test_sqlites_log_does_not_grow_with_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    database = Database(sqlite_url(path))
    (attempt,) = attempts(database, "a")
    recorder = SpanRecorder(database)
    log = path.with_name("store.sqlite-wal")
    longest = 0
    for number in range(10_000):  # of which each adds three pages or more
        await recorder.record(span(str(number), attempt, "x" * 2000))
        longest = max(longest, log.stat().st_size)
    assert longest < LOG_BYTES + 2**20
    assert len(database.attempt_spans("a", 1)) == 10_000
    database.close()


def test_writers_killed_in_mid_write_lose_nothing_they_acknowledged_and_hold_up_nobody(
    database: Database, store_url: str
) -> None:
    """Three processes write at once, as gateways do; two of them are killed with SIGKILL."""
    names, count = ("killed", "killed too", "lives"), 400
    attempts(database, *names)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store_url, name, str(count)], stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    acknowledged: dict[str, list[str]] = {}
    for name, writer in zip(names, writers, strict=True):
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(40)]
        if name != "lives":
            writer.kill()
        acknowledged[name] = [line.strip() for line in (*said, *writer.stdout) if line.endswith("\n")]
        writer.wait()
    assert len(acknowledged["lives"]) == count
    for name in names:
        kept = {kept.id for kept in database.attempt_spans(name, 1)}
        assert kept >= {f"{name}/{number}" for number in acknowledged[name]}
