"""What is told of a batch of rollouts: pure functions from groups to numbers by the keys of ``names``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields

import numpy as np

from al_ray.data.mixture import SOURCE
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.intermediate import by_signal, is_limited
from al_ray.rollouts.outcome import Outcome
from al_ray.traces import call_span
from al_ray.types import (
    AttemptStatus,
    Group,
    LineageOutcome,
    Rollout,
    RolloutStatus,
    Row,
    Signals,
    SpanKind,
    Trajectory,
)


def rollout_metrics(
    groups: Sequence[Group], trajectories: Sequence[Trajectory], policy_version: int, primary: str
) -> dict[str, float]:
    """The ``primary`` rewards (as given: without intermediate ones) of those that have one, lengths, failures
    by reason, and staleness at training time."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    calls = [call for trajectory in trajectories for call in trajectory.transitions]
    staleness = [policy_version - call.policy_version for call in calls]
    rewards = [each.reward - each.intermediate for each in _rewarded(trajectories, primary)]
    return {
        "reward/mean": _mean(rewards),
        "reward/std": float(np.std(rewards)) if rewards else 0.0,
        "rollout/count": len(rollouts),
        "rollout/failed": sum(rollout.status is not RolloutStatus.SUCCEEDED for rollout in rollouts),
        "rollout/calls": _mean([len(trajectory.transitions) for trajectory in trajectories]),
        "rollout/prompt_tokens": _mean([len(call.prompt_ids) for call in calls]),
        "rollout/response_tokens": _mean(
            [sum(len(call.response_ids) for call in trajectory.transitions) for trajectory in trajectories]
        ),
        "off_policy/staleness_mean": _mean(staleness),
        "off_policy/staleness_max": max(staleness, default=0),
        **{f"rollout/attempts_{status}": count for status, count in _failed_attempts(rollouts).items()},
        **lineage_metrics(rollouts),
    }


def lineage_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How many calls continued an earlier one token for token, and why others opened a branch instead."""
    outcomes = Counter(
        lineage.outcome
        for rollout in rollouts
        for span in rollout.spans
        if span.kind is SpanKind.CALL and (lineage := call_span.lineage(span))
    )
    unbranched = (LineageOutcome.NEW, LineageOutcome.CONTINUED)
    return {
        f"lineage/{'' if outcome in unbranched else 'branch_'}{outcome}": outcomes[outcome]
        for outcome in LineageOutcome
    }


def health_metrics(
    groups: Sequence[Group],
    outcomes: Sequence[Outcome],
    kept: Sequence[Sequence[Trajectory]],
    unequal: Collection[str],
    rows: Sequence[Row],
    trains: Callable[[Row], bool],
) -> dict[str, float]:
    """Shares, and the tokens of which one is: ``kept`` are the groups that can be compared, ``unequal`` the
    ids of those of which something is learnt, ``rows`` what is made of them, each of which has a gradient if
    it ``trains``."""
    learning = {row.rollout_id for row in rows if trains(row)}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sampled = {
        rollout.id: sum(call_span.sampled_tokens(s) for s in rollout.spans if s.kind is SpanKind.CALL)
        for rollout in rollouts
    }
    total = sum(sampled.values())
    wasted = sum(tokens for rollout, tokens in sampled.items() if rollout not in learning)
    lineage = lineage_metrics(rollouts)
    branches = sum(count for key, count in lineage.items() if key.startswith("lineage/branch_"))
    return {
        "rollout/sampled_tokens": total,
        "health/failed": _mean([outcome.error is not None for outcome in outcomes]),
        "health/without_calls": _mean([not outcome.called for outcome in outcomes]),
        "health/equal_groups": _mean([group[0].group not in unequal and are_equal(group) for group in kept]),
        "health/dropped_groups": 1 - len(kept) / len(groups) if groups else 0.0,
        "health/branches": branches / max(branches + lineage["lineage/continued"], 1),
        "health/wasted_tokens": wasted / max(total, 1),
    }


def are_equal(group: Sequence[Trajectory]) -> bool:
    """Whether all its rollouts are worth the same."""
    return len({each.reward for each in group}) == 1


def call_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Signals, the mean over trained calls, and how surprising their tokens were, if there are any."""
    calls = [call for trajectory in trajectories for call in trajectory.transitions if call.trained]
    tokens = sum(len(call.logprobs) for call in calls)
    surprise = math.fsum(-p for call in calls for p in call.logprobs)
    return {
        **({"rollout/surprise": surprise / tokens} if tokens else {}),
        **{
            f"signals/{f.name}": _mean([getattr(call.signals, f.name) for call in calls])
            for f in fields(Signals)
        },
    }


