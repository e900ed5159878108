"""Whether a rollout is tried again depends on how its attempts ended, and on its policy alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.database.retry import LOST_LIMIT, is_retried
from al_ray.types import Attempt, AttemptStatus, RetryPolicy

ERROR = "openai.APIConnectionError"
NAMES = [ERROR, "APIConnectionError", "openai.BadRequestError", "ConnectionError"]
ENDED = [status for status in AttemptStatus if status.ended and status is not AttemptStatus.SUCCEEDED]
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 4),
    statuses=st.lists(st.sampled_from(ENDED)).map(tuple),
    errors=st.none() | st.lists(st.sampled_from(NAMES)).map(tuple),
    never_errors=st.lists(st.sampled_from(NAMES)).map(tuple),
)


def failed(error_class: str | None = ERROR) -> Attempt:
    return Attempt("r", 1, "k", AttemptStatus.FAILED, error_class=error_class)


@pytest.mark.parametrize(
    ("policy", "again"),
    [
        (RetryPolicy(2), True),
        (RetryPolicy(1), False),
        (RetryPolicy(2, (AttemptStatus.TIMED_OUT,)), False),
        (RetryPolicy(2, errors=("openai.APIConnectionError",)), True),
        (RetryPolicy(2, errors=("APIConnectionError",)), True),
        (RetryPolicy(2, errors=("ConnectionError",)), False),
        (RetryPolicy(2, errors=()), False),
        (RetryPolicy(2, never_errors=("APIConnectionError",)), False),
        (RetryPolicy(2, never_errors=("openai.BadRequestError",)), True),
        (RetryPolicy(2, errors=(ERROR,), never_errors=(ERROR,)), False),
    ],
)
def test_a_failed_attempt_is_tried_again_as_the_policy_says(policy: RetryPolicy, again: bool) -> None:
    assert is_retried(policy, failed(), [AttemptStatus.FAILED]) is again


def test_a_failure_of_no_class_is_none_of_the_classes() -> None:
    assert is_retried(RetryPolicy(2, never_errors=NAMES), failed(None), [AttemptStatus.FAILED])
    assert not is_retried(RetryPolicy(2, errors=NAMES), failed(None), [AttemptStatus.FAILED])


@given(POLICIES, st.lists(st.sampled_from(ENDED), min_size=1), st.none() | st.sampled_from(NAMES))
def test_whatever_the_policy_no_limit_is_passed_and_lost_attempts_are_nobodys_failure(
    policy: RetryPolicy, ends: list[AttemptStatus], error_class: str | None
) -> None:
    last = Attempt("r", len(ends), "k", ends[-1], error_class=error_class)
    lost = ends.count(AttemptStatus.UNRESPONSIVE)
    again = is_retried(policy, last, ends)
    tried = len(ends) - lost - ends.count(AttemptStatus.CANCELLED)
    within = tried < policy.max_attempts and lost < LOST_LIMIT
    assert within or not again
    if ends[-1] is AttemptStatus.UNRESPONSIVE:
        assert again is within
    elif ends[-1] not in policy.statuses:
        assert not again
