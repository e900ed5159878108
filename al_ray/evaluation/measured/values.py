"""What is asked for to measure recorded rollouts, and the values that come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from al_ray.evaluation.evaluate import Agents
from al_ray.evaluation.scores import result_of
from al_ray.recipe import Recipe, TransitionsSection
from al_ray.rollouts.outcome import Outcome
from al_ray.rollouts.requests import retry_around_the_agent
from al_ray.traces import call_span
from al_ray.traces.divergence import Divergence, divergence_of
from al_ray.types import Replay, Rollout, RolloutRequest, SpanKind, Trajectory


@dataclass(frozen=True, slots=True)
class Recorded:
    """A rollout that has ended, whose calls are measured."""

    request: RolloutRequest
    attempt: int
    """The deciding one."""
    calls: Sequence[str]
    """The ids of its calls, in the order in which they were answered."""
    episode: Trajectory

    @classmethod
    def of(cls, rollout: Rollout, episode: Trajectory) -> Recorded:
        calls = [call.id for call in call_span.answered(rollout.spans)]
        return cls(rollout.request, rollout.attempts[-1].number, calls, episode)

    @property
    def trained(self) -> Mapping[str, str]:
        """The calls that are trained, with the names of their agents."""
        return {t.of_call: t.agent for t in self.episode.transitions if t.trained}

    @property
    def states(self) -> Sequence[int]:
        """Those that bound a trained call, each by the number of calls before it."""
        numbers = [number for number, call in enumerate(self.calls) if call in self.trained]
        return sorted({state for number in numbers for state in (number, number + 1)})

    def group(self, batch: str, state: int) -> str:
        """Of the rollouts that play on from a state. The beginning of a task is one state for all of its
        rollouts."""
        own = f"{self.request.id}/after-{state}" if state else f"{self.request.group}/begin"
        return f"{batch}/{own}"


@dataclass(frozen=True, slots=True)
class Value:
    """Of a state: the mean return from there; NaN if nothing came to an end that counts."""

    mean: float
    stderr: float
    """Of the mean, by the deviation of the samples: 0 where all are equal, NaN of a single one."""
    samples: int
    """Returns that it is the mean of."""
    failed: int = 0
    """Rollouts that gave none."""
    diverged: int = 0
    """Rollouts whose agent asked otherwise than was recorded, and whose return is no part of it."""


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """One trained call of a recorded rollout."""

    rollout: str
    number: int
    """Among all calls of the rollout, 1 the first, in the order in which they were answered."""
    call: str
    agent: str
    before: Value
    after: Value

    @property
    def advantage(self) -> float:
        """NaN where a value is missing."""
        return self.after.mean - self.before.mean

    @property
    def stderr(self) -> float:
        return math.hypot(self.after.stderr, self.before.stderr)


@dataclass(frozen=True, slots=True)
class Diverged:
    """One that did."""

    rollout: str
    recorded: str
    told: Divergence


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found."""

    primary: str
    """The reward whose return is meant, without intermediate rewards."""
    samples: int
    """Rollouts that were asked for of each state."""
    recorded: Sequence[Recorded]
    calls: Sequence[MeasuredCall]
    diverged: Sequence[Diverged]
    failed: Sequence[tuple[str, Outcome]]
    """Of the others without a return: why, and how they ended."""
    rollouts: int
    """That were asked for."""


@dataclass(frozen=True, slots=True)
class _Sample:
    group: str
    value: float | None = None
    failure: str | None = None
    diverged: Diverged | None = None
    outcome: Outcome | None = None


