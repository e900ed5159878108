"""Where the store's databases differ: how SQLite and PostgreSQL are opened, locked and read.

Everything else is one code path. A URL is SQLAlchemy's; ``postgresql://`` means psycopg, and its
query parameter ``schema`` the schema that holds the tables, so that runs share a server.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DatabaseError, OperationalError

from al_ray.database import log
from al_ray.database.schema import SCHEMA_VERSION, meta, metadata
from al_ray.errors import NoStoreError, Problem, StoreError, UserError

_log = logging.getLogger(__name__)
_WRITES: Final = "al_ray_writes"
"""The execution option of transactions that write."""
_BUSY_SECONDS: Final = 30.0
_PRIMARY: Final = 0xFF
"""Of SQLite's error codes: what is above tells more of the same error."""
_OF_THE_DISK: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_PG_DISK_FULL: Final = "53100"
_PG_NO_LOCK: Final = "55P03"
_PG_LOCK_SECONDS: Final = 60.0
_PG_SILENT_SECONDS: Final = 30.0
"""After which PostgreSQL ends whoever has begun a transaction and says no more, its machine being lost, say:
while others still wait for its lock."""
_NOT_BEGUN: Final = "no run has written here; has it begun, or was the store removed?"
_LOCK: Final = sa.select(meta).with_for_update()


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite file at ``path``."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def postgresql_url(url: str, schema: str) -> str:
    """``url`` with its tables in ``schema``."""
    with_schema = sa.make_url(url).update_query_dict({"schema": schema})
    return with_schema.render_as_string(hide_password=False)


def open_engine(url: str) -> sa.Engine:
    """The database at ``url``, its tables made if it is new.

    Raises ``UserError`` if there is none, or if another version of al_ray wrote it, and then leaves
    it as it is.
    """
    where = f"store {sa.make_url(url).render_as_string()}"
    engine = open_sqlite(url) if sa.make_url(url).get_backend_name() == "sqlite" else _postgresql(url)
    try:
        if not _has_tables(engine):
            _make_tables(engine)
        _require_version(engine, where)
    except DatabaseError as error:
        raise UserError(Problem(where, str(error.orig).strip(), "no database can be used there")) from error
    return engine


