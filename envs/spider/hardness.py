"""How hard a gold query is by Spider's official rule: ``easy``, ``medium``, ``hard`` or ``extra``.

The rule counts what the first SELECT of a query has (Yu et al., "Spider", EMNLP 2018, and ``eval_hardness``
of https://github.com/taoyds/spider). It is defined on the trees of a parser that knows Spider's queries
only, with oddities: a condition with NOT counts as an aggregation, and an aggregation in HAVING does not.
So it is counted here on the words outside of parentheses, not on the tree of a whole SQL parser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from al_ray.envs.spider.sql_text import Token, tokens

Hardness = Literal["easy", "medium", "hard", "extra"]
LEVELS: tuple[Hardness, ...] = get_args(Hardness)

_CLAUSES = ("select", "from", "where", "group", "having", "order", "limit")
_SET_OPERATORS = ("union", "intersect", "except")
_AGGREGATES = ("max", "min", "count", "sum", "avg")


@dataclass(frozen=True, slots=True)
class _Item:
    """A token outside of parentheses, or a pair of parentheses with all that they hold."""

    first: Token
    inside: Sequence[Token] = ()

    def is_word(self, *words: str) -> bool:
        return self.first.is_word(*words)

    @property
    def is_query(self) -> bool:
        return bool(self.inside) and self.inside[0].is_word("select")


_Clauses = dict[str, list[_Item]]


def hardness(query: str) -> Hardness:
    """The level of a query that runs."""
    clauses, combined = _first_select(query)
    components = _components(clauses)
    nested = _nested_queries(clauses) + combined
    others = _others(clauses)
    if nested == 0:
        if components <= 1 and others == 0:
            return "easy"
        if (components <= 1 and others <= 2) or (components <= 2 and others < 2):
            return "medium"
        if (components <= 2 and others > 2) or (components == 3 and others <= 2):
            return "hard"
    elif nested == 1 and components <= 1 and others == 0:
        return "hard"
    return "extra"


def _first_select(query: str) -> tuple[_Clauses, int]:
    """The clauses of the first SELECT by name, and 1 if a set operator combines it with another."""
    clauses: _Clauses = {}
    clause: list[_Item] = []
    for item in _items([token for token in tokens(query) if token.kind not in ("space", "comment")]):
        if item.is_word(*_SET_OPERATORS):
            return clauses, 1
        if item.is_word(*_CLAUSES):
            clause = clauses[item.first.text.lower()] = []
        else:
            clause.append(item)
    return clauses, 0


def _items(query: Sequence[Token]) -> Iterator[_Item]:
    depth = 0
    opened = 0
    for position, token in enumerate(query):
        if token.text == "(":
            opened = position if depth == 0 else opened
            depth += 1
        elif token.text == ")":
            depth -= 1
            if depth == 0:
                yield _Item(query[opened], query[opened + 1 : position])
        elif depth == 0:
            yield _Item(token)


def _components(clauses: _Clauses) -> int:
    """WHERE, GROUP BY, ORDER BY, LIMIT, each JOIN, OR and LIKE."""
    count = sum(name in clauses for name in ("where", "group", "order", "limit"))
    count += sum(item.is_word("join") for item in clauses.get("from", ()))
    return count + sum(item.is_word("or", "like") for item in _conditions(clauses))


def _nested_queries(clauses: _Clauses) -> int:
    """Those that a condition compares with."""
    return sum(item.is_query for item in _conditions(clauses))


def _others(clauses: _Clauses) -> int:
    """Several aggregations, several columns, several conditions, several columns to group by."""
    select, where, group = (clauses.get(name, []) for name in ("select", "where", "group"))
    aggregates = sum(item.is_word(*_AGGREGATES) for item in [*select, *clauses.get("order", ())])
    negations = sum(item.is_word("not") for item in [*where, *clauses.get("having", ())])
    return sum(
        (
            aggregates + negations > 1,
            _separated(select, ","),
            _separated(where, "and", "or"),
            _separated(group, ","),
        )
    )


def _separated(clause: Sequence[_Item], *separators: str) -> bool:
    """Whether there are several; the AND of a BETWEEN separates nothing."""
    between = False
    for item in clause:
        if item.is_word("between"):
            between = True
        elif item.first.text.lower() in separators:
            if not between:
                return True
            between = False
    return False


def _conditions(clauses: _Clauses) -> Iterator[_Item]:
    """All of WHERE and HAVING, and of FROM what follows each ON."""
    yield from clauses.get("where", ())
    yield from clauses.get("having", ())
    on = False
    for item in clauses.get("from", ()):
        on = item.is_word("on") or (on and not item.is_word("join"))
        if on:
            yield item
