"""Soft over-long punishment against DAPO's equation 13."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.shaping.overlong import Overlong
from tests.algorithms.forests import call, of


@given(st.integers(1, 40), st.integers(10, 30), st.integers(1, 10), st.booleans())
def test_a_response_costs_the_more_the_nearer_it_is_to_being_cut_off_and_1_where_it_is(
    tokens: int, limit: int, margin: int, cut: bool
) -> None:
    """However few tokens a full context left it."""
    ids = tuple(range(tokens))
    long = replace(call("0", 0.5), response_ids=ids, logprobs=(-1.0,) * tokens)
    long = replace(long, finish_reason="length" if cut else "stop")
    untrained = replace(long, id="1", trained=False)
    before = of([long, untrained], more=2.0)
    after = Overlong(limit, margin)(before)
    cost = 0.0 if tokens <= limit - margin else 1.0 if tokens > limit else (tokens - limit + margin) / margin
    cost = 1.0 if cut else cost
    assert [t.reward for t in after.transitions] == pytest.approx([0.5 - cost, 0.5])
    assert after.reward == pytest.approx(before.reward - cost)
