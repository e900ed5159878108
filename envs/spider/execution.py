"""Queries of a model on a SQLite file: what they give, as long as they only read and stay within bounds.

A query runs in a process of its own kind (``sandbox``), as it may try anything: it can read one database
and write nothing, and is ended when it uses up its processor time or memory. Processes are started as
they are needed, kept for the next query and end with this one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_ray.envs.spider import sandbox

CPU_SECONDS = 5.0
"""Of one query. Processor time: what else the machine has to do fails no query."""
MAX_CELL = 100
"""Characters of a value that ``show`` shows."""


class QueryError(Exception):
    """The query gives nothing; the message is for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a query gave."""

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    complete: bool = True
    """False: there are more rows."""


def run(database: Path, query: str, rows: int | None = None, cpu_seconds: float = CPU_SECONDS) -> Table:
    """At most so many ``rows`` of what the query gives. Raises ``QueryError``."""
    uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    request = {"uri": uri, "query": query, "rows": rows, "cpu_seconds": cpu_seconds}
    try:
        process = _idle.pop()
    except IndexError:
        process = _Sandbox()
    try:
        found = process.ask(request)
    except BrokenPipeError:  # somebody ended it while it was idle, as the kernel does for want of memory
        process = _Sandbox()
        found = process.ask(request)
    _idle.append(process)
    if isinstance(found, str):
        raise QueryError(found)
    columns, values, complete = found
    return Table(columns, [tuple(row) for row in values], complete)


def show(table: Table, budget: int) -> str:
    """The table in at most ``budget`` characters: a line of names, and a line for each row that fits."""
    if not table.rows:
        return "(no rows)"
    lines = [" | ".join(table.columns), *(" | ".join(map(_cell, row)) for row in table.rows)]
    text = "\n".join(lines)
    if len(text) <= budget and table.complete:
        return text
    more = "\n..."
    return text[: budget - len(more)].rstrip("\n") + more


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}..."


class _Sandbox:
    """One process that answers one query after another."""

    def __init__(self) -> None:
        # In a session of its own, so that Ctrl-C on a terminal ends the run and not the query.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", sandbox.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The answer. Raises ``QueryError`` if the process ended instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise QueryError(_reason(self._process.wait(), request["cpu_seconds"]))
        return json.loads(line, object_hook=lambda value: bytes.fromhex(value["hex"]))


_idle: deque[_Sandbox] = deque()
"""``pop`` and ``append`` are atomic, so that any number of threads may ask at once."""


def _reason(status: int, cpu_seconds: float) -> str:
    """Why a sandbox ended."""
    if status == -signal.SIGPROF:
        return f"the query timed out after {cpu_seconds:g} seconds of processor time"
    if status == sandbox.OUT_OF_MEMORY:
        return f"the query was stopped: it needs more than {sandbox.MEMORY // 2**20} MiB of memory"
    if status < 0:
        return f"the query ended SQLite by {signal.Signals(-status).name}"
    raise RuntimeError(f"the sandbox for queries ended with status {status}")
