"""Queries of a model read one database within bounds, whatever they try."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from al_ray.envs.spider import data, execution, sandbox
from al_ray.envs.spider.execution import QueryError, Table, run, show
from tests.envs.spider.attacks import ATTACKS, COUNT, Attack
from tests.envs.spider.conftest import HARBOUR

README = Path(data.__file__).with_name("README.md").read_text(encoding="utf-8")


def outcome(attack: Attack) -> str:
    """As the README tells it: with the limits that count in earnest."""
    try:
        table = run(HARBOUR, attack.query, cpu_seconds=attack.cpu_seconds)
    except QueryError as error:
        return str(error).replace(f"{attack.cpu_seconds:g} seconds", f"{execution.CPU_SECONDS:g} seconds")
    return f"{len(table.rows)} rows"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_ends_in_the_error_that_the_readme_tells(attack: Attack) -> None:
    """A clear message, soon; the file is as it was, and the next query is answered."""
    before = HARBOUR.read_bytes()
    told = outcome(attack)
    assert f"| {attack.name} | {told} |" in README
    assert not told.endswith("rows")
    assert HARBOUR.read_bytes() == before
    assert run(HARBOUR, "SELECT count(*) FROM ship").rows == [(7,)]


def test_the_readme_tells_of_no_other_attack() -> None:
    """Its table has a row for each attack of the list."""
    section = README.split("## Attacks")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(ATTACKS)


def test_a_query_is_stopped_by_its_own_processor_time_alone() -> None:
    """Four bombs at once on few cores take longer by the clock, and each ends; a query beside them runs."""
    with ThreadPoolExecutor(4) as threads:
        bombs = [threads.submit(run, HARBOUR, f"{COUNT} SELECT count(*) FROM c", None, 0.3) for _ in range(4)]
        assert run(HARBOUR, "SELECT 1", cpu_seconds=0.3).rows == [(1,)]
        for bomb in bombs:
            with pytest.raises(QueryError, match=r"timed out after 0\.3 seconds of processor time"):
                bomb.result()


def test_values_arrive_as_sqlite_has_them() -> None:
    """Whole and real numbers, texts in any script, bytes, NULL and infinity."""
    query = "SELECT 1, 1.0, 9223372036854775807, 'é\"\n', x'00ff', NULL, 9e999, 0.1 + 0.2 AS sum"
    table = run(HARBOUR, query)
    assert table.rows == [(1, 1.0, 2**63 - 1, 'é"\n', b"\x00\xff", None, float("inf"), 0.1 + 0.2)]
    assert [type(value) for value in table.rows[0][:2]] == [int, float]
    assert table.columns[-1] == "sum"


def test_text_that_is_no_utf8_loses_the_bytes_that_are_not() -> None:
    """As in the official evaluator."""
    assert run(HARBOUR, "SELECT CAST(x'41ff42' AS TEXT)").rows == [("AB",)]


@pytest.mark.parametrize(
    ("rows", "expected", "complete"), [(None, 7, True), (7, 7, True), (6, 6, False), (0, 0, False)]
)
def test_no_more_rows_are_read_than_asked_for(rows: int | None, expected: int, complete: bool) -> None:
    """And it is told whether there are more."""
    table = run(HARBOUR, "SELECT * FROM ship", rows)
    assert (len(table.rows), table.complete) == (expected, complete)
    assert run(HARBOUR, f"{COUNT} SELECT x FROM c", 3).rows == [(1,), (2,), (3,)]


def test_a_database_on_a_read_only_disk_with_an_odd_name_is_read(tmp_path: Path) -> None:
    """Nothing is written beside it, no lock and no journal."""
    folder = tmp_path / "a ?#%20 folder"
    folder.mkdir()
    file = folder / "ü.sqlite"
    file.write_bytes(HARBOUR.read_bytes())
    folder.chmod(0o500)
    assert run(file, "SELECT count(*) FROM visit").rows == [(8,)]
    assert os.listdir(folder) == ["ü.sqlite"]


def test_a_file_that_is_missing_or_no_database_is_an_error(tmp_path: Path) -> None:
    """Never an empty database."""
    with pytest.raises(QueryError, match="unable to open database file"):
        run(tmp_path / "none.sqlite", "SELECT 1")
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(QueryError, match="file is not a database"):
        run(tmp_path / "text.sqlite", "SELECT * FROM sqlite_master")


def test_the_kernel_refuses_writes_too(tmp_path: Path) -> None:
    """In a confined process no file can grow, whatever SQLite would allow."""
    confine = "import runpy, sys; runpy.run_path(sys.argv[1])['_confine']()"
    code = f"{confine}; open(sys.argv[2], 'wb', 0).write(b'x')"
    command = [sys.executable, "-I", "-S", "-c", code, sandbox.__file__, tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr


def test_a_query_is_answered_after_its_process_was_killed_while_it_was_idle() -> None:
    """As the kernel may do it where memory is short: that is no fault of the query."""
    run(HARBOUR, "SELECT 1")
    for sandbox_process in execution._idle:
        sandbox_process._process.kill()
        sandbox_process._process.wait()
    assert run(HARBOUR, "SELECT 2").rows == [(2,)]


def test_queries_of_many_threads_do_not_mix() -> None:
    """Each gets the answer to its own."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: run(HARBOUR, f"SELECT {n}").rows[0][0], range(200)))
    assert answers == list(range(200))


def test_a_table_is_shown_within_its_budget() -> None:
    """A line of names, a line a row, and dots where something is left out."""
    table = Table(["name", "length"], [("Alma", 84), ("Dagny", None), ("x" * 200, b"123")])
    shown = show(table, 1000).splitlines()
    assert shown[:3] == ["name | length", "Alma | 84", "Dagny | NULL"]
    assert shown[3] == "x" * execution.MAX_CELL + "... | <3 bytes>"
    assert show(table, 40).endswith("\n...") and len(show(table, 40)) <= 40
    whole = Table(["a"], [("x" * execution.MAX_CELL,)])
    assert show(whole, execution.MAX_CELL + 2) == "a\n" + "x" * execution.MAX_CELL
    assert show(whole, execution.MAX_CELL + 1).endswith("x\n...")
    assert show(Table(["a"], [(1,)], complete=False), 100) == "a\n1\n..."
    assert show(Table(["a"], []), 100) == "(no rows)"
