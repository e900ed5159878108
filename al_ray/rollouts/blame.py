"""Whose doing a failed rollout is: the model's, or that of the machines around it.

A policy whose failures are left out never learns to avoid them, and looks better than it is: whoever dies of
his own answers is not counted. What broke around the agent says nothing of the policy.
"""

from __future__ import annotations

from typing import Final

from al_ray.traces import call_span
from al_ray.types import AttemptStatus, Rollout, RolloutStatus, SpanKind

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


def is_the_models_doing(rollout: Rollout) -> bool:
    """Whether it failed by what the model answered: its agent broke or ran out of time, context or calls
    after an answer, by none of the errors of what is around it."""
    if rollout.status is not RolloutStatus.FAILED or not rollout.attempts:
        return False
    last = rollout.attempts[-1]
    if last.status not in (AttemptStatus.FAILED, AttemptStatus.TIMED_OUT):
        return False
    if (last.error_class or "").rpartition(".")[2] in AROUND_THE_AGENT:
        return False
    calls = (span for span in rollout.spans if span.kind is SpanKind.CALL)
    return any(call_span.sampled_tokens(call) or call_span.is_replayed(call) for call in calls)
