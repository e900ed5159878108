"""Contracts that user code and the parts fulfil; structural, so nobody imports us to satisfy one.

A recipe names implementations by dotted path, ``package.module:attribute``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from al_ray.types import (
    JSON,
    Attempt,
    Endpoint,
    RolloutRequest,
    Task,
    TaskSet,
    Trajectory,
)


class Agent(Protocol):
    """The user's agent: a callable of the task's data and the endpoint to call.

    Under ``isolation: async`` an async one, under ``thread`` a plain one, under ``process`` either, which
    may then take the task alone. What it returns is handed to the evaluator; without one it is the
    reward: a number, or a mapping of numbers with the key ``reward``; or its answer or None, where it posted
    rewards.
    """

    def __call__(self, task: Mapping[str, JSON], llm: Endpoint, /) -> Any: ...


class Evaluator(Protocol):
    """Turns what the agent returned into the terminal reward of the rollout: a number, or numbers by name
    of which ``reward`` is learnt from and the others are the task's metrics.

    Plain (it then runs in a thread, beside those of other attempts) or async. The output of a command is the
    JSON object on the last line of its standard output, else all of that.
    """

    def __call__(self, task: Mapping[str, JSON], output: Any, /) -> float | Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class JudgedCall:
    """A call of a rollout, as it is told to a judge; messages are in the OpenAI shape."""

    agent: str
    """The name of the agent that made it; empty if it has none."""
    messages: Sequence[Mapping[str, JSON]]
    """What the model was shown."""
    answers: Sequence[Mapping[str, JSON]]
    """What it said: one, or several that were asked for at once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rollout that is to be judged beside the others of its group."""

    rollout_id: str
    output: JSON
    """What the agent returned."""
    calls: Sequence[JudgedCall]
    """In the order in which they were made."""
    rewards: Mapping[str, float]
    """What the agent posted on the way."""


class Judge(Protocol):
    """Rewards the rollouts of a group that succeeded, together: by comparing them, say.

    Plain (it then runs in a thread) or async. Returns a reward for each candidate, in their order: a number,
    or numbers by name, as an ``Evaluator`` does. ``llm`` is an endpoint of its own, at which it may ask the
    recipe's hosted models, and the trained one; its calls are recorded. Raises where it cannot judge: it is
    then asked again as ``agent.retry`` says, and in the end the group is left out.
    """

    def __call__(
        self, task: Mapping[str, JSON], candidates: Sequence[Candidate], llm: Endpoint, /
    ) -> Any: ...


class WritePredictions(Protocol):
    """Writes what the task's official script reads into ``folder``, from the pairs of task data and output
    of an evaluation; returns the file's path."""

    def __call__(self, results: Sequence[tuple[Mapping[str, JSON], Any]], folder: Path, /) -> Path: ...


class Hook(Protocol):
    """Called before or after each attempt, plain or async. What it raises fails the attempt.

    After it, ``attempt`` has the status, the error and the output that are going to be stored; one that
    the store has ended by itself is cancelled, and then only logged is what the hook raises.
    """

    def __call__(self, request: RolloutRequest, attempt: Attempt, /) -> Awaitable[None] | None: ...


class LoadTasks(Protocol):
    """Reads the tasks of one split (``train`` or ``validation``), always in the same order; a ``TaskSet``
    also tells what was left out.

    ``path`` is a directory, a hub dataset name, or None for the sample rows that the environment
    ships; ``options`` come from the recipe. Raises ``DataError`` naming file, row and cure.
    """

    def __call__(self, path: str | None, split: str, /, **options: Any) -> TaskSet | Sequence[Task]: ...


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation worth imitating: every assistant message in it is trained on."""

    messages: Sequence[Mapping[str, JSON]]
    tools: Sequence[Mapping[str, JSON]] | None = None
    agent: str = ""
    """The name of the agent that would have it: of several policies that agent's learns from it. Empty: all
    do."""


class Demonstrate(Protocol):
    """Writes, for one task, the conversation that the agent would have with a perfect model."""

    def __call__(self, task: Mapping[str, JSON], /) -> Demonstration: ...


class Service(Protocol):
    """What agents may ask beside the model: retrieval, say.

    A recipe names a class, which is called with ``data.path`` and the service's options. That costs
    little, for it is done wherever the service is looked at. Agents POST a JSON document to the
    service's URL and get one back; GET of ``URL/health`` says whether it is well.
    """

    def check(self) -> None:
        """Raises ``UserError`` where the service could not be started, before anything is."""

    async def start(self) -> None:
        """In the service's own process, before the first question."""

    async def answer(self, question: JSON, /) -> JSON:
        """Many at once. Raises ``BadRequestError`` for a question that has no answer."""

    async def probe(self) -> None:
        """Raises where the service cannot answer any more: its process is then replaced."""


@runtime_checkable
class Indexed(Protocol):
    """A service that answers from something which is made once, by ``al-ray index``."""

    def build(self, progress: Callable[[str, int, int], None], /) -> str:
        """Make it, unless it is there; says where. ``progress`` is told what is done, how far, and of how
        much."""


class Credit(Protocol):
    """Level 1, episode to call: what each transition of each rollout of a group is worth,
    ``returns[rollout][transition]``; None for one that is not to be learnt from."""

    def __call__(self, group: Sequence[Trajectory], /) -> Sequence[Sequence[float | None]]: ...
