"""What an agent itself tells the gateway, in any language: its rewards, and events worth keeping.

A report is durable when it is answered. One with an ``id`` may be repeated: it counts once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import AfterValidator, Field, model_validator

from al_ray.actors.gateway.attempt_keys import AttemptKeys
from al_ray.actors.gateway.attempt_limits import ATTEMPTS_REMEMBERED
from al_ray.actors.gateway.dialects.core import Body, FewNames, parse_body
from al_ray.actors.gateway.otlp_receiver import LEAST_SPAN_BYTES, MAX_ATTEMPT_BYTES
from al_ray.actors.http import json_response, read_body
from al_ray.actors.recent import Recent
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.database.reader import Records
from al_ray.errors import BadRequestError
from al_ray.traces import call_span, semconv
from al_ray.traces.reward_span import LARGEST, PRIMARY, reward_attributes
from al_ray.types import JSON, Attempt, Span, SpanKind

REWARDS: Final = "/v1/al_ray/rewards"
EVENTS: Final = "/v1/al_ray/events"


def _without_nul(name: str) -> str:
    if "\x00" in name:
        raise ValueError("has a NUL character, which databases refuse")
    return name


Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_without_nul)]


class RewardBody(Body):
    """A reward, or several by name."""

    value: Number | None = None
    dimensions: Annotated[dict[Name, Number], FewNames] = Field(default_factory=dict)
    """Rewards by name; ``reward`` is the value where none is given."""
    call: Name | None = None
    """The id of the call that earned it, as the API told it, or ``ID/INDEX`` for one of its choices. None:
    the last call before it."""
    id: Name | None = None
    """The agent's own, for reports that it repeats."""

    @model_validator(mode="after")
    def _says_something(self) -> RewardBody:
        if self.value is None and PRIMARY not in self.dimensions:
            raise ValueError(f"value: give a number, or a dimension named '{PRIMARY}'")
        return self


class EventBody(Body):
    """Anything worth keeping with the attempt."""

    name: Name
    attributes: Annotated[dict[Name, Any], FewNames] = Field(default_factory=dict)
    id: Name | None = None
    """The agent's own, for reports that it repeats."""


@dataclass(frozen=True, slots=True)
class AgentReports:
    """The routes for agents' reports."""

    keys: AttemptKeys
    recorder: SpanRecorder
    records: Records
    _told: Recent[tuple[str, int, SpanKind], int] = field(
        default_factory=lambda: Recent(2 * ATTEMPTS_REMEMBERED)
    )
    """Bytes, by attempt and kind: events without end leave room for the reward."""

    def routes(self) -> list[web.RouteDef]:
        return [web.post(REWARDS, self._reward), web.post(EVENTS, self._event)]

    async def _reward(self, request: web.Request) -> web.Response:
        attempt = (await self.keys.claim(request)).attempt
        body = parse_body(RewardBody, await self._read(request, attempt, SpanKind.REWARD))
        value = body.dimensions[PRIMARY] if body.value is None else body.value
        attributes = reward_attributes(body.dimensions or {PRIMARY: value}, value)
        if body.call is not None:
            await self._find_call(attempt, body.call)
            attributes[semconv.REWARD_CALL] = body.call
        return await self._keep(attempt, SpanKind.REWARD, "reward", attributes, body.id)

    async def _event(self, request: web.Request) -> web.Response:
        attempt = (await self.keys.claim(request)).attempt
        body = parse_body(EventBody, await self._read(request, attempt, SpanKind.EVENT))
        attributes = {
            name: told for name, told in body.attributes.items() if not name.startswith(semconv.OURS)
        }
        return await self._keep(attempt, SpanKind.EVENT, body.name, attributes, body.id)

    async def _read(self, request: web.Request, attempt: Attempt, kind: SpanKind) -> bytes:
        """The body. Raises ``BadRequestError`` where the attempt has told too much."""
        raw = await read_body(request)
        teller = attempt.rollout_id, attempt.number, kind
        told = self._told.get(teller, 0) + max(len(raw), LEAST_SPAN_BYTES)
        if told > MAX_ATTEMPT_BYTES:
            raise BadRequestError(
                f"the {kind}s of an attempt may have {MAX_ATTEMPT_BYTES} bytes together, each of them "
                f"{LEAST_SPAN_BYTES} at least; keep larger things elsewhere"
            )
        self._told[teller] = told
        return raw

    async def _find_call(self, attempt: Attempt, call: str) -> None:
        call_id, slash, index = call.partition("/")
        told = attempt.rollout_id, attempt.number, call_id
        found = await asyncio.to_thread(self.records.attempt_spans, *told)
        if not found or found[0].kind is not SpanKind.CALL:
            raise BadRequestError(f"call: this attempt has made no call {call!r}")
        choices = call_span.choices(found[0])
        if slash and index not in [str(choice.index) for choice in choices]:
            raise BadRequestError(
                f"call: {call_id!r} has no choice {index!r}: it has {len(choices)}, of which the first is 0"
            )

    async def _keep(
        self, attempt: Attempt, kind: SpanKind, name: str, attributes: dict[str, JSON], own_id: str | None
    ) -> web.Response:
        now = time.time()
        prefix = f"{attempt.rollout_id}/{attempt.number}/{kind}/"
        span_id = uuid.uuid4().hex if own_id is None else prefix + own_id
        await self.recorder.record(
            Span(span_id, attempt.rollout_id, attempt.number, kind, name, now, now, attributes)
        )
        return json_response({"id": span_id})
