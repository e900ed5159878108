"""What broke around an agent is not the model's doing; what broke by its answers is."""

from __future__ import annotations

import builtins
import http.client
import socket
import ssl
import tarfile
import urllib.error
from dataclasses import replace
from types import ModuleType

import aiohttp
import anthropic
import httpcore
import httpx
import openai
import pytest
import requests
import urllib3

from al_ray.database.retry import is_retried
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.blame import AROUND_THE_AGENT, is_the_models_doing
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from al_ray.types import (
    Attempt,
    AttemptStatus,
    RetryRules,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)

REQUEST = RolloutRequest("r", "b", "g", Task("t", {}))


def call(number: int, *choices: list[int]) -> Span:
    told = [{"ids": ids, "logprobs": [-1.0] * len(ids), "versions": [[0, 0, len(ids)]]} for ids in choices]
    attributes = {
        semconv.PROMPT_IDS: [1],
        semconv.CHOICES: told,
        semconv.FINISH_REASONS: ["stop"] * len(choices),
    }
    return Span(f"c{number}", "r", 1, SpanKind.CALL, "chat", number, number, attributes, number)


def ended(status: AttemptStatus, error_class: str | None = None, *spans: Span) -> Rollout:
    attempt = Attempt("r", 1, "k", status, error_class=error_class)
    succeeded = status is AttemptStatus.SUCCEEDED
    return Rollout(
        REQUEST, RolloutStatus.SUCCEEDED if succeeded else RolloutStatus.FAILED, [attempt], list(spans)
    )


ANSWERED = call(0, [2])
REPEATED = replace(call(0, []), attributes={semconv.REPLAYED: "recorded"})


@pytest.mark.parametrize(
    ("rollout", "its_doing"),
    [
        (ended(AttemptStatus.FAILED, "builtins.ValueError", ANSWERED), True),
        (ended(AttemptStatus.FAILED, "openai.BadRequestError", ANSWERED), True),
        (ended(AttemptStatus.TIMED_OUT, None, ANSWERED), True),
        (ended(AttemptStatus.FAILED, "openai.APIConnectionError", ANSWERED), False),
        (ended(AttemptStatus.FAILED, "ConnectionResetError", ANSWERED), False),
        (ended(AttemptStatus.UNRESPONSIVE, None, ANSWERED), False),
        (ended(AttemptStatus.CANCELLED, None, ANSWERED), False),
        (ended(AttemptStatus.FAILED, "builtins.ValueError"), False),
        (ended(AttemptStatus.TIMED_OUT, None, call(0, [])), False),
        (ended(AttemptStatus.FAILED, "builtins.ValueError", REPEATED), True),
        (ended(AttemptStatus.SUCCEEDED, None, ANSWERED), False),
    ],
)
def test_a_failure_is_the_models_doing_if_it_had_answered_and_nothing_around_it_broke(
    rollout: Rollout, its_doing: bool
) -> None:
    assert is_the_models_doing(rollout) is its_doing


def hosted(name: str, reason: str = "stop", **more: str) -> Span:
    """An answer of a hosted model, of which there are no tokens."""
    told = {semconv.HOSTED: True, semconv.REQUEST_MODEL: name, semconv.FINISH_REASONS: [reason], **more}
    return replace(call(0, []), attributes=told)


@pytest.mark.parametrize(
    ("calls", "evaluated", "its_doing"),
    [
        ([hosted("gpt")], "gpt", True),
        ([hosted("judge"), hosted("gpt")], "gpt", True),
        ([hosted("judge")], "gpt", False),
        ([hosted("gpt", "aborted")], "gpt", False),
        ([hosted("judge")], None, False),
        ([hosted("judge", **{semconv.REPLAYED: "recorded"})], None, False),
        ([hosted("judge"), ANSWERED], None, True),
    ],
)
def test_what_a_hosted_model_answered_counts_where_it_is_the_one_that_is_evaluated(
    calls: list[Span], evaluated: str | None, its_doing: bool
) -> None:
    """As in ``al-ray eval --url``. Beside the model that is trained or evaluated, it is something else that
    the agent uses."""
    rollout = ended(AttemptStatus.FAILED, "builtins.ValueError", *calls)
    assert is_the_models_doing(rollout, evaluated) is its_doing


