"""How rollouts ended, as far as the health of a run goes: which failed, by what, and which asked no model.

Pure functions. Outcomes are small: those of an evaluation are kept where its rollouts are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from al_ray.rollouts.agent_error import AgentError, agent_error
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.traces import call_span, semconv
from al_ray.types import Rollout, RolloutStatus


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one rollout, by what its deciding attempt did."""

    rollout: str
    """Its id."""
    error: AgentError | None = None
    """None: it succeeded."""
    called: bool = True
    """The model that is trained or evaluated has answered a call of it."""
    by_model: bool = False
    """It failed by what that model answered."""


@dataclass(frozen=True, slots=True)
class CommonError:
    """The commonest way in which rollouts failed."""

    error: AgentError
    """Of the first."""
    count: int
    rollout: str
    """The first of them."""


def outcome_of(rollout: Rollout, model: str) -> Outcome:
    """``model`` is the name that the recipe gives it; what a hosted one answered beside it does not count."""
    failed = rollout.status is not RolloutStatus.SUCCEEDED
    error = None
    if failed:
        error = agent_error(rollout.attempts[-1]) if rollout.attempts else AgentError(str(rollout.status))
    calls = call_span.answered(rollout.spans)
    called = any(call.attributes.get(semconv.REQUEST_MODEL) == model for call in calls)
    return Outcome(rollout.id, error, called, is_the_models_doing(rollout, model))


def errors(outcomes: Sequence[Outcome]) -> Sequence[CommonError]:
    """The ways in which rollouts failed, the commonest first."""
    failed = [(outcome.rollout, outcome.error) for outcome in outcomes if outcome.error is not None]
    counts = Counter(error.kind for _, error in failed)
    first: dict[tuple[str, str, int], CommonError] = {}
    for rollout, error in failed:
        first.setdefault(error.kind, CommonError(error, counts[error.kind], rollout))
    return sorted(first.values(), key=lambda each: -each.count)
