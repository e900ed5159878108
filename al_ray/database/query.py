"""A query: which rollouts, attempts or spans, in which order, and which page of them.

A page begins after the values of the last record before it, so what is written while somebody
turns pages neither repeats nor hides what was there. What cannot be asked is a ``UserError``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Generic, Literal, TypeVar, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Row

from al_ray.database.schema import attempts, rollouts, spans
from al_ray.errors import Problem, UserError
from al_ray.types import JSON, AttemptStatus, RolloutStatus, SpanKind

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "prefix"]
_NO_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
_LIMITS: Final[Mapping[type, int]] = {int: 2**31, float: 2**63}
"""Below which numbers are, by the type of their column."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field of a record must be. None stands for what is not there, such as no error."""

    field: str
    operator: Operator
    value: JSON


@dataclass(frozen=True, slots=True)
class Query:
    """Records of one kind. Their fields are those of ``ROLLOUTS``, ``ATTEMPTS`` and ``SPANS``."""

    where: Sequence[Condition] = ()
    """All of them hold."""
    sort: str | None = None
    """A field; among equals, and where None, the order in which rollouts were asked for."""
    descending: bool = False
    limit: int | None = None
    """Records a page. None: all in one."""
    after: Sequence[JSON] = ()
    """Where the page before ended, as ``Page.next`` has it."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of the records that a query asks for."""

    items: Sequence[Item]
    next: Query | None
    """Asks for those that follow. None: there are no more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record: its fields, and the columns that tell any two of them apart, in order."""

    name: str
    fields: Mapping[str, sa.Column[Any]]
    key: tuple[sa.Column[Any], ...]
    choices: Mapping[str, type[StrEnum]]


_OF_ROLLOUT: Final = {name: rollouts.c[name] for name in ("batch", "group", "task_id", "split", "mode")}
_ATTEMPT_FIELDS: Final = (
    *("rollout_id", "number", "status", "worker", "started_at", "ended_at", "error", "error_class"),
)
ROLLOUTS: Final = Kind(
    "rollout",
    {"id": rollouts.c.id, **_OF_ROLLOUT, "status": rollouts.c.status},
    (rollouts.c.position,),
    {"status": RolloutStatus},
)
ATTEMPTS: Final = Kind(
    "attempt",
    {**{name: attempts.c[name] for name in _ATTEMPT_FIELDS}, **_OF_ROLLOUT},
    (rollouts.c.position, attempts.c.number),
    {"status": AttemptStatus},
)
SPANS: Final = Kind(
    "span",
    {**{column.name: column for column in spans.c if column.name != "attributes"}, **_OF_ROLLOUT},
    (rollouts.c.position, spans.c.attempt, spans.c.sequence),
    {"kind": SpanKind},
)


def paged(kind: Kind, query: Query, columns: sa.Select[Any]) -> sa.Select[Any]:
    """``columns``, narrowed to the page that ``query`` asks for, one more row to know what follows,
    and what ``page`` reads."""
    if query.limit is not None and query.limit < 1:
        raise UserError(Problem("query.limit", query.limit, "at least 1, or None for all"))
    order = _order(kind, query)
    wanted = columns.add_columns(*(column.label(_label(i)) for i, column in enumerate(order)))
    wanted = wanted.where(*(_holds(kind, condition) for condition in query.where))
    if query.after:
        if len(query.after) != len(order):
            raise UserError(Problem("query.after", query.after, "take it from Page.next"))
        last = sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(query.after, order, strict=True)))
        here = sa.tuple_(*order)
        wanted = wanted.where(here < last if query.descending else here > last)
    wanted = wanted.order_by(*(column.desc() if query.descending else column for column in order))
    return wanted if query.limit is None else wanted.limit(query.limit + 1)


def rows_of(query: Query, rows: Sequence[Row[Any]]) -> tuple[Sequence[Row[Any]], Query | None]:
    """The rows of the page out of what ``paged`` selected, and the query for the next page."""
    if query.limit is None or len(rows) <= query.limit:
        return rows, None
    here = rows[: query.limit]
    last = here[-1]._mapping
    labels = [name for name in last if name.startswith(_label(""))]
    return here, replace(query, after=tuple(last[name] for name in labels))


def _label(index: object) -> str:
    return f"order_{index}"


def _order(kind: Kind, query: Query) -> list[sa.ColumnElement[Any]]:
    if query.sort is None:
        return list(kind.key)
    column = _column(kind, query.sort, "query.sort")
    if column.nullable:  # databases disagree on where nothing stands; here it is the least
        least = "" if column.type.python_type is str else float("-inf")
        return [sa.func.coalesce(column, sa.literal(least, column.type)), *kind.key]
    return [column, *kind.key]


def _column(kind: Kind, field: str, where: str) -> sa.Column[Any]:
    try:
        return kind.fields[field]
    except KeyError:
        cure = f"{kind.name}s have the fields {', '.join(sorted(kind.fields))}"
        raise UserError(Problem(where, field, cure)) from None


def _holds(kind: Kind, condition: Condition) -> sa.ColumnElement[bool]:
    column = _column(kind, condition.field, "query.where")
    value = condition.value
    _check(kind, column, condition)
    match condition.operator:
        case "=":
            return column == value
        case "!=":
            return column.is_distinct_from(value)
        case "in":
            return column.in_(value)
        case "prefix":  # not LIKE, which minds the case on one database and not on the other
            return sa.and_(column >= value, column < value + "\U0010ffff")
    return column.op(condition.operator, is_comparison=True)(value)


def _check(kind: Kind, column: sa.Column[Any], condition: Condition) -> None:
    where = f"query.where {condition.field} {condition.operator}"
    if condition.operator not in get_args(Operator):
        cure = f"the operators are {' '.join(get_args(Operator))}"
        raise UserError(Problem("query.where", condition.operator, cure))
    if condition.operator == "in":
        if isinstance(condition.value, str) or not isinstance(condition.value, Sequence):
            raise UserError(Problem(where, condition.value, "a list of values"))
        values = condition.value
    elif condition.value is None and condition.operator in ("=", "!="):
        return
    else:
        values = (condition.value,)
    text = column.type.python_type is str
    if condition.operator == "prefix" and not text:
        raise UserError(Problem(where, condition.value, f"{condition.field} is a number; compare it"))
    choices = kind.choices.get(condition.field)
    for value in values:
        if text != isinstance(value, str) or not isinstance(value, str | int | float):
            raise UserError(Problem(where, value, f"{condition.field} is {'text' if text else 'a number'}"))
        if isinstance(value, str):
            if _NO_TEXT.search(value):
                cure = "text without NUL and halves of surrogate pairs, which no database holds"
                raise UserError(Problem(where, value, cure))
        elif not abs(value) < (limit := _LIMITS[column.type.python_type]):  # nor is NaN
            raise UserError(Problem(where, value, f"a number between {-limit} and {limit}"))
        if choices and condition.operator in ("=", "!=", "in") and value not in tuple(choices):
            raise UserError(Problem(where, value, f"one of {', '.join(choices)}"))