async def measure(
    recipe: Recipe,
    agents: Agents,
    recorded: Sequence[Recorded],
    batch: str,
    samples: int,
    progress: Callable[[int, int], None],
) -> Measurement:
    """Play on ``samples`` times from each state of the recorded rollouts. What is asked for is a function of
    ``batch`` and of them: to ask again is to ask once."""
    requests = replays(recipe, recorded, batch, samples)
    found: list[_Sample] = []
    async for ended in agents.rollouts(requests):
        settings = recipe.transitions
        found += [
            _sample(rollout, settings, recipe.model.name) for group in ended for rollout in group.rollouts
        ]
        progress(len(found), len(requests))
    by_group: dict[str, list[_Sample]] = {}
    for sample in found:
        by_group.setdefault(sample.group, []).append(sample)
    values = {group: _value(given) for group, given in by_group.items()}
    calls = [call for each in recorded for call in _measured(each, values, batch, recipe.transitions.reward)]
    return Measurement(
        primary=recipe.transitions.reward,
        samples=samples,
        recorded=recorded,
        calls=calls,
        diverged=[sample.diverged for sample in found if sample.diverged is not None],
        failed=[(each.failure, each.outcome) for each in found if each.failure and each.outcome is not None],
        rollouts=len(requests),
    )


def replays(recipe: Recipe, recorded: Sequence[Recorded], batch: str, samples: int) -> list[RolloutRequest]:
    """A group of each state but the last of a rollout, whose value is the return that was recorded."""
    wanted: dict[str, RolloutRequest] = {}
    for each in recorded:
        for state in each.states:
            if state == len(each.calls):
                continue
            replay = Replay(each.request.id, each.attempt, state) if state else None
            group = each.group(batch, state)
            wanted[group] = RolloutRequest(
                id=group,
                batch=batch,
                group=group,
                task=each.request.task,
                mode=each.request.mode,
                retry=retry_around_the_agent(recipe),
                replay=replay,
            )
    return [
        replace(request, id=f"{group}/{number}")
        for group, request in wanted.items()
        for number in range(samples)
    ]


def _sample(rollout: Rollout, settings: TransitionsSection, model: str) -> _Sample:
    group, replay = rollout.request.group, rollout.request.replay
    divergence = next(filter(None, map(divergence_of, rollout.spans)), None)
    result = result_of(rollout, settings, model)
    value = result.rewards.get(settings.reward)
    if value is None and settings.failed_reward is not None:
        value = result.failed_reward
    if replay is not None and divergence is None and value is not None:
        divergence = _left_early(rollout, replay)
    if replay is not None and divergence is not None:
        return _Sample(group, diverged=Diverged(rollout.id, replay.rollout_id, divergence))
    if value is None:
        return _Sample(group, failure=result.failure or "no reward", outcome=result.outcome)
    return _Sample(group, value)


def _left_early(rollout: Rollout, replay: Replay) -> Divergence | None:
    """An agent that came to its end without all of the calls that it was to repeat."""
    calls = [span for span in rollout.spans if span.kind is SpanKind.CALL]
    repeated = sum(map(call_span.is_replayed, calls))
    if repeated >= replay.calls:
        return None
    return Divergence(repeated + 1, f"the agent ended after {repeated} of the {replay.calls} recorded calls")


def _value(samples: Sequence[_Sample]) -> Value:
    returns = [sample.value for sample in samples if sample.value is not None]
    stderr = stdev(returns) / math.sqrt(len(returns)) if len(returns) > 1 else math.nan
    return Value(
        mean=fmean(returns) if returns else math.nan,
        stderr=stderr,
        samples=len(returns),
        failed=sum(sample.failure is not None for sample in samples),
        diverged=sum(sample.diverged is not None for sample in samples),
    )


def _measured(
    recorded: Recorded, values: Mapping[str, Value], batch: str, primary: str
) -> Sequence[MeasuredCall]:
    known = {
        state: values[recorded.group(batch, state)]
        for state in recorded.states
        if state < len(recorded.calls)
    }
    known[len(recorded.calls)] = Value(recorded.episode.rewards[primary], 0.0, 1)
    return [
        MeasuredCall(
            rollout=recorded.request.id,
            number=number + 1,
            call=call,
            agent=recorded.trained[call],
            before=known[number],
            after=known[number + 1],
        )
        for number, call in enumerate(recorded.calls)
        if call in recorded.trained
    ]
