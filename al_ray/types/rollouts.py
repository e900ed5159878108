"""Rollouts and their attempts, from the wish to the end, and who works on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from al_ray.types.spans import Span
from al_ray.types.tasks import Mode, Task
from al_ray.types.value import JSON, Value

HOOK_FAILED: Final = " failed:\n\n"
"""Stands between the key of a hook, ``agent.after`` say, and what it raised, in the error of an attempt."""


class RolloutStatus(StrEnum):
    """Where a rollout stands. A rollout ends when its last permitted attempt has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (RolloutStatus.SUCCEEDED, RolloutStatus.FAILED, RolloutStatus.CANCELLED)


class AttemptStatus(StrEnum):
    """Where an attempt stands: claimed, at work, or ended for good."""

    PREPARING = "preparing"
    """Claimed; the agent has not started."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNRESPONSIVE = "unresponsive"
    """Its runner died or stopped renewing the lease, or it failed while there was no gateway."""
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (AttemptStatus.PREPARING, AttemptStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class RetryRules(Value):
    """Whether a rollout whose attempt did not succeed is tried again.

    An error is named by ``Attempt.error_names``. Unresponsive attempts are nobody's failure: they are always
    tried again, up to the store's own limit.
    """

    max_attempts: int = 1
    """Unresponsive attempts do not count."""
    statuses: tuple[AttemptStatus, ...] = (AttemptStatus.FAILED, AttemptStatus.TIMED_OUT)
    """An attempt that ends otherwise is the last."""
    errors: tuple[str, ...] | None = None
    """Of failed attempts, only those with these error classes are tried again. None: with any."""
    never_errors: tuple[str, ...] = ()
    """... and none with these."""


@dataclass(frozen=True, slots=True)
class Replay(Value):
    """A recorded rollout that another one repeats up to one of its calls: what the agent is answered until
    then is what was recorded."""

    rollout_id: str
    attempt: int
    calls: int
    """The first so many, in the order in which they were answered; the calls after them are sampled anew."""


@dataclass(frozen=True, slots=True)
class RolloutRequest(Value):
    """A rollout that somebody wants; enqueuing the same ``id`` twice is enqueuing it once."""

    id: str
    batch: str
    """What is waited for together, for example ``step-000003`` or ``eval/step-000000``."""
    group: str
    """The rollouts of one task that are compared with each other share this."""
    task: Task
    mode: Mode = "train"
    retry: RetryRules = RetryRules()
    replay: Replay | None = None
    """What it begins as."""


@dataclass(frozen=True, slots=True)
class Attempt(Value):
    """One try at a rollout. ``key`` is its API key and is worth nothing once it has ended."""

    rollout_id: str
    number: int
    key: str
    status: AttemptStatus = AttemptStatus.PREPARING
    worker: str = ""
    started_at: float = 0.0
    """When it was claimed: seconds since the epoch, by the store's clock."""
    ended_at: float | None = None
    error: str | None = None
    error_class: str | None = None
    """The full name of the exception that ended it, for example ``openai.APIConnectionError``."""
    output: JSON = None
    """What the agent returned, where that is JSON."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """The versions of the resources that the agent was started with, by name."""

    @property
    def error_names(self) -> frozenset[str]:
        """By which it is known what failed it: the class of the error, in full
        (``openai.APIConnectionError``) and its last part; and, where a hook raised it, the hook's key
        (``agent.after``)."""
        if self.error_class is None:
            return frozenset()
        hook, is_of_hook, _ = (self.error or "").partition(HOOK_FAILED)
        return frozenset({self.error_class, self.error_class.rpartition(".")[2], *[hook] * bool(is_of_hook)})


@dataclass(frozen=True, slots=True)
class Claim(Value):
    """What a runner receives: the rollout and the attempt it has just been given."""

    request: RolloutRequest
    attempt: Attempt
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Start(Value):
    """What a runner tells of an attempt whose agent starts, with these versions of resources by name."""

    rollout_id: str
    number: int
    resources: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollout(Value):
    """A rollout as the store knows it, with the spans of its deciding attempt when asked for."""

    request: RolloutRequest
    status: RolloutStatus
    attempts: Sequence[Attempt] = ()
    spans: Sequence[Span] = ()

    @property
    def id(self) -> str:
        return self.request.id


@dataclass(frozen=True, slots=True)
class Group(Value):
    """All rollouts of one task in a batch, every one of them ended."""

    id: str
    batch: str
    rollouts: Sequence[Rollout]


@dataclass(frozen=True, slots=True)
class Resource(Value):
    """What agents run with: a model, a prompt template. A version never changes."""

    name: str
    version: int
    """1 is the first."""
    kind: str
    content: JSON
    created_at: float


class WorkerStatus(StrEnum):
    """What a worker does, as far as it was heard of."""

    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Worker(Value):
    """A process that works for the run."""

    name: str
    kind: str
    """``runner``, say."""
    status: WorkerStatus
    seen_at: float
    """When it was last heard of: seconds since the epoch, by the store's clock."""
