"""From the spans of a rollout to what the learner sees: spans -> transitions -> trajectory.

Pure functions of the spans, in whatever order they are listed. ``docs/architecture.md`` tells the
rules in words.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from al_ray.errors import Problem, UserError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.intermediate import intermediate_rewards
from al_ray.rollouts.signals import signals
from al_ray.traces import semconv
from al_ray.traces.nesting import Nesting
from al_ray.types import Rollout, Signals, Span, SpanKind, Trajectory, Transition

_DEFAULTS: Final = TransitionsSection()

_Place = tuple[int, float]
"""Of a response in its rollout: its call's sequence number, its index among the call's choices."""


def trajectory(rollout: Rollout, settings: TransitionsSection = _DEFAULTS) -> Trajectory:
    """The transitions of the rollout's deciding attempt, each with the rewards that it earned."""
    nesting = Nesting(rollout.spans)
    transitions = dict(_transitions(nesting, settings))
    places = list(transitions)
    earned: dict[_Place, list[float]] = {}
    terminal: list[float] = []
    dimensions: dict[str, list[float]] = {}
    for span in nesting.spans:
        if span.kind is not SpanKind.REWARD:
            continue
        values = reward_dimensions(span)
        for name, value in values.items():
            dimensions.setdefault(name, []).append(value)
        primary = values.get(settings.reward, 0.0)
        if (place := _place(nesting, span, places)) is not None:
            earned.setdefault(place, []).append(primary)
        if nesting.is_terminal(span):
            terminal.append(primary)
    request = rollout.request
    own = [replace(t, reward=math.fsum(earned.get(place, ()))) for place, t in transitions.items()]
    added = intermediate_rewards(own, settings)
    return Trajectory(
        rollout_id=request.id,
        group=request.group,
        task_id=request.task.id,
        transitions=tuple(replace(t, reward=t.reward + more) for t, more in zip(own, added, strict=True)),
        reward=math.fsum([*dimensions.get(settings.reward, ()), *added]),
        terminal_reward=math.fsum(terminal),
        rewards={name: math.fsum(dimensions[name]) for name in sorted(dimensions)},
        intermediate=math.fsum(added),
        left_out=Counter(reason for call in nesting.calls for _, reason in _responses(call) if reason),
    )


def require_named(settings: TransitionsSection, trajectories: Sequence[Trajectory]) -> None:
    """Raises ``UserError`` if the settings name a reward or agents of which nothing was ever seen."""
    rewards = sorted({name for episode in trajectories for name in episode.rewards})
    transitions = [transition for episode in trajectories for transition in episode.transitions]
    problems = []
    if rewards and settings.reward not in rewards:
        cure = f"no rollout has such a reward; there are: {', '.join(rewards)}"
        problems.append(Problem("transitions.reward", settings.reward, cure))
    if transitions and not any(transition.trained for transition in transitions):
        agents = ", ".join(sorted({repr(transition.agent) for transition in transitions}))
        cure = f"no agent that made a call has such a name; there are: {agents}"
        problems.append(Problem("transitions.train", settings.train, cure))
    if problems:
        raise UserError(*problems)


def rewards(rollout: Rollout) -> Mapping[str, float]:
    """What the deciding attempt was given in each dimension, as far as the spans were read."""
    return trajectory(replace(rollout, spans=[s for s in rollout.spans if s.kind is SpanKind.REWARD])).rewards


def reward_dimensions(span: Span) -> Mapping[str, float]:
    """The rewards of a reward span by name; the one without a name of its own is ``reward``."""
    unnamed = {"reward": span.attributes[semconv.REWARD]} if semconv.REWARD in span.attributes else {}
    named = unnamed | span.attributes.get(semconv.REWARD_DIMENSIONS, {})
    return {name: float(value) for name, value in named.items()}


def _transitions(nesting: Nesting, settings: TransitionsSection) -> Iterator[tuple[_Place, Transition]]:
    told = signals(nesting)
    for call in nesting.calls:
        attributes = call.attributes
        agent = nesting.agent(call)
        trained = any(fnmatchcase(agent, pattern) for pattern in settings.train)
        for index, reason in _responses(call):
            if reason is not None:
                continue
            choice = attributes[semconv.CHOICES][index]
            yield (
                (call.sequence, index),
                Transition(
                    id=f"{call.id}/{index}",
                    agent=agent,
                    prompt_ids=tuple(attributes[semconv.PROMPT_IDS]),
                    response_ids=tuple(choice["ids"]),
                    logprobs=tuple(choice["logprobs"]),
                    policy_version=min(version for version, _, _ in choice["versions"]),
                    finish_reason=attributes[semconv.FINISH_REASONS][index],
                    trained=trained,
                    signals=told.get((call.id, index), Signals()),
                ),
            )


def _responses(call: Span) -> Iterator[tuple[int, str | None]]:
    """The index of each response of the call, with the reason why it gives no transition, if any."""
    choices = call.attributes.get(semconv.CHOICES)
    if not choices:
        yield 0, "no_token_ids"
        return
    for index, choice in enumerate(choices):
        if call.attributes[semconv.FINISH_REASONS][index] == semconv.ABORTED:
            yield index, semconv.ABORTED
        elif not call.attributes.get(semconv.PROMPT_IDS):
            yield index, "no_token_ids"
        else:
            yield index, None if choice["ids"] else "empty"


def _place(nesting: Nesting, reward: Span, places: Sequence[_Place]) -> _Place | None:
    """Where the transition stands that gets the reward: the choice that earned it, or the last of the
    call's choices if only the call is known, so that credit which looks ahead gives it to all of them.
    If there is no transition there, the one before gets it, and none if there is none."""
    earner = nesting.earner(reward)
    if earner is None:
        return None
    choice = math.inf if earner.choice is None else earner.choice
    position = bisect_right(places, (earner.call.sequence, choice))
    return places[position - 1] if position else None
