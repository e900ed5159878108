"""Advantages against a computation written out call by call, over whatever agents do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms.advantages import BASELINES, COMPARE, SCALES, Comparison, advantages
from al_ray.algorithms.credit.group_in_group import group_in_group
from al_ray.algorithms.credit.identical import identical
from al_ray.algorithms.credit.layer import Credit, Layer, of_each
from al_ray.algorithms.credit.reward_to_go import reward_to_go
from al_ray.types import Trajectory
from tests.algorithms.forests import BATCHES, GROUPS, call, episode, of

COMPARISONS = [Comparison(*names) for names in product(COMPARE, BASELINES, SCALES)]
AHEAD = of_each(reward_to_go)
WHOLE = of_each(identical)

Group = Sequence[Trajectory]


def made(groups: Sequence[Group], credit: Credit, comparison: Comparison) -> list[list[list[float]]]:
    return advantages(groups, [credit(group) for group in groups], comparison)


def of_group(group: Group, credit: Credit, comparison: Comparison) -> list[list[float]]:
    return made([group], credit, comparison)[0]


def by_hand(group: Group, comparison: Comparison) -> list[list[float]]:
    """Rewards to go, compared as told within one group; slow and plain."""
    returns = {
        (i, j): value
        for i, rollout in enumerate(group)
        for j, (t, value) in enumerate(zip(rollout.transitions, reward_to_go(rollout), strict=True))
        if t.trained
    }

    def key(i: int, j: int) -> tuple[Hashable, ...]:
        transitions = group[i].transitions
        agent = transitions[j].agent
        before = {t.of_call for t in transitions[:j] if t.agent == agent} - {transitions[j].of_call}
        return {"task": (), "agent": (agent,), "turn": (agent, len(before))}[comparison.compare]

    found = [[0.0] * len(rollout.transitions) for rollout in group]
    for (i, j), value in returns.items():
        own, alike = key(i, j), {}
        for length in range(len(own), -1, -1):
            alike = {}
            for (other, k), their in returns.items():
                if key(other, k)[:length] == own[:length]:
                    alike.setdefault(other, []).append(their)
            if len(alike) > 1:
                break
        if len(alike) == 1 and comparison.baseline != "none":
            continue  # who is compared with nobody
        means = {other: statistics.fmean(values) for other, values in alike.items()}
        baselines = {
            "none": dict.fromkeys(alike, 0.0),
            "mean": dict.fromkeys(alike, statistics.fmean(means.values())),
            "leave_one_out": {
                o: statistics.fmean([m for p, m in means.items() if p != o] or [0.0]) for o in alike
            },
        }[comparison.baseline]
        unit = 1.0
        if comparison.scale == "group" and len(alike) > 1:
            squares = [
                statistics.fmean((v - baselines[o]) ** 2 for v in values) for o, values in alike.items()
            ]
            unit = math.sqrt(sum(squares) / (len(alike) - 1)) + 1e-6
        found[i][j] = (value - baselines[i]) / unit
    return found


@given(GROUPS, st.sampled_from([c for c in COMPARISONS if c.scale != "batch"]))
@settings(max_examples=300, deadline=None)
def test_each_call_is_measured_from_its_like_and_in_their_unit(
    group: tuple[Trajectory, ...], comparison: Comparison
) -> None:
    for found, expected in zip(of_group(group, AHEAD, comparison), by_hand(group, comparison), strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(BATCHES, st.sampled_from([c for c in COMPARISONS if c.scale == "batch"]))
@settings(max_examples=100, deadline=None)
def test_in_the_unit_of_the_batch_its_tokens_have_mean_0_and_deviation_1(
    batch: list[tuple[Trajectory, ...]], comparison: Comparison
) -> None:
    plain = made(batch, AHEAD, replace(comparison, scale="none"))
    scaled = made(batch, AHEAD, comparison)

    def of_tokens(values: list[list[list[float]]]) -> list[float]:
        return [
            value
            for group, of_rollouts in zip(batch, values, strict=True)
            for rollout, given in zip(group, of_rollouts, strict=True)
            for t, value in zip(rollout.transitions, given, strict=True)
            if t.trained
            for _ in t.response_ids
        ]

    before, after = of_tokens(plain), of_tokens(scaled)
    deviation = statistics.pstdev(before)
    expected = [(value - statistics.fmean(before)) / (deviation + 1e-6) for value in before]
    assert after == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.integers(1, 5), min_size=2, max_size=8),
    st.sampled_from([c for c in COMPARISONS if c.baseline != "none"]),
)
def test_equal_returns_have_exactly_zero_advantage(
    value: float, calls: list[int], comparison: Comparison
) -> None:
    group = [of([call(str(i)) for i in range(count)], str(n), value) for n, count in enumerate(calls)]
    found = of_group(group, WHOLE, comparison)
    assert [len(given) for given in found] == calls
    assert not any(map(any, found))


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_equal_rollouts_of_unequal_calls_teach_nothing(scale: str) -> None:
    """Their calls earn .9 less one after the other, in both: by turn there is nothing to tell apart."""
    group = [episode(-0.1, 1.0), episode(-0.1, 1.0)]
    assert of_group(group, AHEAD, Comparison("turn", "mean", scale)) == [[0.0, 0.0], [0.0, 0.0]]


def test_calls_of_equal_rollouts_are_divided_by_their_own_deviation() -> None:
    """Not by that of the rollouts' means, which is nothing."""
    group = [episode(-0.1, 1.0), episode(-0.1, 1.0)]
    for of_rollout in of_group(group, AHEAD, Comparison("task", "mean", "group")):
        assert of_rollout == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], rel=1e-4)


