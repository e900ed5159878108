"""SQL as text: what can be said of a query, and done to it, without understanding it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["comment", "quoted", "space", "word", "number", "symbol"]

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<quoted>'(?:''|[^'])*'|"(?:""|[^"])*"|`(?:``|[^`])*`|\[[^\]\[]*\])
      | (?P<space>\s+)
      | (?P<word>[^\W\d]\w*)
      | (?P<number>\d+(?:\.\d*)?|\.\d+)
      | (?P<symbol>[<>!=]=|<>|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords or names (given in lower case), not in quotes."""
        return self.kind == "word" and self.text.lower() in words


def tokens(query: str) -> Iterator[Token]:
    """All of the query: joined, the texts are the query. A quote that is never closed is a symbol."""
    for match in _TOKEN.finditer(query):
        kind: Kind = match.lastgroup  # type: ignore[assignment]  # the names of the groups
        yield Token(kind, match.group())


def first_statement(query: str) -> str:
    """Up to the first semicolon that separates statements, and with it."""
    kept = []
    for token in tokens(query):
        kept.append(token.text)
        if token.text == ";":
            break
    return "".join(kept)


def without_distinct(query: str) -> str:
    """Without the keyword, wherever it stands."""
    return "".join(token.text for token in tokens(query) if not token.is_word("distinct"))


def on_one_line(query: str) -> str:
    """The same query without comments, and with a space for each line break and tab."""
    kept = (" " if token.kind == "comment" else token.text for token in tokens(query))
    return re.sub(r"[\r\n\t\v\f\x1c-\x1e\x85\u2028\u2029]", " ", "".join(kept)).strip()


def tidy(query: str) -> str:
    """The same query in few tokens: one space where there is space, none before a comma."""
    kept = (" " if token.kind in ("space", "comment") else token.text for token in tokens(query))
    text = ""
    for part in kept:
        if part in (" ", ","):
            text = text.rstrip(" ")
        text += part
    return text.rstrip("; ").lstrip()
