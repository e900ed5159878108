"""The reward of an attempt, from the one source that its recipe names or leaves: never a default.

A judge of the whole group, where one is named and the rollout is trained on: it comes later (``judging``). An
evaluator, where one is named. Else what the agent returned or posted, as ``agent.reward`` says; where
it says nothing, what the agent returned, and what it posted if it returned no reward but its answer. Rewards
posted on the way stay what they are; what is returned or evaluated comes on top, as the terminal one.
"""

from __future__ import annotations

import reprlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import storable
from al_ray.actors.runner.user_code import UserCode
from al_ray.errors import RewardError
from al_ray.recipe import AgentSection, dotted
from al_ray.traces.reward_span import LARGEST, reward_attributes
from al_ray.types import Attempt, Span, SpanKind


class Scoring:
    """Makes ready what the recipe names; raises ``RecipeError``."""

    def __init__(
        self, agent: AgentSection, rewarded: Callable[[str, int], Awaitable[bool]], user_code: UserCode
    ) -> None:
        """``rewarded`` says of an attempt whether it has been given a reward."""
        self._user_code = user_code
        self._agent = agent
        self._rewarded = rewarded
        self._evaluate = dotted.load(agent.evaluate, "agent.evaluate") if agent.evaluate else None

    async def terminal(self, job: Job, output: Any) -> list[Span]:
        """The terminal reward; none where those that the agent posted stand alone, or a judge is to come."""
        if self._agent.judge is not None and job.request.mode == "train":
            return []
        if self._evaluate is not None:
            result = await self._user_code.called(self._evaluate, job.printed, job.task, output)
            return [reward_span(job.attempt, result, self._source)]
        if self._agent.reward == "events" or (self._agent.reward is None and not _holds_reward(output)):
            if not await self._rewarded(job.attempt.rollout_id, job.attempt.number):
                raise RewardError(self._nothing_found(output))
            return []
        return [reward_span(job.attempt, output, self._source)]

    def _nothing_found(self, output: Any) -> str:
        if self._agent.reward == "events":
            return "the agent posted no reward, and agent.reward is events"
        if self._agent.command is None:
            returned = "no reward" if output is None else f"{reprlib.repr(output)}, which is no reward,"
            cure = "return a finite number, or one by the name 'reward', or post one, or name agent.evaluate"
            return f"{self._source} returned {returned} and posted none; {cure}"
        return (
            'no reward: standard output does not end with a line such as {"reward": 1.0}, and none was posted'
        )

    @property
    def _source(self) -> str:
        return self._agent.evaluate or self._agent.run or "the command"


def _holds_reward(output: Any) -> bool:
    """A text is an answer, and so is a mapping without ``reward``."""
    if isinstance(output, Mapping):
        return "reward" in output
    return output is not None and not isinstance(output, str)


def reward_span(attempt: Attempt, result: Any, source: str) -> Span:
    """The terminal reward of the attempt, from what ``source`` gave. Raises ``RewardError`` if it is none."""
    now = time.time()
    return Span(
        id=uuid.uuid4().hex,
        rollout_id=attempt.rollout_id,
        attempt=attempt.number,
        kind=SpanKind.REWARD,
        name="reward",
        start=now,
        end=now,
        attributes=reward_attributes(_checked(result, source)),
    )


def _checked(result: Any, source: str) -> dict[str, float]:
    """The rewards by name, ``reward`` among them."""
    given = result if isinstance(result, Mapping) else {"reward": result}
    if "reward" not in given:
        shown = reprlib.repr(result)
        raise RewardError(f"{source} returned {shown} without a 'reward'; give a finite number by that name")
    rewards = {}
    for name in ("reward", *given):
        value = _finite(given.get(name))
        if value is None:
            shown = reprlib.repr(given.get(name))
            raise RewardError(
                f"{source} returned {shown} as {name}; it must be a finite number, of at most {LARGEST:g}"
            )
        rewards[str(name)] = value
    if unstorable := [name for name in rewards if name != storable(name)]:
        raise RewardError(f"{source} returned a reward named {unstorable[0]!r}; name it in plain text")
    return rewards


def _finite(value: Any) -> float | None:
    """A number as numbers are counted here, those of numpy and torch among them; None if it is none, or not
    finite, or beyond what a reward may be."""
    if not isinstance(value, Real | Decimal) and hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError):  # an array of several
            return None
    if not isinstance(value, Real | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # 10**400; a signalling NaN
        return None
    return number if abs(number) <= LARGEST else None
