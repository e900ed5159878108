"""SQLite's log, the file ``-wal`` beside its own: it has a bound, and is gone when a run has ended.

What is committed stands in the log until it is *brought in*. That waits for the disk and for whoever still
reads what was there before, so nobody can say how long it takes; but nobody begins to write while the log is
full, so it is never longer than ``LOG_BYTES`` and what those add who had begun, or who look only now and then
(``lone_insert``, a 64th each). Where somebody reads on and on, it grows by as much for each time that writers
have waited in vain.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

LOG_BYTES: Final = 32 * 2**20
_RETRY_SECONDS: Final = 0.01
_END_SECONDS: Final = 5.0
"""For whoever is being ended to let go of the file."""

_log = logging.getLogger(__name__)

Execute = Callable[[str], tuple[int, ...]]
"""Of a connection outside of a transaction: runs a statement, returns its row."""


_given_up: Final[dict[str, int]] = {}
"""Bytes of the logs that could not be emptied, by their files: each has as much room again before somebody
waits once more, or every writer would wait for the same reader."""


def is_full(database: str) -> bool:
    """Whether the log of the file must be brought in before anybody writes."""
    return _bytes(database) >= _given_up.get(database, 0) + LOG_BYTES


def _bytes(database: str) -> int:
    try:
        return os.stat(f"{database}-wal").st_size
    except FileNotFoundError:
        return 0


def bring_in(execute: Execute, database: str, seconds: float) -> None:
    """Empty the log, waiting for those who read. Where one reads on for longer than ``seconds`` this goes
    without it, for a run is not to stand still for whoever looks at it."""
    deadline = time.monotonic() + seconds
    # Somebody else who brings it in at the same moment makes SQLite give up at once, whatever its patience.
    while is_full(database) and execute("PRAGMA wal_checkpoint(TRUNCATE)")[0]:
        if time.monotonic() > deadline:
            _log.warning("SQLite's log could not be emptied in %g s: somebody reads %s", seconds, database)
            _given_up[database] = _bytes(database)
            return
        time.sleep(_RETRY_SECONDS)
    _given_up.pop(database, None)


def close_log(database: str) -> None:
    """Leave one whole file, once nobody writes any more; where somebody still reads it, the log stays."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        try:
            with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode=DELETE")  # refused while others have it open
                return
        except sqlite3.OperationalError as error:  # in use, or the disk is full
            if time.monotonic() > deadline:
                _log.warning("the log of %s stays beside it: %s", database, error)
                return
            time.sleep(_RETRY_SECONDS)
