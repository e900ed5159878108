"""SQLite's log has a bound, however slowly it is brought in, and is gone when a run has ended."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from al_ray.database import backends, log
from al_ray.database.backends import close_log, sqlite_url
from al_ray.database.writer import Ask, Database
from al_ray.types import Attempt, RolloutRequest, Span, SpanKind, Task

LIMIT = 2**20
READS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM spans").fetchone()
print("reading", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    database = Database(sqlite_url(file))
    yield database
    database.close()


def claimed(database: Database) -> Attempt:
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest("a", "b", "g", Task("t", {}))])
        ((claim,),) = database.claim(
            connection, [Ask("w", "c", 1)], time.time(), 30.0, time.monotonic() + 30.0
        )
    return claim.attempt


def record(database: Database, attempt: Attempt, name: str, size: int = 20_000) -> None:
    """As a gateway does: alone where that is possible, else in a transaction that waits."""
    span = Span(name, "a", attempt.number, SpanKind.CALL, "chat", 0.0, 1.0, {"x": "x" * size})
    if not database.append_at_once(span):
        with database.begin() as connection:
            assert database.append(connection, [[span]]) == [None]


@contextmanager
def slow_readers(file: Path, stop: threading.Event) -> Iterator[None]:
    """Somebody reads what was there, again and again: meanwhile the log cannot begin anew."""

    def read() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            while not stop.is_set():
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM spans").fetchone()
                time.sleep(0.2)
                connection.execute("COMMIT")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
        time.sleep(0.05)
    yield
    stop.set()
    for reader in readers:
        reader.join()


def test_the_log_keeps_its_bound_while_others_read(
    file: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as much is recorded as it may hold, by writers who do not wait and by others who do."""
    monkeypatch.setattr(log, "LOG_BYTES", LIMIT)
    attempt, count, longest = claimed(database), 4 * LIMIT // 20_000, 0
    with slow_readers(file, threading.Event()):
        for number in range(count):
            record(database, attempt, str(number))
            longest = max(longest, Path(f"{file}-wal").stat().st_size)
    # Beyond it there is what one writer adds: a row of 20,000 characters and the pages around it.
    assert LIMIT / 2 < longest < LIMIT + 2**17
    assert len(database.attempt_spans("a", 1)) == count


@pytest.fixture
def impatient(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """It waits a second for others, not thirty."""
    monkeypatch.setattr(backends, "open_sqlite", partial(backends.open_sqlite, busy_seconds=1.0))
    database = Database(sqlite_url(file))
    yield database
    database.close()


def test_a_reader_that_never_ends_holds_nobody_up_for_good(
    file: Path, impatient: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log, "LOG_BYTES", 2**19)
    database, attempt = impatient, claimed(impatient)
    record(database, attempt, "before")
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as reader,
        closing(sqlite3.connect(file, timeout=0.2, isolation_level=None)) as writer,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM spans").fetchone()
        record(database, attempt, "fills it", 2**20)
        log.bring_in(lambda text: tuple(writer.execute(text).fetchone()), str(file), 0.2)
        for number in range(3):
            record(database, attempt, f"waits for nobody {number}")
        assert caplog.text.count("somebody reads") == 1
        record(database, attempt, "fills it again", 2**20)
        record(database, attempt, "waits once more")
        assert caplog.text.count("somebody reads") == 2
    record(database, attempt, "fills it, and nobody reads", 2**20)
    record(database, attempt, "after")
    assert len(database.attempt_spans("a", 1)) == 9
    assert Path(f"{file}-wal").stat().st_size < 2**19


def test_one_whole_file_is_left_once_all_have_ended(file: Path) -> None:
    """Also where whoever had it open is only just being killed; and the file can be written again."""
    database = Database(sqlite_url(file))
    record(database, claimed(database), "kept")
    reader = subprocess.Popen([sys.executable, "-c", READS, file, "60"], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "reading\n"
    database.close()
    assert {path.name for path in file.parent.iterdir()} > {file.name}
    threading.Timer(0.5, reader.kill).start()
    close_log(sqlite_url(file))
    reader.wait()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    moved = file.rename(file.with_name("moved.sqlite"))
    again = Database(sqlite_url(moved))
    assert [span.id for span in again.attempt_spans("a", 1)] == ["kept"]
    record(again, Attempt("a", 1, "k"), "more")
    again.close()


def test_while_somebody_still_reads_the_file_alone_is_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log stays, for who reads needs it; but it is empty."""
    monkeypatch.setattr(log, "_END_SECONDS", 0.2)
    database = Database(sqlite_url(file))
    record(database, claimed(database), "kept")
    database.close()
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode=WAL")
        reader.execute("SELECT count(*) FROM spans").fetchone()
        close_log(sqlite_url(file))
        left = Path(f"{file}-wal")
        assert not left.exists() or left.stat().st_size == 0