CONNECTIONS: dict[ModuleType, tuple[type[BaseException], ...]] = {
    aiohttp: (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError),
    anthropic: (anthropic.APIConnectionError, anthropic.InternalServerError, anthropic.RateLimitError),
    httpcore: (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProxyError),
    httpx: (httpx.TimeoutException, httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError),
    openai: (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError),
    requests.exceptions: (
        *(requests.exceptions.ConnectionError, requests.exceptions.Timeout),
        *(requests.exceptions.ChunkedEncodingError, requests.exceptions.RetryError),
    ),
    urllib3.exceptions: (
        *(urllib3.exceptions.TimeoutError, urllib3.exceptions.SSLError, urllib3.exceptions.ProxyError),
        *(urllib3.exceptions.MaxRetryError, urllib3.exceptions.IncompleteRead, http.client.IncompleteRead),
    ),
    builtins: (ConnectionError,),
    socket: (socket.gaierror, socket.herror),
    ssl: (ssl.SSLError,),
}
"""By package, the roots of the errors by which it tells that a connection or a server failed."""


@pytest.mark.parametrize("package", CONNECTIONS, ids=lambda package: package.__name__)
def test_no_error_of_a_connection_or_a_server_is_the_models_doing(package: ModuleType) -> None:
    """Each package raises the particular class, and only names are known of what an agent raised."""
    roots = CONNECTIONS[package]
    named = [*vars(package).values()]
    raised = [each for each in named if isinstance(each, type) and issubclass(each, roots)]
    assert raised and not blamed(*raised), blamed(*raised)


def blamed(*raised: type[BaseException]) -> list[str]:
    """The names of those that are the model's doing."""
    names = [f"{each.__module__}.{each.__qualname__}" for each in raised]
    return [n for n in names if is_the_models_doing(ended(AttemptStatus.FAILED, n, ANSWERED))]


def test_what_an_agent_ran_out_of_or_asked_for_in_vain_is_the_models_doing() -> None:
    """Its own time, a file, a page or a scheme that the model may have named; one that cannot be told apart
    from those counts as the model's."""
    own = (TimeoutError, FileNotFoundError, tarfile.ReadError, urllib.error.HTTPError)
    own += (httpx.HTTPStatusError, httpx.UnsupportedProtocol, httpx.LocalProtocolError)
    assert len(blamed(*own)) == len(own)


@pytest.mark.parametrize("hook", ["agent.before", "agent.after"])
def test_what_a_hook_raised_is_not_the_models_doing_and_is_tried_again(hook: str) -> None:
    rollout = ended(AttemptStatus.FAILED, "sqlite3.OperationalError", ANSWERED)
    assert is_the_models_doing(rollout)
    attempt = replace(rollout.attempts[-1], error=f"{hook} failed:\n\nTraceback")
    assert not is_the_models_doing(replace(rollout, attempts=[attempt]))
    rules = RetryRules(2, (AttemptStatus.FAILED,), AROUND_THE_AGENT)
    assert is_retried(rules, attempt, [attempt.status])
    assert not is_retried(rules, rollout.attempts[-1], [attempt.status])


@pytest.mark.parametrize("choices", [[[2]], [[2], [3]]])
def test_what_failed_is_worth_what_the_recipe_says_whatever_it_was_given_before(
    choices: list[list[int]],
) -> None:
    reward = Span("x", "r", 1, SpanKind.REWARD, "reward", 5, 5, {semconv.REWARD: 0.75}, 5)
    rollout = ended(AttemptStatus.FAILED, "builtins.ValueError", call(0, [7]), call(1, *choices), reward)
    episode = trajectory(rollout, TransitionsSection(failed_reward=-0.5))
    assert (episode.reward, episode.terminal_reward, episode.rewards) == (-0.5, -0.5, {"reward": -0.5})
    first, *last = episode.transitions
    assert (first.reward, first.call_reward) == (0.0, 0.0)
    assert {(t.reward, t.call_reward) for t in last} == {(-0.5, 0.0) if len(last) == 1 else (0.0, -0.5)}
