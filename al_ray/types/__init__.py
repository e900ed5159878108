"""The words of al_ray: frozen values that cross a boundary between rooms or processes.

Nothing here computes. A value that is read from the store, sent to an actor or handed to an algorithm is
one of these; ``docs/architecture.md`` tells how one turns into the next. Import them from here.
"""

from al_ray.types.calls import (
    ChatDelta,
    ChatReply,
    ChatRequest,
    Choice,
    CompletionRequest,
    Endpoint,
    Lineage,
    LineageOutcome,
    ModelRequest,
    Sampling,
    TokenLogprob,
    Usage,
    VersionSpan,
)
from al_ray.types.learning import REWARD_PLACES, Row, Signals, Trajectory, Transition, UpdateReport
from al_ray.types.rollouts import (
    HOOK_FAILED,
    Attempt,
    AttemptStatus,
    Claim,
    Group,
    Replay,
    Resource,
    RetryRules,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Start,
    Worker,
    WorkerStatus,
)
from al_ray.types.spans import Span, SpanKind
from al_ray.types.tasks import Mode, Task, TaskSet
from al_ray.types.value import JSON, Value

__all__ = [
    "HOOK_FAILED",
    "JSON",
    "REWARD_PLACES",
    "Attempt",
    "AttemptStatus",
    "ChatDelta",
    "ChatReply",
    "ChatRequest",
    "Choice",
    "Claim",
    "CompletionRequest",
    "Endpoint",
    "Group",
    "Lineage",
    "LineageOutcome",
    "Mode",
    "ModelRequest",
    "Replay",
    "Resource",
    "RetryRules",
    "Rollout",
    "RolloutRequest",
    "RolloutStatus",
    "Row",
    "Sampling",
    "Signals",
    "Span",
    "SpanKind",
    "Start",
    "Task",
    "TaskSet",
    "TokenLogprob",
    "Trajectory",
    "Transition",
    "UpdateReport",
    "Usage",
    "Value",
    "VersionSpan",
    "Worker",
    "WorkerStatus",
]
