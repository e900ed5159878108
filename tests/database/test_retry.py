"""Whether a rollout is tried again depends on how its attempts ended, and on its own rules alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.database.retry import LOST_LIMIT, is_retried
from al_ray.types import Attempt, AttemptStatus, RetryRules

ERROR = "openai.APIConnectionError"
NAMES = [ERROR, "APIConnectionError", "openai.BadRequestError", "ConnectionError"]
ENDED = [status for status in AttemptStatus if status.ended and status is not AttemptStatus.SUCCEEDED]
RULES = st.builds(
    RetryRules,
    max_attempts=st.integers(1, 4),
    statuses=st.lists(st.sampled_from(ENDED)).map(tuple),
    errors=st.none() | st.lists(st.sampled_from(NAMES)).map(tuple),
    never_errors=st.lists(st.sampled_from(NAMES)).map(tuple),
)


def failed(error_class: str | None = ERROR) -> Attempt:
    return Attempt("r", 1, "k", AttemptStatus.FAILED, error_class=error_class)


@pytest.mark.parametrize(
    ("rules", "again"),
    [
        (RetryRules(2), True),
        (RetryRules(1), False),
        (RetryRules(2, (AttemptStatus.TIMED_OUT,)), False),
        (RetryRules(2, errors=("openai.APIConnectionError",)), True),
        (RetryRules(2, errors=("APIConnectionError",)), True),
        (RetryRules(2, errors=("ConnectionError",)), False),
        (RetryRules(2, errors=()), False),
        (RetryRules(2, never_errors=("APIConnectionError",)), False),
        (RetryRules(2, never_errors=("openai.BadRequestError",)), True),
        (RetryRules(2, errors=(ERROR,), never_errors=(ERROR,)), False),
    ],
)
def test_a_failed_attempt_is_tried_again_as_the_rules_say(rules: RetryRules, again: bool) -> None:
    assert is_retried(rules, failed(), [AttemptStatus.FAILED]) is again


def test_a_failure_of_no_class_is_none_of_the_classes() -> None:
    assert is_retried(RetryRules(2, never_errors=NAMES), failed(None), [AttemptStatus.FAILED])
    assert not is_retried(RetryRules(2, errors=NAMES), failed(None), [AttemptStatus.FAILED])


@given(RULES, st.lists(st.sampled_from(ENDED), min_size=1), st.none() | st.sampled_from(NAMES))
def test_whatever_the_rules_no_limit_is_passed_and_lost_attempts_are_nobodys_failure(
    rules: RetryRules, ends: list[AttemptStatus], error_class: str | None
) -> None:
    last = Attempt("r", len(ends), "k", ends[-1], error_class=error_class)
    lost = ends.count(AttemptStatus.UNRESPONSIVE)
    again = is_retried(rules, last, ends)
    tried = len(ends) - lost - ends.count(AttemptStatus.CANCELLED)
    within = tried < rules.max_attempts and lost < LOST_LIMIT
    assert within or not again
    if ends[-1] is AttemptStatus.UNRESPONSIVE:
        assert again is within
    elif ends[-1] not in rules.statuses:
        assert not again