@given(st.lists(st.floats(-10, 10, width=16), min_size=2, max_size=16), st.integers(1, 3))
def test_grpo_divides_deviations_of_returns_by_their_sample_deviation(
    returns: list[float], calls: int
) -> None:
    group = [of([call(str(i)) for i in range(calls)], str(n), r) for n, r in enumerate(returns)]
    found = of_group(group, WHOLE, Comparison("task", "mean", "group"))
    deviation = statistics.stdev(returns)
    expected = [(value - statistics.fmean(returns)) / (deviation + 1e-6) for value in returns]
    assert [given[0] for given in found] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert all(len(set(given)) == 1 for given in found)


@given(GROUPS, st.data())
@settings(max_examples=100, deadline=None)
def test_calls_that_are_not_trained_count_for_nobody(
    group: tuple[Trajectory, ...], data: st.DataObject
) -> None:
    """Whatever they earned, and whether they were made at all."""
    comparison = data.draw(st.sampled_from(COMPARISONS))
    without = [replace(each, transitions=[t for t in each.transitions if t.trained]) for each in group]

    def whole(some: Group) -> Sequence[Layer]:
        return [Layer([[each.reward] * len(each.transitions) for each in some])]

    found = of_group(group, whole, comparison)
    kept = [
        [value for t, value in zip(each.transitions, given, strict=True) if t.trained]
        for each, given in zip(group, found, strict=True)
    ]
    others = [
        value
        for each, given in zip(group, found, strict=True)
        for t, value in zip(each.transitions, given, strict=True)
        if not t.trained
    ]
    assert not any(others)
    if comparison.compare != "turn":
        for mine, theirs in zip(kept, of_group(without, whole, comparison), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9)


@given(BATCHES, st.data())
@settings(max_examples=100, deadline=None)
def test_calls_that_credit_leaves_out_have_no_advantage_and_count_for_nobody(
    batch: list[tuple[Trajectory, ...]], data: st.DataObject
) -> None:
    """In whichever unit: the others' advantages are those of a batch whose rollouts never made them."""
    comparison = data.draw(st.sampled_from([c for c in COMPARISONS if c.compare != "turn"]))
    learnt = {
        t.id: data.draw(st.booleans()) for group in batch for rollout in group for t in rollout.transitions
    }
    without = [
        [replace(each, transitions=[t for t in each.transitions if learnt[t.id]]) for each in group]
        for group in batch
    ]

    def some(group: Group) -> Sequence[Layer]:
        returns = [
            [each.reward + t.reward if learnt[t.id] else None for t in each.transitions] for each in group
        ]
        return [Layer(returns)]

    found = made(batch, some, comparison)
    told = [
        list(zip(each.transitions, given, strict=True))
        for group, of_rollouts in zip(batch, found, strict=True)
        for each, given in zip(group, of_rollouts, strict=True)
    ]
    assert not any(value for of_rollout in told for t, value in of_rollout if not learnt[t.id])
    kept = [[value for t, value in of_rollout if learnt[t.id]] for of_rollout in told]
    expected = [given for of_rollouts in made(without, some, comparison) for given in of_rollouts]
    for mine, theirs in zip(kept, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-9)


