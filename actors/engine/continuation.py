"""Token-exact continuation: the earlier call's tokens as they were sampled, and the new text alone tokenised.

A turn of the model that the agent kept (``lineage``) is continued where the chat template proves
that it may be: with P the text of the turn's prompt and T that of the whole conversation,

- T begins with P, so nothing before the turn is rendered otherwise now; and
- what stands between P and the next end of turn in T, read by the model's own parsers, is the very message
  that the agent was given, so the template leaves nothing of it out. Only its layout may differ from what
  was sampled, such as white space around it or the spaces in the JSON of a tool call; it is not used.

Then the prompt is the turn's own tokens and those of the rest of T: an end of turn that was sampled is not
written again; one that was not, because the response was cut off, comes from the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from al_ray.actors.engine.lineage import LineageMemory, Place, TextDigest, Turn, same
from al_ray.traces.messages import Message
from al_ray.types import ChatRequest, Choice, Lineage, LineageOutcome, ModelRequest


class Renderer(Protocol):
    """A model's chat template, tokenizer and parsers."""

    @property
    def ends(self) -> Mapping[int, str]:
        """The tokens with which the model may end its turn, as they stand in text."""

    async def encode(self, text: str) -> Sequence[int]:
        """The tokens of a piece of a rendered conversation."""

    async def read(self, text: str, request: ChatRequest, turn: Turn) -> Message:
        """``text`` as the message that an agent would be given if ``turn`` had been that text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a call is sampled after."""

    ids: Sequence[int]
    text: str | None
    """What the template gave. None: the tokenizer renders messages without making a text of them."""
    place: Place | None
    """None: of a raw prompt, which is no conversation."""
    lineage: Lineage


class Continuation:
    """Makes the prompts of one engine's calls, and remembers what they are answered."""

    def __init__(self, renderer: Renderer, memory: LineageMemory) -> None:
        self._renderer = renderer
        self._memory = memory

    def place(self, request: ChatRequest) -> Place:
        """Where ``request`` stands in its attempt; render the messages that it holds."""
        return self._memory.place(request)

    async def prompt(
        self, request: ChatRequest, place: Place, text: str | None, ids: Sequence[int]
    ) -> Prompt:
        """The prompt of ``request``, whose messages are those of ``place``.

        ``text`` and ``ids`` are what template and tokenizer make of them, for where nothing can be continued.
        """
        turn = place.turn
        if turn is None:
            return Prompt(ids, text, place, Lineage(place.outcome))
        rest = LineageOutcome.OTHER if text is None else await self._rest(request, turn, text)
        if isinstance(rest, LineageOutcome):
            broken = rest if place.outcome is LineageOutcome.CONTINUED else place.outcome
            return Prompt(ids, text, place, Lineage(broken))
        reused = [*turn.prompt_ids.tolist(), *turn.response_ids.tolist()]
        lineage = Lineage(place.outcome, turn.id, len(reused))
        return Prompt([*reused, *await self._renderer.encode(rest)], text, place, lineage)

    def remember(
        self, request: ModelRequest, prompt: Prompt, choices: Sequence[Choice], hidden: Set[int]
    ) -> None:
        """Keeps the answers to ``request``; the agent was not shown the tokens in ``hidden``."""
        if prompt.text is None or prompt.place is None:
            return
        prompt_ids, digest = np.asarray(prompt.ids, np.int32), TextDigest.of(prompt.text)
        turns = []
        for choice in choices:
            if not choice.response_ids:
                continue
            ended = choice.response_ids[-1] in self._renderer.ends
            text_ids = choice.response_ids[:-1] if ended else choice.response_ids
            cut = bool(request.sampling.stop) and not ended and choice.finish_reason != "length"
            turns.append(
                Turn(
                    id=f"{request.id}/{choice.index}",
                    message=choice.message,
                    prompt_ids=prompt_ids,
                    response_ids=np.asarray(choice.response_ids, np.int32),
                    prompt=digest,
                    ended=ended,
                    # Bytes at its end that are not yet a character are no text.
                    shown=not cut and not choice.calls_left_out and hidden.isdisjoint(text_ids),
                )
            )
        self._memory.remember(prompt.place, turns)

    async def _rest(self, request: ChatRequest, turn: Turn, text: str) -> str | LineageOutcome:
        """What follows the tokens of ``turn`` in ``text``, or why they cannot be reused."""
        begin = turn.prompt.length
        ends = [(text.find(mark, begin), mark) for mark in self._renderer.ends.values()]
        end, mark = min((found for found in ends if found[0] >= 0), default=(-1, ""))
        if end < 0 or not turn.prompt.begins(text):
            return LineageOutcome.TEMPLATE
        rendered = await self._renderer.read(text[begin:end], request, turn)
        if not same(rendered, turn.message):
            return LineageOutcome.TEMPLATE
        if not turn.shown:
            return LineageOutcome.RETOKENISED
        return text[end + len(mark) :] if turn.ended else text[end:]
