"""One row into SQLite, quickly: a transaction of its own that waits for nobody."""

from __future__ import annotations

import logging
import sqlite3
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from al_ray.database import log
from al_ray.database.backends import insert_from, open_sqlite

_log = logging.getLogger(__name__)
_CHECKPOINT_BYTES: Final = 4 * 2**20
"""After so many of lone rows, the log is brought into the file beside the writing: then there is little to
wait for."""
_ROW_BYTES: Final = 3 * 4096
"""That a row adds to the log beside its own: a page of its table and of each index."""
_TRIES: Final = 20
_RETRY_SECONDS: Final = 0.002
_LOOKS: Final = 64
"""How often the log is looked at while it fills: the question costs a tenth of an insert."""


def lone_insert(engine: sa.Engine, table: sa.Table, columns: sa.Select[Any]) -> LoneInsert | None:
    """None where there can be none."""
    return LoneInsert(engine, table, columns) if engine.dialect.name == "sqlite" else None


class LoneInsert:
    """``backends.insert_new_from`` for one row.

    The driver executes it, since all that SQLAlchemy does for one row takes longer than to insert it. Only
    where the database is a file that this process opens: a server has to be waited for.
    """

    def __init__(self, engine: sa.Engine, table: sa.Table, columns: sa.Select[Any]) -> None:
        insert = insert_from(sqlite, table, columns)
        compiled = insert.compile(dialect=sqlite.dialect(paramstyle="named"))
        self._text = compiled.string
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._engine = open_sqlite(engine.url, busy_seconds=0)
        self._connection: Any = None
        """Made with the first row: most who open a database insert none."""
        self._patient = engine
        self._file = str(engine.url.database)
        self._checkpoints = ThreadPoolExecutor(1, "checkpoint")
        self._checkpoint: Future[None] | None = None
        self._logged = 0
        """Bytes, about, since the last checkpoint was begun."""
        self._looked = 0
        """Of these, when the log was last looked at."""

    def insert(self, row: dict[str, Any]) -> bool:
        """Whether the row was inserted and is durable. If not, nothing has happened: somebody else was
        writing, or there was nothing to insert, or the log is full, or the database is in trouble."""
        if self._logged - self._looked >= log.LOG_BYTES // _LOOKS:
            if log.is_full(self._file):
                return False
            self._looked = self._logged
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            cursor = self._connection.cursor()
            cursor.execute(self._text, self._constants | row)
        except (sqlite3.OperationalError, OperationalError):  # the driver's, or of connecting
            return False
        self._logged += _ROW_BYTES + sum(len(part) for part in row.values() if isinstance(part, str))
        if self._logged > _CHECKPOINT_BYTES and (self._checkpoint is None or self._checkpoint.done()):
            self._logged = self._looked = 0
            self._checkpoint = self._checkpoints.submit(_checkpoint, self._patient, self._engine)
        return cursor.rowcount == 1

    def close(self) -> None:
        self._checkpoints.shutdown()
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()


def _checkpoint(patient: sa.Engine, hasty: sa.Engine) -> None:
    """Bring SQLite's log into its file, as far as nobody reads. To be done in a thread: it waits for the
    disk.

    A log that is half full begins anew, unless somebody reads or writes just now. Its file stays as long as
    it is: to write it over costs less than to cut it off, which is what is done once it is full.
    """
    try:
        with closing(patient.raw_connection()) as connection:
            (pages,) = connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1:2]
            (size,) = connection.cursor().execute("PRAGMA page_size").fetchone()
        if pages * size > log.LOG_BYTES // 2:
            with closing(hasty.raw_connection()) as connection:
                for _ in range(_TRIES):
                    (busy,) = connection.cursor().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[:1]
                    if not busy:
                        return
                    time.sleep(_RETRY_SECONDS)
    except sqlite3.OperationalError:  # whoever writes next meets the same trouble, and tells it
        _log.warning("SQLite's log could not be brought into its file", exc_info=True)
