"""The gateway's model calls, in every API: parsed, sampled as the recipe says, answered, recorded.

A call is durable before the agent can see that it is over. One whose agent hangs up is given up and
recorded as aborted, and so is one whose answer breaks off.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Final

import orjson
from aiohttp import web

from al_ray.actors.gateway.attempt_keys import AttemptKeys
from al_ray.actors.gateway.attempt_limits import ATTEMPTS_REMEMBERED, AttemptLimits
from al_ray.actors.gateway.calls.call import Answerer, Call, Engines, new_id, pieces_of
from al_ray.actors.gateway.calls.partial import PartialAnswer
from al_ray.actors.gateway.calls.recorded.earlier import EarlierCalls
from al_ray.actors.gateway.calls.recorded.repeated import RepeatedCalls, is_repeated
from al_ray.actors.gateway.calls.recorded.replays import Replays
from al_ray.actors.gateway.calls.sampling import SamplingRules
from al_ray.actors.gateway.dialects import DIALECTS
from al_ray.actors.gateway.dialects.chat_completions import CHAT_COMPLETIONS
from al_ray.actors.gateway.dialects.core import Asked, Dialect, Head
from al_ray.actors.gateway.dialects.messages import MESSAGES, parse_prompt
from al_ray.actors.gateway.dialects.readable import unreadable
from al_ray.actors.gateway.failures import failure
from al_ray.actors.http import json_response, read_body
from al_ray.actors.recent import Recent
from al_ray.actors.store.span_recorder import SpanRecorder
from al_ray.errors import AttemptEndedError, BadRequestError
from al_ray.recipe import PolicySection, policy_of
from al_ray.traces import semconv
from al_ray.traces.messages import Message, without_ids
from al_ray.traces.otlp_in import Owner, trace_context
from al_ray.types import Attempt, ChatReply, Claim, Mode, Span, SpanKind

AGENT_HEADER: Final = "x-al-ray-agent"
"""In which an agent may give its name."""
_WRITE_SECONDS: Final = 60.0
"""A client that takes no byte for so long has hung up."""
_EVENTS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallRules:
    """What the recipe says of calls."""

    model: str
    """What agents call the trained model; any name that is not a hosted model's means it. A hosted model
    of this very name stands in its place."""
    sampling: Mapping[Mode, SamplingRules]
    seed: int
    policies: Mapping[str, PolicySection] = field(default_factory=dict)
    """Whose calls each of several policies answers. Empty: there is one."""


@dataclass(slots=True)
class ModelCalls:
    """Answers calls by the engines, by the hosted model that the agent names, or from a record."""

    rules: CallRules
    keys: AttemptKeys
    limits: AttemptLimits
    recorder: SpanRecorder
    repeated: RepeatedCalls
    replays: Replays
    engines: Engines
    earlier: EarlierCalls
    hosted: Mapping[str, Answerer]
    _repeats: Recent[tuple[str, int, bytes], int] = field(
        default_factory=lambda: Recent(10 * ATTEMPTS_REMEMBERED)
    )
    """How often an attempt has asked the very same."""
    _left_out: Recent[tuple[str, int, str], None] = field(default_factory=lambda: Recent(ATTEMPTS_REMEMBERED))
    """The tools of which an attempt's record says that they were left out."""

    def routes(self) -> list[web.RouteDef]:
        return [
            *(web.post(dialect.path, partial(self._answer, dialect)) for dialect in DIALECTS),
            web.post(f"{MESSAGES.path}/count_tokens", self._count_tokens),
        ]

    async def _answer(self, dialect: Dialect, request: web.Request) -> web.StreamResponse:
        claim = await self.keys.claim(request)
        asked = dialect.parse(await read_body(request))
        repeats = is_repeated(request.headers)
        if asked.stream or repeats:  # what is seen is not recorded first
            claim = await self.keys.claim(request, now=True)
        call = await self._call(dialect, claim, asked, request.headers)
        if repeats and (earlier := await self.repeated.recorded(call)):
            return _told_whole(dialect, replace(call.head, id=earlier.id), asked, earlier.reply)
        await self.limits.admit(call.attempt)
        passed_on = call.hosted and dialect is CHAT_COMPLETIONS  # in which a hosted model is asked
        if asked.left_out and not passed_on:
            await self._tell_left_out(call)
        answerer: Answerer = self.hosted[call.model] if call.hosted else self.engines
        if (recorded := await self.replays.answerer(claim, call)) is not None:
            call, answerer = replace(call, replayed=recorded.span.id), recorded
        if asked.stream:
            return await self._stream(request, dialect, call, answerer)
        try:
            reply = await answerer.chat(call)
        except asyncio.CancelledError:
            self.recorder.record_soon(self._aborted(call, PartialAnswer()))
            raise
        await self._record(call, reply)
        return json_response(dialect.reply(call.head, asked, reply))

    async def _stream(
        self, request: web.Request, dialect: Dialect, call: Call, answerer: Answerer
    ) -> web.StreamResponse:
        """Server-sent events. The headers leave with the first piece, so what fails before it is answered
        with a status; what fails after it, with an event."""
        wire = dialect.stream(call.head, call.asked)
        response = web.StreamResponse(headers=_EVENTS)
        seen, whole = PartialAnswer(), False
        try:
            async with aclosing(answerer.stream(call)) as answer:
                async for pieces in answer:
                    events = [] if response.prepared else [*wire.begin()]
                    for piece in pieces:
                        if isinstance(piece, ChatReply):
                            whole = True  # so it is recorded and counted, whoever hangs up meanwhile
                            await self._record(call, piece)
                            events += wire.end(piece)
                        else:
                            seen.add(piece)
                            events += wire.piece(piece)
                    if not response.prepared:
                        await response.prepare(request)
                    await _write(response, b"".join(events))
        except (ConnectionResetError, TimeoutError, asyncio.CancelledError) as error:
            _log.debug("the client of call %s hung up", call.id)
            if not whole:
                self.recorder.record_soon(self._aborted(call, seen))
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:
            if not response.prepared:
                raise
            if not whole:  # before the agent asks for more, or rewards what it has seen
                with suppress(AttemptEndedError):
                    await self.recorder.record(self._aborted(call, seen))
            await _write(response, b"".join(wire.fail(failure(error))))
        return response

    async def _record(self, call: Call, reply: ChatReply) -> None:
        used = reply.usage
        self.limits.spend(call.attempt, used.input_tokens + used.output_tokens)
        await self.recorder.record(call.span(reply))
        self.repeated.note_answered(call.id)

    def _aborted(self, call: Call, seen: PartialAnswer) -> Span:
        """A call of which the agent has seen no more than this: it is counted, and to be recorded."""
        self.limits.spend(call.attempt, seen.tokens)
        return call.aborted_span(seen)

    async def _call(self, dialect: Dialect, claim: Claim, asked: Asked, headers: Mapping[str, str]) -> Call:
        attempt, agent = claim.attempt, _header_text(headers.get(AGENT_HEADER, ""))
        model = self._model(asked)
        hosted = model in self.hosted
        if not hosted:
            _require_readable(asked)
        policy = "" if hosted else self._policy(agent or asked.model)
        messages = await self.earlier.conversation(attempt, asked)
        seed = self._seed(attempt, asked, messages)
        return Call(
            id=f"{dialect.id_prefix}{new_id()}",
            attempt=attempt,
            group=claim.request.group,
            agent=agent,
            model=model,
            asked=asked,
            messages=messages,
            sampling=self.rules.sampling[claim.request.mode].of(agent).sampling(asked.sampling, seed),
            hosted=hosted,
            policy=policy,
            frozen=bool(policy) and self.rules.policies[policy].frozen,
            trace=trace_context(headers.get("traceparent", ""), Owner(attempt.rollout_id, attempt.number)),
        )

    def _policy(self, agent: str) -> str:
        """Who answers an agent of this name, or, where it gave none, one that asks for this model. Raises
        ``BadRequestError`` where nobody was said to: another would be trained on what it is not for."""
        found = policy_of(self.rules.policies, agent)
        if found is None:
            known = "; ".join(f"{name} {each.agents}" for name, each in self.rules.policies.items())
            raise BadRequestError(
                f"{AGENT_HEADER}: no policy answers {agent!r}; the recipe's policies are for {known}: send "
                "one of these names in this header, or as the model's, or add the agent's to one of them"
            )
        return found

    def _seed(self, attempt: Attempt, asked: Asked, messages: Sequence[Message]) -> int:
        """Another one for each call, but the same in every run of the recipe: 31 bits.

        It comes from what is asked and how often it was asked, so that neither the order of an attempt's
        calls nor which gateway answers them matters. Ids are left out: they are others in every run.
        """
        said = orjson.dumps([messages, asked.prompt, asked.tools])
        if b'"id"' in said or b'"tool_call_id"' in said:
            said = orjson.dumps([without_ids(messages), asked.prompt, asked.tools])
        key = (attempt.rollout_id, attempt.number, hashlib.blake2b(said, digest_size=16).digest())
        repeat = self._repeats[key] = self._repeats.get(key, -1) + 1
        name = f"{self.rules.seed}/{attempt.rollout_id}/{attempt.number}/{key[2].hex()}/{repeat}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") >> 1

    async def _count_tokens(self, request: web.Request) -> web.Response:
        claim = await self.keys.claim(request, now=True)
        asked = parse_prompt(await read_body(request))
        model = self._model(asked)
        if model in self.hosted:
            raise BadRequestError(f"model: {model} is a hosted model, whose tokens cannot be counted here")
        _require_readable(asked)
        messages = await self.earlier.conversation(claim.attempt, asked)
        tokens = await self.engines.render(claim.request, messages, asked.tools)
        return json_response({"input_tokens": len(tokens)})

    def _model(self, asked: Asked) -> str:
        return asked.model if asked.model in self.hosted else self.rules.model

    async def _tell_left_out(self, call: Call) -> None:
        """One event in an attempt for each tool that its agent sent and the model was not offered."""
        attempt = call.attempt
        for kind in call.asked.left_out:
            told = attempt.rollout_id, attempt.number, kind
            if told not in self._left_out:
                self._left_out[told] = None
                await self.recorder.record(_tool_left_out(attempt, kind))


