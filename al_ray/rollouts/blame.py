"""Whose doing a failed rollout is: the model's, or that of the machines around it.

A policy whose failures are left out never learns to avoid them, and looks better than it is: whoever dies of
his own answers is not counted. What broke around the agent says nothing of the policy.
"""

from __future__ import annotations

from typing import Final

from al_ray.traces import call_span, semconv
from al_ray.types import AttemptStatus, Rollout, RolloutStatus, Span

AROUND_THE_AGENT: Final = (
    "APIConnectionError",
    "APITimeoutError",
    "ClientConnectionError",
    "ClientConnectionResetError",
    "ClientConnectorCertificateError",
    "ClientConnectorDNSError",
    "ClientConnectorError",
    "ClientConnectorSSLError",
    "ClientOSError",
    "ClientPayloadError",
    "ClientProxyConnectionError",
    "ClientSSLError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "ConnectionTimeoutError",
    "EngineUnavailableError",
    "HostedModelError",
    "InternalServerError",
    "RateLimitError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "ServerConnectionError",
    "ServerDisconnectedError",
    "ServerFingerprintMismatch",
    "ServerTimeoutError",
    "ServiceUnavailableError",
    "SocketTimeoutError",
)
"""Bare names of the errors by which the clients of model and services tell that these failed: those of the
openai, anthropic, httpx, requests and aiohttp packages, Python's and ours."""


def is_the_models_doing(rollout: Rollout, model: str | None = None) -> bool:
    """Whether it failed by what the model answered: its agent broke or ran out of time, context or calls
    after an answer, by none of the errors of what is around it. ``model`` is the name of the one that is
    evaluated: where that is a hosted one, its answers count. Those of one beside it never do."""
    if rollout.status is not RolloutStatus.FAILED or not rollout.attempts:
        return False
    last = rollout.attempts[-1]
    if last.status not in (AttemptStatus.FAILED, AttemptStatus.TIMED_OUT):
        return False
    if (last.error_class or "").rpartition(".")[2] in AROUND_THE_AGENT:
        return False
    return any(_is_the_models(call, model) for call in call_span.answered(rollout.spans))


def _is_the_models(call: Span, model: str | None) -> bool:
    if semconv.HOSTED in call.attributes:
        return call.attributes.get(semconv.REQUEST_MODEL) == model
    return call_span.sampled_tokens(call) > 0 or call_span.is_replayed(call)
