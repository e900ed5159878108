"""What an attempt's earlier calls said, for calls that name them, and for agents that ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from al_ray.actors.gateway.attempt_keys import AttemptKeys
from al_ray.actors.gateway.dialects.core import Asked, AskedSampling, Head, ToldAs
from al_ray.actors.gateway.dialects.responses import RESPONSES
from al_ray.actors.http import json_response
from al_ray.database.reader import Records
from al_ray.errors import BadRequestError
from al_ray.traces import call_span, semconv
from al_ray.traces.messages import Message
from al_ray.types import JSON, Attempt, Span, SpanKind

RESPONSE: Final = f"{RESPONSES.path}/{{response}}"


@dataclass(frozen=True, slots=True)
class EarlierCalls:
    """Finds them in the run's database."""

    keys: AttemptKeys
    records: Records

    def routes(self) -> list[web.RouteDef]:
        return [web.get(RESPONSE, self._response)]

    async def conversation(self, attempt: Attempt, asked: Asked) -> Sequence[Message]:
        """All that a call shows the model. Instructions are of one call alone: those of the continued call
        are left out. Raises ``BadRequestError``."""
        earlier: list[Message] = []
        if asked.previous_id is not None:
            call = await self._named(attempt, asked.previous_id, "previous_response_id")
            earlier = list(call_span.conversation(call))
        messages = asked.messages
        if asked.answers:
            messages = await self._with_answers(attempt, asked)
        if asked.prompt is None and not earlier and not messages:
            raise BadRequestError("messages: there is nothing to be answered")
        system = [] if asked.instructions is None else [{"role": "system", "content": asked.instructions}]
        return [*system, *earlier, *messages] if system or earlier else messages

    async def _with_answers(self, attempt: Attempt, asked: Asked) -> list[Message]:
        messages: list[Message] = []
        done = 0
        for place, call_id in asked.answers:
            call = await self._named(attempt, call_id, "item_reference")
            messages += [*asked.messages[done:place], call.attributes[semconv.OUTPUT_MESSAGES][0]]
            done = place
        return [*messages, *asked.messages[done:]]

    async def _named(self, attempt: Attempt, call_id: str, where: str) -> Span:
        call = await self._find(attempt, call_id)
        if call is None:
            raise BadRequestError(f"{where}: this attempt has no response {call_id!r}")
        return call

    async def _find(self, attempt: Attempt, call_id: str) -> Span | None:
        named = attempt.rollout_id, attempt.number, call_id
        spans = await asyncio.to_thread(self.records.attempt_spans, *named)
        return spans[0] if spans and spans[0].kind is SpanKind.CALL else None

    async def _response(self, request: web.Request) -> web.Response:
        """A response of the attempt, as it was answered."""
        attempt = (await self.keys.claim(request, now=True)).attempt
        response_id = request.match_info["response"]
        call = await self._find(attempt, response_id)
        if call is None or not call.id.startswith(RESPONSES.id_prefix) or call_span.is_aborted(call):
            raise web.HTTPNotFound(text=f"this attempt has no response {response_id!r}")
        head = Head(call.id, str(call.attributes[semconv.REQUEST_MODEL]), int(call.start))
        return json_response(RESPONSES.reply(head, _asked(call), call_span.reply(call)))


def _asked(call: Span) -> Asked:
    """As far as the record tells."""
    told = call.attributes
    sampling: Mapping[str, JSON] = told.get(semconv.ASKED_SAMPLING) or {}
    echo: dict[str, JSON] = {"tools": [_flat(tool) for tool in told.get(semconv.TOOL_DEFINITIONS) or ()]}
    echo |= told.get(semconv.ECHO) or {}
    if told.get(semconv.INSTRUCTIONS):
        echo["instructions"] = told[semconv.INPUT_MESSAGES][0]["content"]
    return Asked(
        model=str(told[semconv.REQUEST_MODEL]),
        sampling=AskedSampling(
            sampling.get("temperature"), sampling.get("top_p"), sampling.get("max_output_tokens")
        ),
        said=sampling,
        told_as={name: ToldAs(*known) for name, known in (told.get(semconv.TOLD_AS) or {}).items()},
        echo=echo,
    )


def _flat(tool: Mapping[str, JSON]) -> JSON:
    """A tool in the shape of responses."""
    return {"type": "function", "strict": None, "parameters": None, **tool["function"]}
