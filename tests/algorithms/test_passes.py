"""Mini-batches and epochs: every token as often as there are epochs, and the batch's gradient on average."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.passes import ONCE, Passes
from al_ray.types import Row
from tests.support.models.learner_inputs import rows


def many(groups: int) -> list[Row]:
    return rows(groups=groups, size=2)


def test_once_is_the_batch_itself() -> None:
    batch = many(3)
    assert ONCE(batch) == [batch] and ONCE([]) == [[]]


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
def test_every_epoch_has_every_row_once_in_whole_groups_of_even_number(
    groups: int, epochs: int, mini_batches: int
) -> None:
    batch = many(groups)
    parts = Passes(epochs, mini_batches)(batch)
    count = min(groups, mini_batches)
    assert len(parts) == epochs * count
    for epoch in range(epochs):
        own = parts[epoch * count : (epoch + 1) * count]
        assert Counter(row.rollout_id for part in own for row in part) == Counter(r.rollout_id for r in batch)
        of_part = [{row.group for row in part} for part in own]
        assert sum(map(len, of_part)) == groups and max(map(len, of_part)) - min(map(len, of_part)) <= 1
        assert sum(row.weights.sum() for part in own for row in part) == pytest.approx(count, rel=1e-5)


def test_a_row_is_the_same_object_in_every_epoch_and_its_mini_batch_another() -> None:
    first, second = Passes(2, 3)(many(6))[:3], Passes(2, 3)(many(6))[3:]
    assert [[row.group for row in part] for part in first] != [[row.group for row in part] for part in second]
    parts = Passes(2, 3)(many(6))
    assert {id(row) for part in parts[:3] for row in part} == {id(row) for part in parts[3:] for row in part}


def test_the_mean_gradient_over_mini_batches_is_the_batchs() -> None:
    """Of any quantity that is a weighted sum over tokens."""
    batch = many(5)

    def total(part: list[Row]) -> float:
        return float(sum((row.weights * row.advantages).sum() for row in part))

    assert np.mean([total(part) for part in Passes(1, 3)(batch)]) == pytest.approx(total(batch), rel=1e-5)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4))
def test_each_policy_has_the_mini_batches_that_it_would_have_if_no_other_were_trained(
    of_writer: int, of_critic: int, epochs: int, mini_batches: int
) -> None:
    """In their order; where it has fewer, it has no rows in the last ones."""
    passes = Passes(epochs, mini_batches)
    writer, critic = (
        [replace(row, policy=policy, rollout_id=f"{policy}/{row.rollout_id}") for row in many(groups)]
        for policy, groups in (("writer", of_writer), ("critic", of_critic))
    )
    both = passes([*critic[:1], *writer, *critic[1:]])
    for own in (writer, critic):
        found = [_weighed([row for row in part if row.policy == own[0].policy]) for part in both]
        alone = list(map(_weighed, passes(own)))
        assert found[: len(alone)] == alone and not any(found[len(alone) :])
    assert all(map(bool, both))


def _weighed(part: list[Row]) -> list[tuple[str, list[float]]]:
    return [(row.rollout_id, row.weights.tolist()) for row in part]
