"""Whose doing a failed rollout is: the model's, or that of the machines around it.

A policy whose failures are left out never learns to avoid them, and looks better than it is: whoever dies of
his own answers is not counted. What broke around the agent says nothing of the policy.
"""

from __future__ import annotations

from typing import Final

from al_ray.traces import call_span, semconv
from al_ray.types import AttemptStatus, Rollout, RolloutStatus, Span

_BY_SOURCE: Final = {
    "hooks": "agent.after agent.before",
    "al_ray": "EngineUnavailableError HostedModelError ServiceUnavailableError",
    "Python's sockets": (
        "BrokenPipeError ConnectionAbortedError ConnectionError ConnectionRefusedError ConnectionResetError "
        "gaierror herror SSLCertVerificationError SSLEOFError SSLError SSLSyscallError SSLWantReadError "
        "SSLWantWriteError SSLZeroReturnError"
    ),
    "asyncio, http.client, urllib": (
        "BadStatusLine ContentTooShortError IncompleteRead IncompleteReadError RemoteDisconnected URLError"
    ),
    "httpx, httpcore": (
        "CloseError ConnectError ConnectTimeout httpcore.ReadError httpx.ReadError NetworkError PoolTimeout "
        "ProxyError ReadTimeout RemoteProtocolError TimeoutException WriteError WriteTimeout"
    ),
    "requests, beside SSLError, ProxyError and others that are called as above": (
        "ChunkedEncodingError requests.exceptions.RetryError requests.exceptions.Timeout"
    ),
    "urllib3": (
        "ConnectTimeoutError EmptyPoolError InvalidChunkLength MaxRetryError NameResolutionError "
        "NewConnectionError ReadTimeoutError urllib3.exceptions.ProtocolError "
        "urllib3.exceptions.TimeoutError"
    ),
    "aiohttp": (
        "ClientConnectionError ClientConnectionResetError ClientConnectorCertificateError "
        "ClientConnectorDNSError ClientConnectorError ClientConnectorSSLError ClientHttpProxyError "
        "ClientOSError ClientPayloadError ClientProxyConnectionError ClientSSLError ConnectionTimeoutError "
        "ServerConnectionError ServerDisconnectedError ServerFingerprintMismatch ServerTimeoutError "
        "SocketTimeoutError UnixClientConnectorError"
    ),
    "openai": (
        "APIConnectionError APITimeoutError InternalServerError RateLimitError WebSocketConnectionClosedError"
    ),
    "anthropic, beside those that are called as openai's": (
        "CMEKContextUnavailableError CMEKKeyUnreachableError ContractSpendLimitReachedError "
        "DeadlineExceededError EnforcedSpendLimitReachedError GatewayTimeoutError HTTPNotImplementedError "
        "OverloadedError RampLimitExceededError RequestTimeoutError"
    ),
}
"""Names of ``Attempt.error_names``; in full where others call something else so. Not among them:
``TimeoutError``, by which an agent tells that its own time is over; and what says that a server did not like
what it was asked, or that a file is missing, which the model may have named."""
AROUND_THE_AGENT: Final = tuple(" ".join(_BY_SOURCE.values()).split())
"""The errors by which the clients of model and services tell that these failed, and the recipe's hooks."""


def is_the_models_doing(rollout: Rollout, model: str | None = None) -> bool:
    """Whether it failed by what the model answered: its agent broke or ran out of time, context or calls
    after an answer, by none of the errors of what is around it. ``model`` is the name of the one that is
    evaluated: where that is a hosted one, its answers count. Those of one beside it never do."""
    if rollout.status is not RolloutStatus.FAILED or not rollout.attempts:
        return False
    last = rollout.attempts[-1]
    if last.status not in (AttemptStatus.FAILED, AttemptStatus.TIMED_OUT):
        return False
    if not last.error_names.isdisjoint(AROUND_THE_AGENT):
        return False
    return any(_is_the_models(call, model) for call in call_span.answered(rollout.spans))


def _is_the_models(call: Span, model: str | None) -> bool:
    if semconv.HOSTED in call.attributes:
        return call.attributes.get(semconv.REQUEST_MODEL) == model
    return call_span.sampled_tokens(call) > 0 or call_span.is_replayed(call)
