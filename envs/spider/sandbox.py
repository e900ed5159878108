"""Runs SQL that nobody trusts, in a process that may be lost. ``execution`` starts it and speaks to it.

A request is a line of JSON: ``uri`` of the database, ``query``, ``rows`` (how many at most, or null) and
``cpu_seconds``. The answer is one too: what is wrong, as a text, or ``[columns, rows, complete]`` with
bytes as ``{"hex": ...}``. Where there is none, the process has ended: by SIGPROF, which the kernel sends
when the processor time is used up, whatever SQLite is doing then; with the status ``OUT_OF_MEMORY``; or
by what the query made SQLite do.

Standard library only: it is started without site-packages, in few milliseconds.
"""

import json
import os
import resource
import signal
import sqlite3
import sys
from contextlib import closing
from itertools import islice
from typing import Any, Final

MEMORY: Final = 256 * 2**20
"""Bytes of address space."""
OUT_OF_MEMORY: Final = 3
"""Exit status."""

_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: 2**20,  # bytes of a value, and of a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 2**16,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_ALLOWED: Final = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS: Final = {"load_extension", "fts3_tokenizer"}


def answer(uri: str, query: str, rows: int | None) -> Any:
    """What the query gives, or what is wrong with it."""
    try:
        # Python's own transactions would be refused as writes.
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            _bound(connection)
            cursor = connection.execute(query)
            if cursor.description is None:  # a comment, or what SQLite sees that it need not do
                return "the query asks for nothing"
            found = list(islice(cursor, rows))
            complete = rows is None or cursor.fetchone() is None
            return [[column[0] for column in cursor.description], found, complete]
    # A warning is what Python 3.11 raises of a second statement, a ValueError of what is no UTF-8.
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        denied = str(error).startswith(("not authorized", "authorization denied", "access to"))
        return f"{error}: a query may only read this database" if denied else str(error)


def _bound(connection: sqlite3.Connection) -> None:
    for pragma in ("temp_store=MEMORY", "trusted_schema=OFF", "query_only=ON"):
        connection.execute(f"PRAGMA {pragma}")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(_authorize)
    connection.text_factory = lambda text: text.decode(errors="ignore")


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    forbidden = action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ALLOWED and not forbidden else sqlite3.SQLITE_DENY


def _confine() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])
        try:
            found = answer(request["uri"], request["query"], request["rows"])
            encoded = json.dumps(found, default=lambda blob: {"hex": blob.hex()})
        except MemoryError:  # what is left may not be enough for the next query
            os._exit(OUT_OF_MEMORY)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(encoded, flush=True)


if __name__ == "__main__":
    _confine()
    _serve()