def test_the_choices_of_one_call_have_one_place() -> None:
    """The second call of the one is compared with the second of the other, not with its second choice."""
    two = of([call("0/0", call="0"), call("0/1", 0.5, call="0"), call("1", 1.0)], "x")
    one = of([call("0", 0.0), call("1", 3.0)], "y")
    found = of_group([two, one], AHEAD, Comparison("turn", "mean", "none"))
    assert found[0][2] == -1.0 and found[1][1] == 1.0


def test_a_call_that_nobody_else_has_made_is_compared_with_all() -> None:
    group = [episode(0.0, 0.0, 6.0), episode(0.0, 0.0)]
    found = of_group(group, AHEAD, Comparison("turn", "mean", "none"))
    assert found == [[3.0, 3.0, 3.0], [-3.0, -3.0]]


def test_a_rollout_counts_once_however_many_calls_it_made() -> None:
    many = of([call(str(i)) for i in range(9)], "x", 1.0)
    found = of_group([many, episode(0.0)], WHOLE, Comparison("task", "mean", "none"))
    assert found == [[0.5] * 9, [-0.5]]


def test_advantages_survive_returns_that_float32_could_not_tell_apart() -> None:
    group = [episode(1e9), episode(1e9 + 1)]
    assert of_group(group, WHOLE, Comparison("task", "mean", "none")) == [[-0.5], [0.5]]


@pytest.mark.parametrize("comparison", [c for c in COMPARISONS if c.baseline != "none" or c.scale == "batch"])
def test_returns_that_differ_by_a_rounding_only_have_exactly_zero_advantage(comparison: Comparison) -> None:
    """An optimizer that divides a gradient by its size would make a step of the rounding."""
    group = [episode(0.1 + 0.2), episode(0.3), episode(0.4 - 0.1)]
    assert len({each.reward for each in group}) == 2
    assert of_group(group, WHOLE, comparison) == [[0.0], [0.0], [0.0]]


@given(GROUPS, st.floats(0.25, 2, width=32), st.sampled_from(["none", "mean"]))
@settings(max_examples=100, deadline=None)
def test_group_in_group_adds_what_calls_did_better_than_those_that_saw_the_same(
    group: tuple[Trajectory, ...], weight: float, baseline: str
) -> None:
    """Than their mean, from whatever episodes are measured."""
    comparison = Comparison("task", baseline, "none")
    found = of_group(group, lambda some: group_in_group(some, 1.0, weight), comparison)
    episodes = of_group(group, WHOLE, comparison)
    ahead = [list(reward_to_go(each)) for each in group]
    for i, each in enumerate(group):
        for j, t in enumerate(each.transitions):
            alike: dict[int, list[float]] = {}
            for k, other in enumerate(group):
                for m, o in enumerate(other.transitions):
                    if o.trained and (o.agent, o.prompt_ids) == (t.agent, t.prompt_ids):
                        alike.setdefault(k, []).append(ahead[k][m])
            expected = episodes[i][j]
            if t.trained and len(alike) > 1:
                mean = statistics.fmean(statistics.fmean(values) for values in alike.values())
                expected += weight * (ahead[i][j] - mean)
            assert found[i][j] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("comparison", [c for c in COMPARISONS if c.scale != "batch"])
def test_a_rollout_without_others_is_measured_from_nothing_or_not_at_all(comparison: Comparison) -> None:
    """Where no other one has a call of its policy, say. Measured from each other, its later calls, to which
    less was still to come, would always seem the worse."""
    group = [episode(1.0, 1.0), of([call("0", trained=False), call("1", trained=False)], "x", 3.0)]
    found = of_group(group, AHEAD, comparison)
    assert found[1] == [0.0, 0.0]
    assert found[0] == ([2.0, 1.0] if comparison.baseline == "none" else [0.0, 0.0])


def test_agents_without_a_name_have_turns_by_the_policy_that_they_ask_for() -> None:
    """As if each had a name: how often the other spoke before does not count."""

    def said(rollout: str, *policies: str) -> Trajectory:
        calls = [call(str(n), n + 1, "", policy=p, trained=p == "writer") for n, p in enumerate(policies)]
        return of(calls, rollout)

    unnamed = [said("x", "writer", "critic", "writer"), said("y", "writer", "writer"), said("z", "critic")]
    named = [
        replace(each, transitions=[replace(t, agent=t.policy) for t in each.transitions]) for each in unnamed
    ]
    comparison = Comparison("turn", "mean", "none")
    assert of_group(unnamed, AHEAD, comparison) == of_group(named, AHEAD, comparison)
    assert of_group(unnamed, AHEAD, comparison) == [[1.5, 0.0, 0.5], [-1.5, -0.5], [0.0]]
