"""What broke around an agent is not the model's doing; what broke by its answers is."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from al_ray.recipe import TransitionsSection
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from al_ray.types import (
    Attempt,
    AttemptStatus,
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


def test_nothing_by_which_aiohttp_tells_of_a_broken_connection_is_the_models_doing() -> None:
    """It raises the particular class, and only names are known of what an agent raised."""
    connection = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    raised = [
        each for each in vars(aiohttp).values() if isinstance(each, type) and issubclass(each, connection)
    ]
    assert {aiohttp.ClientConnectorDNSError, aiohttp.ServerTimeoutError} <= set(raised)
    blamed = [
        each.__name__
        for each in raised
        if is_the_models_doing(ended(AttemptStatus.FAILED, f"aiohttp.{each.__name__}", ANSWERED))
    ]
    assert blamed == []


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
