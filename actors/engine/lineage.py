"""Lineage: which earlier call of its attempt a conversation extends, and why it extends none.

``LineageMemory`` keeps what the model said and the tokens that it was said with. ``place`` finds, in the
messages that an agent sends, the last turn that the model said at this very point of this very
conversation. Agents send our messages back in many shapes, so what is compared is what a message *says*
(``messages.canonical``). Reasoning that was left out makes no difference, since most agents do not know
the field; reasoning that was *changed* is a rewrite. Every turn that is found is put back as the model
said it, so templates render it as they would have. Of several answers that say the same in the same
place, it is the last: the agent was shown nothing to tell them by.

The memory is bounded and may be lost: a turn that it has forgotten is rendered from its text, which
opens a new branch, counted as ``other``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from al_ray.errors import BadRequestError
from al_ray.traces import volatile
from al_ray.traces.messages import SYSTEM, Message, canonical, put_back
from al_ray.types import ChatRequest, LineageOutcome

MEMORY_TOKENS: Final = 2**25
"""128 MiB of token ids in an engine."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model, and everything that it was sampled after."""

    id: str
    """Of the transition: the call's id, a slash, and the choice's index."""
    message: Message
    prompt_ids: np.ndarray
    """int32; shared by the choices of a call."""
    response_ids: np.ndarray
    """int32, every sampled token."""
    prompt: TextDigest
    """The text that the template gave for the prompt."""
    ended: bool
    """The model ended the turn itself: its last token is an end of turn."""
    shown: bool
    """The agent was shown all of its text, and nothing but it."""

    @property
    def size(self) -> int:
        """Tokens."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class TextDigest:
    """A long text, to be recognised as the beginning of another."""

    length: int
    digest: bytes

    @classmethod
    def of(cls, text: str) -> TextDigest:
        return cls(len(text), blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())

    def begins(self, text: str) -> bool:
        return len(text) >= self.length and TextDigest.of(text[: self.length]) == self


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its attempt's history a conversation stands."""

    attempt: bytes | None
    """Stands for the attempt. None: of nobody's, and its answers are not remembered."""
    messages: Sequence[Message]
    """As the agent sent them, with every turn that was found put back as the model said it, and the pieces
    that change from call to call and say nothing (``volatile``) as the last of those turns was shown them."""
    state: bytes
    """Stands for the attempt, the tools and all messages: an answer is remembered under it."""
    turn: Turn | None
    """The last turn that was found."""
    outcome: LineageOutcome
    """What the call is if the tokens of ``turn`` can be reused."""
    pieces: Sequence[str] = ()
    """The volatile pieces of the system's messages, as ``turn`` was shown them."""


class LineageMemory:
    """The turns of many attempts; forgets those that were not used for longest."""

    def __init__(self, limit: int = MEMORY_TOKENS) -> None:
        self._limit = limit
        self._size = 0
        self._turns: OrderedDict[bytes, _Remembered] = OrderedDict()
        """By what was said, and where."""
        self._traces: dict[bytes, bytes] = {}
        """Where the model was asked, and what it said in an attempt, to the last turn that tells so."""

    def place(self, request: ChatRequest) -> Place:
        """Compares the messages of ``request`` with the earlier calls of its attempt."""
        if request.attempt is None:
            return Place(None, request.messages, b"", None, LineageOutcome.NEW)
        attempt = _digest(b"", request.attempt)
        state = _digest(attempt, list(map(dict, request.tools or ())))
        messages: list[Message] = []
        pieces: list[str] = []
        last, outcome = None, LineageOutcome.NEW
        for message in request.messages:
            if message.get("role") in SYSTEM:
                pieces += volatile.pieces(message.get("content"))
            if message.get("role") == "assistant":
                found = self._find(state, message)
                if found is not None:
                    message = put_back(found.turn.message, message)
                    last, outcome = found, LineageOutcome.CONTINUED
                elif self._was_rewritten(attempt, state, message):
                    outcome = LineageOutcome.REWRITTEN
                elif outcome is not LineageOutcome.REWRITTEN:
                    outcome = LineageOutcome.OTHER
            messages.append(message)
            state = _digest(state, canonical(message))
        if last is not None and list(last.pieces) != pieces[: len(last.pieces)]:
            pieces[: len(last.pieces)] = last.pieces
            messages = _with_pieces(messages, pieces)
        return Place(attempt, messages, state, last.turn if last else None, outcome, pieces)

    def remember(self, place: Place, turns: Sequence[Turn]) -> None:
        """Keeps the answers to the call that was placed at ``place``."""
        if place.attempt is None:
            return
        for turn in turns:
            key = _said(place.state, turn.message)
            self._forget(key)
            traces = (place.state, _said(place.attempt, turn.message))
            self._turns[key] = _Remembered(turn, traces, place.pieces)
            self._traces |= dict.fromkeys(traces, key)
            self._size += turn.size
        while self._size > self._limit:
            self._forget(next(iter(self._turns)))

    def _find(self, state: bytes, message: Message) -> _Remembered | None:
        key = _said(state, message)
        remembered = self._turns.get(key)
        if remembered is None:
            return None
        reasoning = canonical(message)["reasoning"]
        if reasoning and reasoning != canonical(remembered.turn.message)["reasoning"]:
            return None
        self._turns.move_to_end(key)
        return remembered

    def _was_rewritten(self, attempt: bytes, state: bytes, message: Message) -> bool:
        """The model said something else here, or said this elsewhere."""
        return state in self._traces or _said(attempt, message) in self._traces

    def _forget(self, key: bytes) -> None:
        remembered = self._turns.pop(key, None)
        if remembered is None:
            return
        self._size -= remembered.turn.size
        for trace in remembered.traces:
            if self._traces.get(trace) == key:
                del self._traces[trace]


@dataclass(frozen=True, slots=True)
class _Remembered:
    turn: Turn
    traces: tuple[bytes, bytes]
    pieces: Sequence[str]
    """The volatile ones that it was said after."""


def _with_pieces(messages: Sequence[Message], pieces: Sequence[str]) -> list[Message]:
    """The messages with these volatile pieces in place of their own."""
    known = iter(pieces)
    return [
        {**message, "content": volatile.with_pieces(message.get("content"), known)}
        if message.get("role") in SYSTEM
        else message
        for message in messages
    ]


def same(one: Message, other: Message) -> bool:
    """Whether both say the same; ``1`` and ``true`` do not."""
    return _digest(b"", canonical(one)) == _digest(b"", canonical(other))


def _said(state: bytes, message: Message) -> bytes:
    return _digest(state, canonical(message, reasoning=False))


def _digest(state: bytes, value: Any) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True)
    except RecursionError:
        raise BadRequestError("messages: they are nested too deeply") from None
    return blake2b(state + text.encode(), digest_size=16).digest()
