"""From the spans of a rollout to what the learner sees: spans -> transitions -> trajectory.

Pure functions of the spans, in whatever order they are listed. ``docs/architecture.md`` tells the
rules in words.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from al_ray.errors import Problem, UnreadableError, UserError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.intermediate import intermediate_rewards
from al_ray.rollouts.rewards import by_dimension
from al_ray.rollouts.signals import signals
from al_ray.traces import call_span, semconv
from al_ray.traces.nesting import Nesting
from al_ray.traces.reward_span import rewards_of
from al_ray.types import (
    REWARD_PLACES,
    Choice,
    Rollout,
    Signals,
    Span,
    SpanKind,
    Trajectory,
    Transition,
)

_DEFAULTS: Final = TransitionsSection()
_NO_ANSWER: Final = Choice(0, {}, "", (), (), ())

_Position = tuple[int, float]
"""Of a response in its rollout: its call's sequence number, its index among the call's choices."""


def trajectory(rollout: Rollout, settings: TransitionsSection = _DEFAULTS) -> Trajectory:
    """The transitions of the rollout's deciding attempt, each with the rewards that it earned; of a rollout
    that failed by the model's doing, ``failed_reward`` in their place. Raises ``UnreadableError`` if its
    spans hold what nobody expected there."""
    try:
        return _trajectory(rollout, settings)
    except Exception as error:  # agents write spans: whatever they hold is the fault of their rollout alone
        raise UnreadableError(rollout.id, f"{type(error).__name__}: {error}") from error


def _trajectory(rollout: Rollout, settings: TransitionsSection) -> Trajectory:
    nesting = Nesting(rollout.spans)
    answers = [(call, list(_answers(call))) for call in nesting.calls]
    transitions = dict(_transitions(nesting, answers, settings))
    given = _given(rollout, nesting, list(transitions), settings)
    own = [
        replace(
            t,
            reward=math.fsum(given.earned.get((call, choice), ())),
            call_reward=math.fsum(given.earned.get((call, math.inf), ())),
        )
        for (call, choice), t in transitions.items()
    ]
    added = intermediate_rewards(own, settings)
    request = rollout.request
    return Trajectory(
        rollout_id=request.id,
        group=request.group,
        task_id=request.task.id,
        transitions=tuple(
            replace(t, reward=_sum([t.reward, more], settings), intermediate=more)
            for t, more in zip(own, added, strict=True)
        ),
        reward=_sum([*given.dimensions.get(settings.reward, ()), *added], settings),
        terminal_reward=math.fsum(given.terminal),
        rewards={name: math.fsum(given.dimensions[name]) for name in sorted(given.dimensions)},
        intermediate=_sum(added, settings),
        left_out=Counter(reason for _, of_call in answers for _, reason in of_call if reason),
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """The rewards of a rollout, one by one."""

    earned: Mapping[_Position, Sequence[float]]
    """By where the transition stands that gets them; at an infinite place, what a call earned by none of its
    several choices in particular."""
    terminal: Sequence[float]
    dimensions: Mapping[str, Sequence[float]]


def _given(
    rollout: Rollout, nesting: Nesting, places: Sequence[_Position], settings: TransitionsSection
) -> _Given:
    """``places`` are those of the rollout's transitions."""
    earned: dict[_Position, list[float]] = {}
    terminal: list[float] = []
    for span in nesting.spans:
        if span.kind is SpanKind.REWARD:
            primary = rewards_of(span).get(settings.reward, 0.0)
            if (place := _place(nesting, span, places)) is not None:
                earned.setdefault(place, []).append(primary)
            if nesting.is_terminal(span):
                terminal.append(primary)
    if settings.failed_reward is not None and is_the_models_doing(rollout):
        worth = [settings.failed_reward]
        at_the_end = {_as_a_call(places, len(places)): worth} if places else {}
        return _Given(at_the_end, worth, {settings.reward: worth})
    return _Given(earned, terminal, by_dimension(nesting.spans))


def _sum(parts: Sequence[float], settings: TransitionsSection) -> float:
    """Without intermediate rewards, to the last digit that was given."""
    return round(math.fsum(parts), REWARD_PLACES) if settings.intermediate else math.fsum(parts)