def left_out_metrics(trajectories: Iterable[Trajectory]) -> dict[str, float]:
    """Responses that gave no transition, by reason."""
    left_out = Counter[str]()
    for trajectory in trajectories:
        left_out.update(trajectory.left_out)
    return {f"rollout/left_out_{reason}": count for reason, count in sorted(left_out.items())}


def intermediate_metrics(
    trajectories: Sequence[Trajectory], settings: TransitionsSection
) -> dict[str, float]:
    """Means over rollouts: what each signal was worth, what was added to the reward in the end, and how
    often the limit cut that. None where the table is empty."""
    if not settings.intermediate:
        return {}
    worth = [
        {
            name: math.fsum(by_signal(call, settings.intermediate)[name] for call in trajectory.transitions)
            for name in settings.intermediate
        }
        for trajectory in trajectories
    ]
    return {
        **{f"air/{name}": _mean([each[name] for each in worth]) for name in settings.intermediate},
        "air/reward": _mean([trajectory.intermediate for trajectory in trajectories]),
        "air/limited": _mean([is_limited(each.transitions, settings) for each in trajectories]),
    }


def dimension_metrics(trajectories: Sequence[Trajectory], primary: str) -> dict[str, float]:
    """Of every dimension of the rewards but the primary, the mean over the rollouts that have it."""
    names = {name for trajectory in trajectories for name in trajectory.rewards} - {primary}
    return {
        f"rewards/{name}": _mean([t.rewards[name] for t in trajectories if name in t.rewards])
        for name in sorted(names)
    }


def source_metrics(
    groups: Sequence[Group], trajectories: Sequence[Trajectory], primary: str
) -> dict[str, float]:
    """Of each source of tasks, its rollouts and the mean of the ``primary`` rewards as given, of those that
    have one."""
    source = {r.id: str(r.request.task.data[SOURCE]) for group in groups for r in group.rollouts}
    rewards: dict[str, list[float]] = {}
    for trajectory in _rewarded(trajectories, primary):
        rewards.setdefault(source[trajectory.rollout_id], []).append(
            trajectory.reward - trajectory.intermediate
        )
    return {
        **{f"rollout/source/{name}": count for name, count in sorted(Counter(source.values()).items())},
        **{f"reward/source/{name}": _mean(given) for name, given in sorted(rewards.items())},
    }


def _rewarded(trajectories: Sequence[Trajectory], primary: str) -> Sequence[Trajectory]:
    """Where rewards are only told, not learnt from, there may be rollouts without: they are not worth 0."""
    return [trajectory for trajectory in trajectories if primary in trajectory.rewards]


def policy_metrics(trajectories: Sequence[Trajectory], policies: Collection[str]) -> dict[str, float]:
    """How many calls of a rollout each of several policies answered, and the share of those that answered
    none."""
    calls = Counter(call.policy for trajectory in trajectories for call in trajectory.transitions)
    return {
        **{f"rollout/calls/{name}": calls[name] / max(1, len(trajectories)) for name in policies},
        "health/idle_policies": sum(not calls[name] for name in policies) / len(policies),
    }


def _failed_attempts(rollouts: Sequence[Rollout]) -> Mapping[AttemptStatus, int]:
    """How many attempts ended otherwise than well, by how they ended."""
    statuses = Counter(attempt.status for rollout in rollouts for attempt in rollout.attempts)
    return {
        status: statuses[status]
        for status in AttemptStatus
        if status.ended and status is not AttemptStatus.SUCCEEDED and statuses[status]
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
