"""What pages are made of: charts, tokens, lanes, and rollouts beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from al_ray.types import Trajectory, Transition, VersionSpan
from al_ray.viewing.charts import HEIGHT, WIDTH, Point, Series, chart, series, stacked
from al_ray.viewing.lanes import lanes
from al_ray.viewing.tokens import Texts

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, st.floats(0, allow_infinity=False)), min_size=1, max_size=1000))
@example([(11367258675.0, 6.103515625e-05)])
@example([(1e308, 0.0), (-1e308, 1e308)])
@example([(5e-324, 0.0), (3e-323, 0.0)])
def test_whatever_numbers_are_drawn_lie_in_the_box(numbers: list[tuple[float, float]]) -> None:
    points = [Point(step, y, y - error, y + error) for step, (y, error) in enumerate(numbers)]
    made = chart("t", "", [Series("s", 0, points)])
    assert made is not None
    [[label, drawn]] = json.loads(made.data)
    assert label == "s" and 1 <= len(drawn) <= 400
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for _, _, x, y in drawn)
    assert all(0 <= tick.at <= HEIGHT for tick in made.y_ticks)


def test_the_last_line_of_a_step_counts_and_what_is_no_number_is_left_out() -> None:
    lines = [{"step": 1, "a": 1.0}, {"step": 2, "a": None}, {"step": 1, "a": 3.0, "e": 0.5}, {"step": 3}]
    assert series(lines, "a", "s", 0, error="e").points == [Point(1, 3.0, 2.5, 3.5)]
    assert chart("t", "", [series(lines, "b", "s", 0)]) is None


def test_of_many_dots_the_mean_of_each_few_is_drawn() -> None:
    made = chart("t", "", [Series("s", 0, [Point(n, n, n, n) for n in range(20_000)], dots=True)])
    assert made is not None
    [line] = made.lines
    assert len(line.dots) == 400 and made.data.count("[") < 500


def test_columns_of_many_steps_are_means_and_stand_on_each_other() -> None:
    made = stacked("t", "s", [(step, {"a": 1.0, "b": 2.0}) for step in range(1000)])
    assert made is not None
    lower, upper = made.bars[0], made.bars[1]
    assert len(made.bars) <= 180 and lower.title == "step 0 to 11: a 1 s"
    assert upper.y + upper.height == pytest.approx(lower.y, abs=0.2)
    assert upper.height == pytest.approx(2 * lower.height, abs=0.2)
    assert stacked("t", "s", [(1, {"a": 1.7e308, "b": 1.7e308})]) is not None


@given(text=st.text(max_size=40))
def test_the_texts_of_tokens_are_together_the_text(tiny_model: Path, text: str) -> None:
    """Also where a character is made of several tokens: here each byte is one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    texts = Texts(tokenizer, []).texts(ids)
    assert len(texts) == len(ids) and "".join(texts) == tokenizer.decode(ids, skip_special_tokens=False)


def test_each_token_has_what_was_recorded_of_it(tiny_model: Path) -> None:
    from tokenizers import Tokenizer

    versions = [VersionSpan(4, 0, 1), VersionSpan(5, 1, 2)]
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    first, second = Texts(tokenizer, []).tokens([7, 8], [-0.01, -9.0], versions)
    assert (first.version, first.shade, second.version, second.shade) == (4, 0, 5, 6)


def test_without_a_tokenizer_ids_are_shown_and_it_is_said_why() -> None:
    texts = Texts(None, [Path("/models/x")])
    assert texts.texts([7, 8]) == [" 7", " 8"]
    assert texts.missing == "ids are shown: there is no tokenizer.json in /models/x"


def transition(number: int, prompt: list[int], response: list[int], trained: bool = True) -> Transition:
    logprobs = [math.log(0.5)] * len(response)
    return Transition(str(number), "", prompt, response, logprobs, 0, trained=trained)


def test_lanes_are_the_rows_that_are_trained_and_hang_where_they_begin_alike() -> None:
    calls = [
        transition(0, [1, 2], [3]),
        transition(1, [1, 2, 3, 4], [5, 6]),  # continues it
        transition(2, [1, 2, 9], [7]),  # begins like it
        transition(3, [8], [8], trained=False),
    ]
    first, second = lanes(Trajectory("r", "g", "t", calls, 0.0))
    assert (first.parent, first.tokens, first.trained, first.calls) == (None, 6, 3, [0, 1])
    pieces = [(piece.begin, piece.tokens, piece.call) for piece in first.pieces]
    assert pieces == [(0, 2, None), (2, 1, 0), (3, 1, None), (4, 2, 1)]
    assert (second.parent, second.shared, second.calls) == (0, 2, [2])
    assert [piece.inherited for piece in second.pieces] == [True, False, False]
