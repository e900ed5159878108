"""SQL as text is cut and tidied without changing what it means."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.envs.spider.execution import QueryError, run
from al_ray.envs.spider.sql_text import on_one_line, tidy, tokens
from tests.envs.spider.conftest import HARBOUR

PIECES = ["'", '"', "`", "[", "]", "--", "/*", "*/", "\n", ";", "a", "1.5", " ", "<=", "'' ", "é"]
WORDS = ["SELECT", "name", "*", ",", "FROM ship", "'a  b'", "\n", "1", "--x\n", "/**/", "count(*)", "AS"]


@given(st.lists(st.sampled_from(PIECES)))
def test_the_tokens_are_the_query(pieces: list[str]) -> None:
    """Nothing is lost, whatever is opened and not closed."""
    query = "".join(pieces)
    assert "".join(token.text for token in tokens(query)) == query


def test_comments_and_line_breaks_go_and_quotes_stay() -> None:
    """A comment to the end of the line would swallow what follows on one line."""
    assert on_one_line("SELECT '--a', 1 -- why\r\nFROM t\t/* x\ny */ WHERE a = 1") == (
        "SELECT '--a', 1   FROM t   WHERE a = 1"
    )
    assert tidy('SELECT name ,  "a  b" \n FROM   t ; ') == 'SELECT name, "a  b" FROM t'


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_a_tidied_query_gives_the_same(pieces: list[str]) -> None:
    """Or fails as before."""
    query = " ".join(pieces)
    assert _given(query) == _given(tidy(query)) == _given(on_one_line(query))


def _given(query: str) -> object:
    try:
        return run(HARBOUR, query).rows
    except QueryError:
        return None
