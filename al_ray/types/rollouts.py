"""The words of al_ray: frozen values that cross a boundary between rooms or processes.

Nothing here computes. A value that is read from the store, sent to an actor or handed to an
algorithm is one of these; see ``docs/architecture.md`` for how one turns into the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from al_ray.types.value import Value

Mode = Literal["train", "eval"]
JSON = Any
"""A value that ``json.dumps`` accepts."""


@dataclass(frozen=True, slots=True)
class Task(Value):
    """One input for the agent. ``data`` is JSON and is all that the agent sees of it."""

    id: str
    data: Mapping[str, JSON]
    split: str = "train"


@dataclass(frozen=True, slots=True)
class TaskSet(Value):
    """The tasks of a split, and how many rows gave none."""

    tasks: Sequence[Task]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By reason, in the words that a user is told."""


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
class RetryPolicy(Value):
    """Whether a rollout whose attempt did not succeed is tried again.

    An error class is named in full (``openai.APIConnectionError``) or by its last part. Unresponsive
    attempts are nobody's failure: they are always tried again, up to the store's own limit.
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
class RolloutRequest(Value):
    """A rollout that somebody wants; enqueuing the same ``id`` twice is enqueuing it once."""

    id: str
    batch: str
    """What is waited for together, for example ``rl/step-3`` or ``eval/start``."""
    group: str
    """The rollouts of one task that are compared with each other share this."""
    task: Task
    mode: Mode = "train"
    retry: RetryPolicy = RetryPolicy()


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


class SpanKind(StrEnum):
    """What a span records."""

    CALL = "call"
    REWARD = "reward"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Span(Value):
    """One recorded event of an attempt; ``sequence``, issued by the store, rises with each arrival."""

    id: str
    rollout_id: str
    attempt: int
    kind: SpanKind
    name: str
    start: float
    end: float
    attributes: Mapping[str, JSON]
    sequence: int = -1


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


# --- calls -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint(Value):
    """What an agent is given to reach the model: nothing else is needed."""

    base_url: str
    api_key: str
    model: str
    services: Mapping[str, str] = field(default_factory=dict)
    """The URLs of the recipe's services, by name."""


@dataclass(frozen=True, slots=True)
class Sampling(Value):
    """How tokens are drawn. ``temperature`` 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    """Tokens generated per choice, at most."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True, slots=True)
class ChatRequest(Value):
    """One chat call as the engine takes it; messages and tools in the OpenAI shape."""

    id: str
    messages: Sequence[Mapping[str, JSON]]
    sampling: Sampling
    tools: Sequence[Mapping[str, JSON]] | None = None
    tool_choice: JSON = None
    attempt: str | None = None
    """Whose earlier calls this one may continue. None: nobody's."""
    response_format: JSON = None
    """OpenAI's, for structured output."""
    top_logprobs: int | None = None
    """Alternatives of each token to tell, beside itself. None: the agent asked for no log-probabilities."""


@dataclass(frozen=True, slots=True)
class CompletionRequest(Value):
    """One call with a raw prompt, text or token ids, that no chat template touches."""

    id: str
    prompt: str | Sequence[int]
    sampling: Sampling
    top_logprobs: int | None = None


ModelRequest = ChatRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class VersionSpan(Value):
    """Response tokens ``start:end`` were sampled by policy ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TokenLogprob(Value):
    """What an agent that asks for log-probabilities is told of a token."""

    token: str
    logprob: float
    top: Sequence[tuple[str, float]] = ()
    """The likeliest tokens in its place, with theirs."""


@dataclass(frozen=True, slots=True)
class Choice(Value):
    """One answer: the message the agent sees and the tokens it was made of."""

    index: int
    message: Mapping[str, JSON]
    """An OpenAI assistant message: ``role``, ``content``, and ``tool_calls`` if any."""
    finish_reason: str
    response_ids: Sequence[int]
    """Every sampled token, the end-of-turn token included."""
    logprobs: Sequence[float]
    """Natural log-probability of each response token under the *sampling* distribution."""
    versions: Sequence[VersionSpan]
    stop: str | None = None
    """The stop sequence that ended it, if one did."""
    token_logprobs: Sequence[TokenLogprob] = ()
    """Where the agent asked for them."""


@dataclass(frozen=True, slots=True)
class Usage(Value):
    """Tokens of a call, over all its choices."""

    input_tokens: int
    output_tokens: int


class LineageOutcome(StrEnum):
    """What a call's prompt was made of. All but the first two open a branch in mid-conversation."""

    NEW = "new"
    """A conversation in which the model has said nothing yet."""
    CONTINUED = "continued"
    """The tokens of the earlier call that it extends, as sampled, and the new messages."""
    TEMPLATE = "template"
    """The chat template renders what was there before otherwise now: it strips thinking, moves the system
    prompt, writes a date."""
    RETOKENISED = "retokenised"
    """The model's last turn is not made of whole tokens as the agent was shown it: a stop string cut it, or
    it hid a special token. Its text is tokenised again."""
    REWRITTEN = "rewritten"
    """The agent changed, moved or left out something between, before or in the model's turns."""
    OTHER = "other"
    """Assistant messages that the attempt's calls did not say: examples, or calls that were forgotten."""


