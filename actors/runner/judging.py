"""The rewards of a whole group, by the judge that the recipe names.

A judge has attempts of its own, with leases, retries and a key, whose calls are recorded: it is a rollout of
mode ``judge``. What it rewards are the deciding attempts of the group's rollouts, which have ended; the store
takes the rewards together with the end of the judge's own attempt, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from al_ray.actors.agent.job import Job
from al_ray.actors.runner.scoring import reward_span
from al_ray.actors.runner.user_code import UserCode
from al_ray.database.judged import judged_batch
from al_ray.errors import RewardError
from al_ray.protocols import Candidate, Judge, JudgedCall
from al_ray.recipe import AgentSection, dotted
from al_ray.traces import messages
from al_ray.traces.nesting import Nesting
from al_ray.traces.reward_span import rewards_of
from al_ray.types import Group, Rollout, RolloutStatus, Span, SpanKind


class Judging:
    """Makes ready what the recipe names; raises ``RecipeError``."""

    def __init__(self, agent: AgentSection, store: Any, user_code: UserCode) -> None:
        self._user_code = user_code
        self._store = store
        self._name = agent.judge or ""
        self._judge: Judge | None = dotted.load(agent.judge, "agent.judge") if agent.judge else None

    async def rewards(self, job: Job) -> list[Span]:
        """One for each rollout of the job's group that succeeded. Raises what the judge raises."""
        assert self._judge is not None, "only a recipe with a judge asks for one"
        request = job.request
        group: Group = await self._store.group.remote(judged_batch(request.batch), request.group)
        succeeded = [each for each in group.rollouts if each.status is RolloutStatus.SUCCEEDED]
        candidates = [_candidate(rollout) for rollout in succeeded]
        given = await self._user_code.called(self._judge, job.printed, job.task, candidates, job.endpoint)
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(succeeded):
            told = f"{len(given)} rewards" if isinstance(given, Sequence) else f"a {type(given).__name__}"
            raise RewardError(
                f"{self._name} returned {told} for {len(succeeded)} candidates; give a reward for each"
            )
        return [
            reward_span(rollout.attempts[-1], reward, self._name)
            for rollout, reward in zip(succeeded, given, strict=True)
        ]


def _candidate(rollout: Rollout) -> Candidate:
    nesting = Nesting(rollout.spans)
    rewards: dict[str, float] = {}
    for span in nesting.spans:
        if span.kind is SpanKind.REWARD:
            for name, value in rewards_of(span).items():
                rewards[name] = rewards.get(name, 0.0) + value
    calls = [
        JudgedCall(nesting.agent(call), messages.sent(call), messages.answers(call)) for call in nesting.calls
    ]
    return Candidate(rollout.id, rollout.attempts[-1].output, calls, rewards)
