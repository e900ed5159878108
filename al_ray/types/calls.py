"""Calls: one request to the model, from what the agent asks to the reply that it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from al_ray.types.value import JSON, Value


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
    """Choices. Greedy ones are all the same."""


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
    parallel_tool_calls: bool = True
    """False: the agent is shown one tool call an answer."""
    policy: str = ""
    """Which of several policies answers; empty: there is one."""


@dataclass(frozen=True, slots=True)
class CompletionRequest(Value):
    """One call with a raw prompt, text or token ids, that no chat template touches."""

    id: str
    prompt: str | Sequence[int]
    sampling: Sampling
    top_logprobs: int | None = None
    policy: str = ""


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
    raw: Mapping[str, bytes] | None = None
    """The bytes of those of these tokens that are not written as what they are: a hosted model's halves of
    characters."""

    def bytes_of(self, text: str) -> bytes:
        """Of this token, or of one of the likeliest, by its text."""
        known = self.raw.get(text) if self.raw else None
        return text.encode("utf-8", "replace") if known is None else known


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
    calls_left_out: int = 0
    """Tool calls that were sampled and are not in the message: the agent allows one at a time."""


@dataclass(frozen=True, slots=True)
class Usage(Value):
    """Tokens of a call, over all its choices."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Of the input: those that a hosted model found in its cache."""
    reasoning_tokens: int = 0
    """Of the output: those of a hosted model's reasoning."""


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
    constrained: bool = False
    """A grammar held the answers: tokens were drawn from those that it allowed."""

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