def require_named(settings: TransitionsSection, trajectories: Sequence[Trajectory]) -> None:
    """Raises ``UserError`` if the settings name a reward or agents of which nothing is seen, or agents that
    frozen policies alone answered."""
    rewards = sorted({name for episode in trajectories for name in episode.rewards})
    transitions = [transition for episode in trajectories for transition in episode.transitions]
    problems = []
    if rewards and settings.reward not in rewards:
        cure = f"no rollout has such a reward; there are: {', '.join(rewards)}"
        problems.append(Problem("transitions.reward", settings.reward, cure))
    if transitions and not any(transition.trained for transition in transitions):
        named = [transition for transition in transitions if _is_named(transition.agent, settings)]
        agents = ", ".join(sorted({repr(transition.agent) for transition in named or transitions}))
        if named:
            frozen = sorted({transition.policy for transition in named})
            cure = f"are frozen, and answered every call of an agent in transitions.train: of {agents}"
            problems.append(Problem("policies", ", ".join(frozen), cure))
        else:
            cure = f"no agent that made a call has such a name; there are: {agents}"
            problems.append(Problem("transitions.train", settings.train, cure))
    if problems:
        raise UserError(*problems)


def _transitions(
    nesting: Nesting,
    answers: Iterable[tuple[Span, Sequence[tuple[Choice, str | None]]]],
    settings: TransitionsSection,
) -> Iterator[tuple[_Position, Transition]]:
    found = signals(nesting)
    for call, given in answers:
        agent = nesting.agent(call)
        trained = _is_named(agent, settings) and not call_span.is_frozen(call)
        prompt_ids = tuple(call_span.prompt_ids(call))
        for choice, reason in given:
            if reason is not None:
                continue
            yield (
                (call.sequence, choice.index),
                Transition(
                    id=f"{call.id}/{choice.index}",
                    call=call.id,
                    agent=agent,
                    prompt_ids=prompt_ids,
                    response_ids=tuple(choice.response_ids),
                    logprobs=tuple(choice.logprobs),
                    policy_version=min(span.version for span in choice.versions),
                    finish_reason=choice.finish_reason,
                    trained=trained,
                    constrained=call_span.is_constrained(call),
                    policy=call_span.policy(call),
                    signals=found.get((call.id, choice.index), Signals()),
                ),
            )


def _is_named(agent: str, settings: TransitionsSection) -> bool:
    return any(fnmatchcase(agent, pattern) for pattern in settings.train)


def _answers(call: Span) -> Iterator[tuple[Choice, str | None]]:
    """Each answer of the call, with the reason why it gives no transition, if any."""
    choices = call_span.choices(call) or [_NO_ANSWER]
    for choice in choices:
        if call_span.is_replayed(call):
            yield choice, "replayed"
        elif choice.finish_reason == semconv.ABORTED:
            yield choice, semconv.ABORTED
        elif not call_span.prompt_ids(call):
            yield choice, "no_token_ids"
        else:
            yield choice, None if choice.response_ids else "empty"


def _place(nesting: Nesting, reward: Span, places: Sequence[_Position]) -> _Position | None:
    """Where the transition stands that gets the reward: that of the choice which earned it, the call's only
    one, or all of them (an infinite place) if only the call is known. If there is no transition there, the
    call before gets it as a whole, for the other choices did nothing for it; and nobody if there is none."""
    earner = nesting.earner(reward)
    if earner is None:
        return None
    call, choice = earner.call.sequence, earner.choice
    if choice is not None:
        own = (call, choice)
        found = bisect_left(places, own)
        if places[found : found + 1] == [own]:
            return own
    count = bisect_right(places, (call, math.inf if choice is None else -math.inf))
    return _as_a_call(places, count) if count else None


def _as_a_call(places: Sequence[_Position], count: int) -> _Position:
    """Where the last of the first ``count`` transitions stands; if its call has several, where all of them
    do."""
    last = places[count - 1]
    alone = count == 1 or places[count - 2][0] != last[0]
    return last if alone else (last[0], math.inf)