@dataclass(frozen=True, slots=True)
class Lineage(Value):
    """How a call's prompt descends from an earlier call of its attempt."""

    outcome: LineageOutcome
    parent: str | None = None
    """The transition whose prompt and response it begins with, token for token."""
    reused_tokens: int = 0
    """Of the prompt: those of the parent."""


@dataclass(frozen=True, slots=True)
class ChatReply(Value):
    """A finished call. One that a hosted model answered has no token ids: it cannot be trained."""

    prompt_ids: Sequence[int]
    choices: Sequence[Choice]
    lineage: Lineage = Lineage(LineageOutcome.NEW)
    hosted_usage: Usage | None = None
    """What a hosted model says of its tokens."""

    @property
    def usage(self) -> Usage:
        if self.hosted_usage is not None:
            return self.hosted_usage
        return Usage(len(self.prompt_ids), sum(len(choice.response_ids) for choice in self.choices))


@dataclass(frozen=True, slots=True)
class ChatDelta(Value):
    """A piece of a streamed answer, as the ``delta`` object of an OpenAI chunk."""

    index: int
    delta: Mapping[str, JSON]
    """Empty while the engine's parsers hold text back."""
    tokens: int = 0
    """How many tokens were sampled for it."""
    token_logprobs: Sequence[TokenLogprob] = ()


# --- what the learner sees ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signals(Value):
    """What can be told of a response without knowing the task: counts, each event in one of them."""

    tool_ok: int = 0
    """Tool calls that were answered without an error, and with something."""
    empty_results: int = 0
    """Tool calls whose answer was that there is nothing: ``(no rows)``, ``[]``."""
    tool_errors: int = 0
    """Tool calls whose answer was an error."""
    exceptions: int = 0
    """Exceptions that the agent recorded after the call, outside of its tools."""
    timeouts: int = 0
    """Tool calls and other operations that ran out of time."""
    malformed_calls: int = 0
    """Tool calls that did not parse, or that name a tool which the model was not offered."""
    repeated_calls: int = 0
    """Tool calls with the name and the arguments of one before it in the same conversation."""
    truncated: int = 0
    """1 if the response ended for want of room."""


@dataclass(frozen=True, slots=True)
class Transition(Value):
    """One model call as the learner sees it: observation, action, reward."""

    id: str
    agent: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    logprobs: Sequence[float]
    """One per response token; empty for demonstrations, which nobody sampled."""
    policy_version: int
    """The oldest version that sampled a token of the response."""
    reward: float = 0.0
    """The rewards that this call earned, intermediate ones among them."""
    finish_reason: str = "stop"
    trained: bool = True
    """False: the call of an agent that is not trained; its tokens are at most others' context."""
    signals: Signals = Signals()


@dataclass(frozen=True, slots=True)
class Trajectory(Value):
    """The ordered transitions of one rollout."""

    rollout_id: str
    group: str
    task_id: str
    transitions: Sequence[Transition]
    reward: float
    """The episode's return: all its rewards, also those that came before any transition, and the
    intermediate ones."""
    terminal_reward: float = 0.0
    """The part of ``reward`` that came after the last call and for no call in particular."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """What was given in each dimension, the intermediate rewards not among it: what is reported."""
    intermediate: float = 0.0
    """The part of ``reward`` that its calls' signals earned."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Responses that gave no transition, by reason."""


@dataclass(frozen=True, slots=True)
class Row(Value):
    """One branch of a rollout's prefix forest as the learner trains on it.

    Arrays have one entry a token (shape ``[T]``) and describe the token itself, not its successor.
    """

    rollout_id: str
    group: str
    tokens: np.ndarray
    """int64."""
    trained: np.ndarray
    """bool: the policy sampled this token, and this row is the one that trains it."""
    logprobs: np.ndarray
    """float32, of the sampling distribution; 0 where not trained."""
    advantages: np.ndarray
    """float32; 0 where not trained."""
    weights: np.ndarray
    """float32: what this token's loss counts. The loss of a batch is the weighted *sum* over its
    tokens, so it does not depend on how rows are packed, accumulated or spread over learners."""


@dataclass(frozen=True, slots=True)
class UpdateReport(Value):
    """What one optimizer step did; plain numbers, ready to be logged."""

    policy_version: int
    metrics: Mapping[str, float] = field(default_factory=dict)
