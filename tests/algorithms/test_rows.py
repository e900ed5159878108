"""Rows: what was sampled is what is trained, once, with weights that sum to one."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms.demonstration import demonstration
from al_ray.algorithms.rows import Aggregate, build_rows
from al_ray.types import Row, Task, Trajectory, Transition

AGGREGATES: list[Aggregate] = ["rollout_mean", "call_mean", "token_mean"]
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=4)


@st.composite
def trajectories(draw: st.DrawFn, rollout: str) -> Trajectory:
    """Calls that continue, fork from, repeat or ignore earlier ones; few tokens, so that prefixes
    collide by chance too. Logprobs are distinct and name the sampled token."""
    calls: list[Transition] = []
    count = 0
    for number in range(draw(st.integers(1, 6))):
        earlier = draw(st.sampled_from([None, *calls]))
        inherited = [*earlier.prompt_ids, *earlier.response_ids] if earlier else []
        prompt = inherited + draw(st.lists(st.integers(0, 2), min_size=0 if inherited else 1, max_size=3))
        response = draw(TOKENS)
        logprobs = [-float(count + i) for i in range(len(response))]
        count += len(response)
        held = draw(st.booleans())
        calls.append(Transition(f"{rollout}/{number}", "a", prompt, response, logprobs, 0, constrained=held))
    return Trajectory(rollout, "g", "t", calls, 1.0)


BATCHES = st.integers(1, 3).flatmap(lambda n: st.tuples(*(trajectories(f"r{i}") for i in range(n))))


def advantages_of(batch: tuple[Trajectory, ...]) -> list[list[float]]:
    return [[float(i) for i, _ in enumerate(trajectory.transitions)] for trajectory in batch]


@given(BATCHES)
@settings(max_examples=150, deadline=None)
def test_every_sampled_token_is_trained_once_after_exactly_the_tokens_it_was_sampled_after(
    batch: tuple[Trajectory, ...],
) -> None:
    expected = Counter(
        (
            trajectory.rollout_id,
            (*call.prompt_ids, *call.response_ids[:i]),
            token,
            logprob,
            float(number),
            call.constrained,
        )
        for trajectory in batch
        for number, call in enumerate(trajectory.transitions)
        for i, (token, logprob) in enumerate(zip(call.response_ids, call.logprobs, strict=True))
    )
    trained = Counter(
        (
            row.rollout_id,
            tuple(row.tokens[:i]),
            row.tokens[i],
            row.logprobs[i],
            row.advantages[i],
            row.constrained is not None and row.constrained[i],
        )
        for row in build_rows(batch, advantages_of(batch), "token_mean")
        for i in np.flatnonzero(row.trained)
    )
    assert trained == expected


@given(BATCHES, st.sampled_from(AGGREGATES))
@settings(max_examples=50, deadline=None)
def test_weights_sum_to_one_and_are_even_over_what_the_loss_is_a_mean_of(
    batch: tuple[Trajectory, ...], aggregate: Aggregate
) -> None:
    rows = build_rows(batch, advantages_of(batch), aggregate)
    by_rollout: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for call, weight in zip(row.calls[row.trained].tolist(), row.weights[row.trained], strict=True):
            by_rollout[row.rollout_id][call].append(float(weight))
        assert not row.weights[~row.trained].any()
    rollouts = [[*chain(*calls.values())] for calls in by_rollout.values()]
    units = {
        "token_mean": [[*chain(*rollouts)]],
        "rollout_mean": rollouts,
        "call_mean": [weights for calls in by_rollout.values() for weights in calls.values()],
    }[aggregate]
    assert sum(map(sum, rollouts)) == pytest.approx(1, rel=1e-5)
    for weights in rollouts if aggregate != "token_mean" else ():
        assert sum(weights) == pytest.approx(1 / len(rollouts), rel=1e-5)
    for calls in by_rollout.values() if aggregate == "call_mean" else ():
        assert {round(sum(weights) * len(calls) * len(rollouts), 4) for weights in calls.values()} == {1}
    for weights in units:
        assert len(set(weights)) == 1


@given(BATCHES)
@settings(max_examples=50, deadline=None)
def test_by_a_constant_every_token_weighs_the_same_whatever_the_lengths_are(
    batch: tuple[Trajectory, ...],
) -> None:
    rows = build_rows(batch, advantages_of(batch), "constant", 64)
    weights = np.concatenate([row.weights[row.trained] for row in rows])
    assert weights == pytest.approx(1 / (64 * len(batch)))


@given(BATCHES, st.lists(st.sampled_from("gh"), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_groups_weigh_the_same_whatever_rollouts_they_have_and_rollouts_within_a_group(
    batch: tuple[Trajectory, ...], names: list[str]
) -> None:
    grouped = [replace(each, group=name) for each, name in zip(batch, names, strict=False)]
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for row in build_rows(grouped, advantages_of(batch), "group_mean"):
        by_group[row.group][row.rollout_id] += row.weights.sum()
        assert len(set(row.weights[row.trained])) == 1, "and tokens within a rollout"
    for rollouts in by_group.values():
        assert rollouts.total() == pytest.approx(1 / len(by_group), rel=1e-5)
        assert list(rollouts.values()) == pytest.approx([rollouts.total() / len(rollouts)] * len(rollouts))


@given(BATCHES)
@settings(max_examples=50, deadline=None)
def test_every_trained_token_knows_its_call(batch: tuple[Trajectory, ...]) -> None:
    for row in build_rows(batch, advantages_of(batch), "token_mean"):
        assert ((row.calls >= 0) == row.trained).all()
        assert (row.calls[row.trained] == row.advantages[row.trained]).all(), "which name the call here"


def calls(*pairs: tuple[list[int], list[int]]) -> list[Row]:
    transitions = [Transition(str(i), "a", p, r, [0.0] * len(r), 0) for i, (p, r) in enumerate(pairs)]
    return build_rows([Trajectory("r", "g", "t", transitions, 1.0)], [[1.0] * len(pairs)], "token_mean")


def test_a_conversation_is_one_row() -> None:
    (row,) = calls(([1], [2, 3]), ([1, 2, 3, 4], [5]), ([1, 2, 3, 4, 5], [6]))
    assert row.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert row.trained.tolist() == [False, True, True, False, True, True]


def test_parallel_conversations_grow_side_by_side() -> None:
    rows = calls(([1], [2]), ([9], [8]), ([1, 2, 3], [4]), ([9, 8, 7], [6]))
    assert [row.tokens.tolist() for row in rows] == [[1, 2, 3, 4], [9, 8, 7, 6]]


def test_a_fork_from_the_middle_inherits_context_that_it_does_not_train() -> None:
    rows = calls(([1], [2]), ([1, 2, 3], [4]), ([1, 2, 5], [6]))
    assert rows[1].tokens.tolist() == [1, 2, 5, 6]
    assert rows[1].trained.tolist() == [False, False, False, True]


def test_of_several_branches_that_a_call_continues_the_longest_gets_it() -> None:
    rows = calls(([1], [2]), ([1], [2, 3]), ([1, 2, 3, 4], [5]))
    assert [row.tokens.tolist() for row in rows] == [[1, 2], [1, 2, 3, 4, 5]]


def test_a_response_without_the_prompt_or_logprobs_it_needs_is_refused() -> None:
    broken = Transition("c7", "a", (1,), (2, 3), (0.0,), 0)
    with pytest.raises(ValueError, match="c7"):
        build_rows([Trajectory("r", "g", "t", [broken], 1.0)], [[1.0]], "token_mean")


def test_a_rollout_that_sampled_nothing_takes_no_share_of_the_weight() -> None:
    silent = Trajectory("r0", "g", "t", [Transition("c", "a", (1,), (), (), 0)], 0.0)
    spoke = Trajectory("r1", "g", "t", [Transition("c", "a", (1,), (2,), (0.0,), 0)], 0.0)
    (row,) = build_rows([silent, spoke], [[1.0], [1.0]], "rollout_mean")
    assert row.weights.tolist() == [0, 1]


def test_a_demonstration_trains_every_assistant_message_of_one_conversation() -> None:
    trajectory = demonstration(Task("t1", {}), [([1, 2], [3]), ([1, 2, 3, 4], [5])])
    (row,) = build_rows([trajectory], [[1.0, 1.0]], "token_mean")
    assert (row.rollout_id, row.group) == ("t1/0", "t1")
    assert row.trained.tolist() == [False, False, True, False, True]


@given(BATCHES, st.data())
@settings(max_examples=100, deadline=None)
def test_calls_of_agents_that_are_not_trained_are_context_where_they_stand(
    batch: tuple[Trajectory, ...], data: st.DataObject
) -> None:
    """The tokens of the others are trained after exactly what they were sampled after, as ever."""
    mixed = tuple(
        replace(each, transitions=[replace(t, trained=data.draw(st.booleans())) for t in each.transitions])
        for each in batch
    )
    expected = Counter(
        (each.rollout_id, (*call.prompt_ids, *call.response_ids[:i]), token, logprob)
        for each in mixed
        for call in each.transitions
        if call.trained
        for i, (token, logprob) in enumerate(zip(call.response_ids, call.logprobs, strict=True))
    )
    rows = build_rows(mixed, advantages_of(mixed), "rollout_mean")
    trained = Counter(
        (row.rollout_id, tuple(row.tokens[:i]), row.tokens[i], row.logprobs[i])
        for row in rows
        for i in np.flatnonzero(row.trained)
    )
    assert trained == expected
    for row in rows:
        assert not row.advantages[~row.trained].any() and not row.logprobs[~row.trained].any()
    assert not rows or np.isclose(sum(row.weights.sum() for row in rows), 1.0)