def _header_text(header: str) -> str:
    """What is not ASCII comes as UTF-8, or, from Python's own client, as Latin-1; aiohttp takes it for the
    first."""
    sent = header.encode("utf-8", "surrogateescape")
    try:
        return sent.decode()
    except UnicodeDecodeError:
        return sent.decode("latin-1")


def _require_readable(asked: Asked) -> None:
    """Raises ``BadRequestError`` for what the trained model could not be shown."""
    if told := asked.refused or unreadable(asked.messages):
        raise BadRequestError(told)


def _tool_left_out(attempt: Attempt, kind: str) -> Span:
    now, named = time.time(), kind[:100].replace("\x00", "")  # of which PostgreSQL takes none
    return Span(
        id=f"{attempt.rollout_id}/{attempt.number}/left-out/{named}",
        rollout_id=attempt.rollout_id,
        attempt=attempt.number,
        kind=SpanKind.EVENT,
        name="tool left out",
        start=now,
        end=now,
        attributes={
            semconv.TOOL_NAME: kind,
            semconv.WARNING: "the model was not offered it: the API's own servers would do its work; offer a "
            "function in its place",
        },
    )


def _told_whole(dialect: Dialect, head: Head, asked: Asked, reply: ChatReply) -> web.Response:
    """An answer of which all is known, streamed if that was asked for."""
    if not asked.stream:
        return json_response(dialect.reply(head, asked, reply))
    wire = dialect.stream(head, asked)
    events = [*wire.begin()]
    for piece in chain.from_iterable(pieces_of(reply)):
        events += wire.end(piece) if isinstance(piece, ChatReply) else wire.piece(piece)
    return web.Response(body=b"".join(events), headers=_EVENTS)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(_WRITE_SECONDS):
            await response.write(data)
