"""What is exported is what is recorded, in a file that other programs read."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.database.writer import Ask, Database
from al_ray.errors import UserError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.exporting import tables
from al_ray.rollouts.exporting.files import export
from al_ray.rollouts.exporting.tables import Export
from al_ray.rollouts.reading.search import Search
from al_ray.traces import semconv
from al_ray.types import RolloutRequest, Span, SpanKind, Task
from tests.support.runs.recorded import record

KINDS = ("rollouts", "spans", "transitions")
FORMATS = ("jsonl", "parquet")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    record(database, 0, 9)
    yield database
    database.close()


def _source(records: Records, **search: Any) -> Export:
    return Export(records, Search(**search), TransitionsSection(train=["even"]))


def _rows(source: Export, what: str, file: Path) -> list[Mapping[str, Any]]:
    """Exported and read again."""
    count = export(source, what, None, file)
    if file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    else:
        rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    assert len(rows) == count
    return rows


@pytest.mark.parametrize("what", KINDS)
def test_both_formats_hold_the_same_rows(database: Database, tmp_path: Path, what: str) -> None:
    lines, table = (_rows(_source(database), what, tmp_path / f"x.{format}") for format in FORMATS)
    assert lines == table and lines


@pytest.mark.parametrize(
    ("format", "name", "is_parquet"),
    [
        (None, "x.parquet", True),
        (None, "x.PARQUET", True),
        (None, "x.jsonl", False),
        (None, "x.parquet.jsonl", False),
        ("parquet", "x.parquet", True),
        ("parquet", "x", True),
        ("jsonl", "x.txt", False),
    ],
)
def test_the_suffix_names_the_format(
    database: Database, tmp_path: Path, format: str | None, name: str, is_parquet: bool
) -> None:
    """And one that names none leaves it to --format (R14)."""
    export(_source(database), "rollouts", format, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"PAR1" if is_parquet else b"{")


def test_rollouts_have_their_attempts_and_rewards_and_no_key(database: Database, tmp_path: Path) -> None:
    rows = _rows(_source(database), "rollouts", tmp_path / "x.jsonl")
    assert [row["rollout_id"] for row in rows] == [f"r{number}" for number in range(10)]
    assert [row["reward"] for row in rows[:3]] == [0.0, 0.1, None]
    assert orjson.loads(rows[1]["rewards"]) == {"double": 0.2, "reward": 0.1}
    [failed] = rows[2]["attempts"]
    assert (failed["status"], failed["error"], failed["ended_at"]) == ("failed", "ValueError: 2", 102.0)
    assert (rows[9]["status"], rows[9]["attempts"]) == ("queued", [])
    assert "key" not in failed


def test_transitions_are_what_the_learner_sees(database: Database, tmp_path: Path) -> None:
    rows = _rows(_source(database, mode="train"), "transitions", tmp_path / "x.parquet")
    assert [row["rollout_id"] for row in rows] == ["r0", "r2", "r4", "r6", "r8"]
    assert (rows[2]["prompt_ids"], rows[2]["response_ids"], rows[2]["logprobs"]) == (
        [1, 2, 4],
        [7, 8],
        [-0.25, -0.5],
    )
    assert [row["return"] for row in rows] == [0.0, None, 0.4, 0.6, None]
    assert rows[0]["signals"]["truncated"] == 1 and all(row["trained"] for row in rows)


def test_spans_keep_their_attributes(database: Database, tmp_path: Path) -> None:
    rows = _rows(_source(database, batch="eval"), "spans", tmp_path / "x.jsonl")
    assert {row["rollout_id"] for row in rows} == {"r1", "r3", "r5", "r7"}
    assert orjson.loads(rows[0]["attributes"])[semconv.PROMPT_IDS] == [1, 2, 1]


def test_the_rows_of_a_run_that_goes_wrong_late_have_the_schema_of_those_before(
    database: Database, tmp_path: Path
) -> None:
    """A reader of JSON lines guesses it from the first megabytes, in which nothing may have failed."""
    rows = _rows(_source(database), "rollouts", tmp_path / "x.jsonl")
    well, badly = (pa.Table.from_pylist([rows[number]]).schema for number in (1, 5))
    assert well.field("attempts") == badly.field("attempts")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("what", KINDS)
def test_hugging_face_datasets_reads_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, format: str
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets  # only now, for it reads the variable when it is imported

    file = tmp_path / f"x.{format}"
    rows = _rows(_source(database), what, file)
    name = "json" if format == "jsonl" else format
    read = datasets.load_dataset(name, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.to_list() == rows


def test_an_empty_run_gives_a_table_without_rows(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    assert _rows(_source(database), "transitions", tmp_path / "x.parquet") == []
    assert "prompt_ids" in pq.read_schema(tmp_path / "x.parquet").names
    database.close()


def test_it_works_while_the_run_writes(database: Database, tmp_path: Path) -> None:
    """Another connection adds rollouts all the while; what was there before is all there, once."""
    wrote, stop = threading.Event(), threading.Event()

    def write() -> None:
        for number in range(10, 2000, 10):
            if stop.is_set():
                return
            record(database, number, number + 9)
            wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    reader = Records(sqlite_url(tmp_path / "store.sqlite"))
    try:
        assert wrote.wait(60)
        for _ in range(3):
            ids = [row["rollout_id"] for row in _rows(_source(reader), "rollouts", tmp_path / "x.jsonl")]
            assert len(ids) == len(set(ids)) > 10 and set(ids) >= {f"r{number}" for number in range(10)}
    finally:
        stop.set()
        writer.join()
        reader.close()


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_run(tmp_path: Path, format: str) -> None:
    """40 MB of spans pass through a few of them at a time."""
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest("r", "b", "g", Task("t", {}))])
        database.claim(connection, [Ask("w", "c", 1)], 0.0, 9.0, 9.0)
        long = {semconv.INPUT_MESSAGES: [{"role": "user", "content": "x" * 2**17}]}
        spans = [Span(f"s{i}", "r", 1, SpanKind.CALL, "chat", 0.0, 1.0, long) for i in range(320)]
        database.append(connection, [spans])
    tracemalloc.start()
    try:
        assert export(_source(database), "spans", format, tmp_path / "x") == 320
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
        database.close()


def test_what_fails_midway_leaves_the_file_that_was_there(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "x.jsonl"
    file.parent.mkdir()
    before = _rows(_source(database), "rollouts", file)

    def broken(*_: object) -> Any:
        raise RuntimeError("the database is gone")

    monkeypatch.setattr(tables, "rollout_row", broken)
    with pytest.raises(RuntimeError, match="the database is gone"):
        export(_source(database), "rollouts", "jsonl", file)
    assert [orjson.loads(line) for line in file.read_bytes().splitlines()] == before
    assert [path.name for path in file.parent.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize(
    ("what", "format", "output", "message"),
    [
        ("calls", "jsonl", "x", "--what: 'calls': one of rollouts, spans, transitions"),
        ("spans", "csv", "x", "--format: 'csv': one of jsonl, parquet"),
        ("spans", None, "x", "x': its suffix names no format: end it with .jsonl or .parquet, or add --for"),
        ("spans", None, "x.csv", "x.csv': its suffix names no format: end it with .jsonl or .parquet"),
        (
            "spans",
            "jsonl",
            "x.parquet",
            "--format: 'jsonl': contradicts .*x.parquet: .* with .jsonl",
        ),
        ("spans", "parquet", "x.jsonl", "--format: 'parquet': contradicts .*x.jsonl: .* with .parquet"),
        ("spans", "jsonl", "no/x", "there is no folder"),
        ("spans", "jsonl", ".", "is a folder; name a file"),
    ],
)
def test_mistakes_are_told(
    database: Database, tmp_path: Path, what: str, format: str | None, output: str, message: str
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        export(_source(database), what, format, tmp_path / output)
    assert set(tmp_path.rglob("*")) == before