def open_read_only(url: str) -> sa.Engine:
    """The database at ``url``, of which nothing is changed and nothing held: each connection ends with its
    question, so that a run that ends can close its log.

    Raises ``NoStoreError`` if there is none, and ``UserError`` if another version of al_ray wrote it; so does
    every question to a database that is damaged, or no more there.
    """
    parsed = sa.make_url(url)
    where = f"store {parsed.render_as_string()}"
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and not Path(str(parsed.database)).exists():
        raise NoStoreError(Problem(where, "no such file", _NOT_BEGUN))
    engine = _sqlite_read_only(url) if is_sqlite else _postgresql(url, postgresql_readonly=True)

    @sa.event.listens_for(engine, "handle_error")
    def _on_error(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if isinstance(error, DatabaseError) and not context.is_pre_ping:
            raise UserError(Problem(where, str(error.orig).strip(), "no store can be read there")) from error

    if not _has_tables(engine):
        raise NoStoreError(Problem(where, "no tables", _NOT_BEGUN))
    _require_version(engine, where)
    return engine


def close_log(url: str) -> None:
    """Once nobody writes any more: leave one whole file. Of a server's database there is nothing to do."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        log.close_log(str(parsed.database))


def reading(engine: sa.Engine) -> sa.Engine:
    """``engine`` for transactions of several reads that all see the same moment."""
    if engine.dialect.name == "sqlite":  # its transactions always do
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def writing(engine: sa.Engine) -> sa.Engine:
    """``engine`` for transactions that write, each begun by ``exclusively``."""
    return engine.execution_options(**{_WRITES: True})


@contextmanager
def exclusively(writing: sa.Engine) -> Iterator[Connection]:
    """A transaction that no other one writes beside. It waits for one that does: another process's, or
    the last of one that was killed, which its server may not have ended yet. Raises ``StoreError`` where that
    does not end, or the disk does not take what is written."""
    with _told_why(writing), writing.begin() as connection:
        if connection.dialect.name != "sqlite":  # there, BEGIN IMMEDIATE has waited
            connection.execute(_LOCK)
        yield connection


def insert_new(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows that no unique column knows; leave the others as they are."""
    connection.execute(_dialect(connection).insert(table).on_conflict_do_nothing(), rows)


def insert_new_from(
    connection: Connection, table: sa.Table, columns: sa.Select[Any], rows: list[dict[str, Any]]
) -> int:
    """For each row, as the parameters of ``columns``, insert what that selects, as far as no unique column
    knows it; returns how many rows there are now that were not there before."""
    insert = insert_from(_dialect(connection), table, columns)
    return connection.execute(insert, rows, execution_options={"preserve_rowcount": True}).rowcount


@cache
def insert_from(dialect: Any, table: sa.Table, columns: sa.Select[Any]) -> Any:
    """The statement of ``insert_new_from``. Made once: to build it takes longer than to insert a row."""
    names = [column.name for column in columns.selected_columns]
    return dialect.insert(table).from_select(names, columns).on_conflict_do_nothing()


def insert_or_update(connection: Connection, table: sa.Table, key: str, rows: list[dict[str, Any]]) -> None:
    """Insert the rows; of those whose ``key`` is known, write the other columns anew."""
    insert = _dialect(connection).insert(table)
    values = {column.name: insert.excluded[column.name] for column in table.c if column.name != key}
    connection.execute(insert.on_conflict_do_update(index_elements=[key], set_=values), rows)


def _dialect(connection: Connection) -> Any:
    """Whose ``insert`` knows conflicts."""
    return sqlite if connection.dialect.name == "sqlite" else postgresql


def _has_tables(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return sa.inspect(connection).has_table(meta.name, schema=_schema(connection))


def _require_version(engine: sa.Engine, where: str) -> None:
    with engine.connect() as connection:
        version = connection.scalar(sa.select(meta.c.schema_version))
    if version != SCHEMA_VERSION:
        cure = f"this al_ray reads version {SCHEMA_VERSION}; use the al_ray that wrote it"
        raise UserError(Problem(where, f"schema version {version}", cure))


@contextmanager
def _told_why(engine: sa.Engine) -> Iterator[None]:
    """Other trouble comes as it is."""
    try:
        yield
    except OperationalError as error:
        is_sqlite = engine.dialect.name == "sqlite"
        place = engine.url.render_as_string()
        if is_sqlite:
            place = str(Path(str(engine.url.database)).absolute())
        reason = _of_sqlite(error, place) if is_sqlite else _of_postgresql(error)
        if reason is None:
            raise
        raise StoreError(f"the store {place} cannot be written: {reason}") from error


def _of_sqlite(error: OperationalError, file: str) -> str | None:
    code = getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY
    if code in _OF_THE_DISK:
        return f"{error.orig} ({shutil.disk_usage(Path(file).parent).free / 2**30:.2f} GiB are free there)"
    if code == sqlite3.SQLITE_BUSY:
        return f"another process writes there, and has not ended that in {_BUSY_SECONDS:g} s"
    return None


def _of_postgresql(error: OperationalError) -> str | None:
    code = getattr(error.orig, "sqlstate", None)
    if code == _PG_DISK_FULL:
        return str(error.orig).strip()
    if code == _PG_NO_LOCK:
        return (
            f"another process has locked its table {meta.name!r}, and has not ended that transaction in "
            f"{_PG_LOCK_SECONDS:g} s; the server's pg_stat_activity tells whose it is"
        )
    return None


def _make_tables(engine: sa.Engine) -> None:
    with writing(engine).begin() as connection:
        schema = _schema(connection)
        if schema is not None:
            connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        metadata.create_all(connection)
        if connection.scalar(sa.select(meta.c.schema_version)) is None:  # nobody was faster
            connection.execute(meta.insert().values(schema_version=SCHEMA_VERSION))


def _schema(connection: Connection) -> str | None:
    return connection.get_execution_options().get("schema_translate_map", {}).get(None)


def open_sqlite(url: str | sa.URL, busy_seconds: float = _BUSY_SECONDS) -> sa.Engine:
    """WAL, so that others read while the store writes; transactions begun by SQLAlchemy, not by the
    driver, so that savepoints work (SQLAlchemy's documented recipe for pysqlite).

    A commit is handed to the operating system, which keeps it whoever is killed. It is not waited for until
    the disk has it: after a power failure the file is whole, but its last moments may be missing.
    """
    engine = sa.create_engine(url)
    file = str(engine.url.database)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={busy_seconds * 1000:.0f}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # `log` brings in what is committed

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(_WRITES, False):
            connection.exec_driver_sql("BEGIN")
            return
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if log.is_full(file):  # asked when nobody else can fill it
            connection.exec_driver_sql("ROLLBACK")
            log.bring_in(lambda text: tuple(connection.exec_driver_sql(text).one()), file, busy_seconds)
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _sqlite_read_only(url: str) -> sa.Engine:
    """SQLite reads a log only where it may write its index beside it; in a folder that nobody may write to, a
    run's store has no log, and is read as what never changes."""
    file = Path(str(sa.make_url(url).database)).absolute()
    writable = os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists()
    options = "mode=ro" if writable else "mode=ro&immutable=1"
    address = f"file:{quote(str(file))}?{options}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            address, _BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
        )

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool)

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _postgresql(url: str, **execution_options: Any) -> sa.Engine:
    parsed = sa.make_url(url)
    schema = parsed.query.get("schema")
    plain = parsed.difference_update_query(["schema"]).set(drivername="postgresql+psycopg")
    options = {"schema_translate_map": {None: schema}, **execution_options}
    engine = sa.create_engine(plain, pool_pre_ping=True, execution_options=options)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        limits = {
            "lock_timeout": _PG_LOCK_SECONDS,
            "idle_in_transaction_session_timeout": _PG_SILENT_SECONDS,
        }
        for name, seconds in limits.items():
            connection.execute(f"SET {name} = {seconds * 1000:.0f}")
        connection.commit()

    return engine
