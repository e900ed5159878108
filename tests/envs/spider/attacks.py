"""Queries that a model might write and that must do no harm, on the sample database ``harbour``."""

from __future__ import annotations

from dataclasses import dataclass

COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@dataclass(frozen=True)
class Attack:
    """What it tries, in the words of the README's table, and the query."""

    name: str
    query: str
    cpu_seconds: float = 0.25
    """Time enough for what else bounds it, little enough for a test."""


def doubling(levels: int) -> str:
    """Each name stands for twice the one before: expanded before anything runs."""
    names = ["a0 AS (SELECT 1 AS x)"]
    names += [f"a{n} AS (SELECT l.x FROM a{n - 1} AS l, a{n - 1} AS r)" for n in range(1, levels)]
    return f"WITH {', '.join(names)} SELECT count(*) FROM a{levels - 1}"


CROSS_JOIN = ", ".join(f"visit v{n}" for n in range(16))
DOUBLED_TEXT = "WITH RECURSIVE c(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM c) SELECT max(x) FROM c"

ATTACKS = [
    Attack("`DROP TABLE ship`", "DROP TABLE ship"),
    Attack("`DELETE FROM ship RETURNING *`", "DELETE FROM ship RETURNING *"),
    Attack("`UPDATE ship SET name = 'x'`", "UPDATE ship SET name = 'x'"),
    Attack("`CREATE TEMP TABLE t AS SELECT 1`", "CREATE TEMP TABLE t AS SELECT 1"),
    Attack("`BEGIN EXCLUSIVE`", "BEGIN EXCLUSIVE"),
    Attack("`ATTACH 'other.sqlite' AS other`", "ATTACH 'other.sqlite' AS other"),
    Attack("`VACUUM INTO '/tmp/copy.sqlite'`", "VACUUM INTO '/tmp/copy.sqlite'"),
    Attack("`PRAGMA writable_schema = ON`", "PRAGMA writable_schema = ON"),
    Attack("`SELECT * FROM pragma_database_list`", "SELECT * FROM pragma_database_list"),
    Attack("`SELECT load_extension('evil.so')`", "SELECT load_extension('evil.so')"),
    Attack("`SELECT fts3_tokenizer('simple')`", "SELECT fts3_tokenizer('simple')"),
    Attack("`SELECT readfile('/etc/passwd')`", "SELECT readfile('/etc/passwd')"),
    Attack("`DROP TABLE IF EXISTS wharf`, which there is not", "DROP TABLE IF EXISTS wharf"),
    Attack("a comment", "-- nobody knows"),
    Attack("`SELECT 1; SELECT 2`", "SELECT 1; SELECT 2"),
    Attack("a null character", "SELECT 1 \0"),
    Attack("a query of 100,000 characters", f"SELECT {'1 + ' * 25_000} 1"),
    Attack("10,000 nested parentheses", f"SELECT {'(' * 10_000}1{')' * 10_000}"),
    Attack("3,000 columns", f"SELECT {', '.join('1' * 3_000)}"),
    Attack("a compound of 1,000 queries", " UNION ALL ".join(["SELECT 1"] * 1_000)),
    Attack("40 common tables, each of them twice the one before", doubling(40)),
    Attack("endless recursion, counted", f"{COUNT} SELECT count(*) FROM c"),
    Attack("endless recursion, sorted in memory", f"{COUNT} SELECT * FROM c ORDER BY -x", 5),
    Attack("endless recursion that keeps what it saw", f"{COUNT.replace('ALL ', '')} SELECT * FROM c", 5),
    Attack("a cross join of 16 tables", f"SELECT count(*) FROM {CROSS_JOIN}"),
    Attack("one call of `instr` on long texts", "SELECT instr(zeroblob(1000000), zeroblob(500000) || 'x')"),
    Attack("`SELECT zeroblob(2000000000)`", "SELECT zeroblob(2000000000)"),
    Attack("`SELECT randomblob(2000000000)`", "SELECT randomblob(2000000000)"),
    Attack("`SELECT hex(zeroblob(1000000))`", "SELECT hex(zeroblob(1000000))"),
    Attack("a text that doubles for ever", DOUBLED_TEXT),
    Attack("`group_concat` over a cross join", f"SELECT group_concat(v0.month) FROM {CROSS_JOIN}"),
    Attack("a million rows of a megabyte", f"{COUNT} SELECT zeroblob(1000000) FROM c LIMIT 1000000", 5),
]
