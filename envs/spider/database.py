"""A database of the dataset: what is in it, as tasks and their makers need it. The file is not changed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

BUDGET = 2048
"""Characters of a schema, and of a query's result, that a call of the model shows, unless it is said."""

_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")


class Database:
    """A SQLite file that is trusted, unlike the queries of a model (``execution``)."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def has_rows(self) -> bool:
        """Whether any table has one."""
        return any(self._ask(f"SELECT 1 FROM {_quoted(table)} LIMIT 1") for table in self._tables)

    @cached_property
    def schema(self) -> str:
        """A line for each table: its columns, and where they refer to.

        ``song(id, title, singer_id -> singer.id)``
        """
        return "\n".join(f"{_name(table)}({', '.join(self._columns(table))})" for table in self._tables)

    def schema_within(self, budget: int) -> str:
        """As many tables as fit into so many characters, and how many more there are."""
        if len(self.schema) <= budget:
            return self.schema
        tables = self.schema.split("\n")
        for shown in range(len(tables) - 1, 0, -1):
            text = "\n".join([*tables[:shown], f"... {len(tables) - shown} more tables"])
            if len(text) <= budget:
                return text
        return self.schema[:budget]

    def problem(self, query: str) -> str | None:
        """Why the query cannot be compiled on this database; None if it can."""
        try:
            self._ask(f"EXPLAIN {query}")
        except (sqlite3.Error, sqlite3.Warning) as error:
            return str(error)
        return None

    @cached_property
    def _tables(self) -> list[str]:
        query = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        )
        return [name for (name,) in self._ask(query)]

    def _columns(self, table: str) -> Iterator[str]:
        refers = {}
        for _, _, other, column, key, *_ in self._ask(f"PRAGMA foreign_key_list({_quoted(table)})"):
            refers[column.lower()] = f" -> {_name(other)}" + (f".{_name(key)}" if key else "")
        for _, column, *_ in self._ask(f"PRAGMA table_info({_quoted(table)})"):
            yield _name(column) + refers.get(column.lower(), "")

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        """Kept, as thousands of rows may share a database."""
        uri = f"{self.file.absolute().as_uri()}?mode=ro&immutable=1"
        return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _name(name: str) -> str:
    """As it is written in a query."""
    return name if _PLAIN_NAME.fullmatch(name) else _quoted(name)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
