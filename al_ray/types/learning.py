"""What the learner sees of rollouts, and what it tells of an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from al_ray.types.value import Value

if TYPE_CHECKING:
    import numpy as np


REWARD_PLACES: Final = 9
"""To which sums that hold intermediate rewards are rounded: those of -0.1 and -0.05 differ in the last digit
by their order, and rollouts that are worth the same must compare as equals. Returns that differ by less are
equal."""


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
    """The rewards that this response earned, intermediate ones among them."""
    call: str = ""
    """The id of its call, which the call's other choices share. Empty: it is the only one."""
    call_reward: float = 0.0
    """What its call earned as a whole, beside what each choice did; the same in all of them."""
    intermediate: float = 0.0
    """The part of ``reward`` that its signals earned."""
    value: float = 0.0
    """What a critic expects to be earned from its call on."""
    finish_reason: str = "stop"
    trained: bool = True
    """False: the call of an agent that is not trained, or of a policy that is frozen; its tokens are at most
    others' context."""
    constrained: bool = False
    """Its tokens were drawn from those that a grammar allowed, and ``logprobs`` are of that distribution."""
    policy: str = ""
    """Which of several policies answered it; empty: there is one."""
    signals: Signals = Signals()

    @property
    def of_call(self) -> str:
        """The same for the choices of one call, and for no others."""
        return self.call or self.id


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
    calls: np.ndarray
    """int64: which of the rollout's transitions the token is of; -1 where not trained."""
    proximal: np.ndarray | None = None
    """float32: as ``logprobs``, but under the policy with which an update of several optimizer steps began;
    None where nothing needs them."""
    constrained: np.ndarray | None = None
    """bool: the token was drawn from those that a grammar allowed, and its ``logprobs`` are of that
    distribution. None where no token of the row was."""
    policy: str = ""
    """Which of several policies sampled the trained tokens, and learns from them; empty: there is one."""


@dataclass(frozen=True, slots=True)
class UpdateReport(Value):
    """What one optimizer step did; ``metrics`` are by the keys that they are logged by."""

    policy_version: int
    metrics: Mapping[str, float] = field(default_factory=dict)
