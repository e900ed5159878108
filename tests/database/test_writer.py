"""What the database promises whatever is asked of it, in any order and as often as one likes."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import DBAPIError, StatementError

from al_ray.database.backends import open_sqlite, postgresql_url, sqlite_url
from al_ray.database.judged import judge_batch
from al_ray.database.query import Condition, Query
from al_ray.database.retry import LOST_LIMIT
from al_ray.database.schema import meta, rollouts
from al_ray.database.writer import Ask, Database
from al_ray.errors import AttemptEndedError, StoreError, UserError
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Claim,
    Mode,
    Replay,
    Resource,
    RetryRules,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Start,
    Task,
    Worker,
    WorkerStatus,
)

ENDINGS = (AttemptStatus.SUCCEEDED, AttemptStatus.FAILED, AttemptStatus.TIMED_OUT)


def request(rollout_id: str, *, batch: str = "b", group: str = "g", max_attempts: int = 1) -> RolloutRequest:
    return RolloutRequest(rollout_id, batch, group, Task("t", {"q": 1}), retry=RetryRules(max_attempts))


def span(name: str, attempt: Attempt, kind: SpanKind = SpanKind.CALL) -> Span:
    return Span(name, attempt.rollout_id, attempt.number, kind, "n", 1.0, 2.0, {"ids": [1, 2], "p": -0.1})


def ended(attempt: Attempt, status: AttemptStatus) -> Attempt:
    return Attempt(
        attempt.rollout_id, attempt.number, attempt.key, status, ended_at=9.0, error="e", output=[1]
    )


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = Database(store_url)
    yield database
    database.close()


def enqueue(database: Database, *requests: RolloutRequest) -> None:
    with database.begin() as connection:
        database.enqueue(connection, requests)


def claim(database: Database, claim_id: str, limit: int = 1, worker: str = "w") -> list[Claim]:
    with database.begin() as connection:
        (claims,) = database.claim(connection, [Ask(worker, claim_id, limit)], 5.0, 30.0, 35.0)
    return claims


def append(database: Database, *spans: Span) -> None:
    with database.begin() as connection:
        (refused,) = database.append(connection, [spans])
    if refused is not None:
        raise refused


def finish(database: Database, attempt: Attempt, status: AttemptStatus, *spans: Span) -> bool:
    with database.begin() as connection:
        (outcome,) = database.finish(connection, [(ended(attempt, status), spans)])
    return outcome


def status_of(database: Database, rollout_id: str) -> RolloutStatus:
    rollout = database.rollout(rollout_id)
    assert rollout is not None
    return rollout.status


@dataclass
class ModelRollout:
    """What a rollout should be, told without SQL."""

    max_attempts: int
    status: RolloutStatus = RolloutStatus.QUEUED
    ends: list[AttemptStatus] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    spans: list[list[str]] = field(default_factory=list)

    def end(self, status: AttemptStatus) -> None:
        self.ends[-1] = status
        lost = self.ends.count(AttemptStatus.UNRESPONSIVE)
        tried = len(self.ends) - lost - self.ends.count(AttemptStatus.CANCELLED)
        if status is AttemptStatus.SUCCEEDED:
            self.status = RolloutStatus.SUCCEEDED
        elif lost >= LOST_LIMIT or tried >= self.max_attempts:
            self.status = RolloutStatus.FAILED
        else:
            self.status = RolloutStatus.QUEUED


class DatabaseMachine(RuleBasedStateMachine):
    """Any interleaving of writes, each of them perhaps repeated, against ``ModelRollout``."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.database = Database(url)
        self.model: dict[str, ModelRollout] = {}
        self.withdrawn: dict[str, ModelRollout] = {}
        self.claims = 0
        self.last_claim = ("w0", "none", 1)
        self.given: set[str] = set()

    def teardown(self) -> None:
        self.database.close()

    def some_attempt(self, data: st.DataObject) -> tuple[ModelRollout, Attempt]:
        tried = [rollout for rollout in self.all() if rollout.attempts]
        rollout = data.draw(st.sampled_from(tried))
        return rollout, data.draw(st.sampled_from(rollout.attempts))

    def all(self) -> list[ModelRollout]:
        return [*self.model.values(), *self.withdrawn.values()]

    def running(self, rollout: ModelRollout, attempt: Attempt) -> bool:
        return not rollout.ends[attempt.number - 1].ended

    @rule(ids=st.lists(st.sampled_from("abcdef"), max_size=4), max_attempts=st.integers(1, 3))
    def enqueue(self, ids: list[str], max_attempts: int) -> None:
        enqueue(self.database, *(request(name, max_attempts=max_attempts) for name in ids))
        for name in ids:
            if again := self.withdrawn.pop(name, None):
                self.model[name] = replace(again, max_attempts=max_attempts, status=RolloutStatus.QUEUED)
            self.model.setdefault(name, ModelRollout(max_attempts))

    @rule(worker=st.sampled_from(["w0", "w1"]), limit=st.integers(1, 3))
    def claim(self, worker: str, limit: int) -> None:
        self.claims += 1
        self.last_claim = (worker, f"claim {self.claims}", limit)
        claims = claim(self.database, f"claim {self.claims}", limit, worker)
        queued = [name for name, rollout in self.model.items() if rollout.status is RolloutStatus.QUEUED]
        assert [made.request.id for made in claims] == queued[:limit]
        self.expect_running(claims)

    @precondition(lambda self: self.claims)
    @rule()
    def repeat_claim(self) -> None:
        """It gives what it gave, less what has ended; where it gave nothing it is as good as new."""
        worker, claim_id, limit = self.last_claim
        gave = [
            attempt
            for rollout in self.model.values()
            for attempt in rollout.attempts
            if attempt.key in self.given
        ]
        again = claim(self.database, claim_id, limit, worker)
        if gave:
            held = [a for a in gave if self.running(self.model[a.rollout_id], a)]
            assert [made.attempt for made in again] == held
        else:
            self.expect_running(again)

    def expect_running(self, claims: list[Claim]) -> None:
        self.given = {made.attempt.key for made in claims}
        for made in claims:
            rollout = self.model[made.request.id]
            rollout.status = RolloutStatus.RUNNING
            rollout.ends.append(AttemptStatus.PREPARING)
            rollout.attempts.append(made.attempt)
            rollout.spans.append([])
            assert made.attempt.number == len(rollout.attempts)

    @precondition(lambda self: any(rollout.attempts for rollout in self.all()))
    @rule(data=st.data(), version=st.integers(1, 3))
    def start(self, data: st.DataObject, version: int) -> None:
        rollout, attempt = self.some_attempt(data)
        live = self.running(rollout, attempt)
        with self.database.begin() as connection:
            starts = [Start(attempt.rollout_id, attempt.number, {"prompt": version})] * 2
            assert self.database.start(connection, starts) == [live, live]
        if live:
            rollout.ends[attempt.number - 1] = AttemptStatus.RUNNING
            started = replace(attempt, status=AttemptStatus.RUNNING, resources={"prompt": version})
            rollout.attempts[attempt.number - 1] = started

    @precondition(lambda self: any(rollout.attempts for rollout in self.all()))
    @rule(data=st.data(), names=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    def append(self, data: st.DataObject, names: list[int]) -> None:
        rollout, attempt = self.some_attempt(data)
        recorded = rollout.spans[attempt.number - 1]
        ids = [f"{attempt.rollout_id}/{attempt.number}/{name}" for name in names]
        new = [name for name in ids if name not in recorded]
        if new and not self.running(rollout, attempt):
            with pytest.raises(AttemptEndedError):
                append(self.database, *(span(name, attempt) for name in ids))
        else:
            append(self.database, *(span(name, attempt) for name in ids))
            recorded += new

    @precondition(lambda self: any(rollout.attempts for rollout in self.all()))
    @rule(data=st.data(), status=st.sampled_from(ENDINGS))
    def finish(self, data: st.DataObject, status: AttemptStatus) -> None:
        rollout, attempt = self.some_attempt(data)
        reward = span(f"reward {attempt.key}", attempt, SpanKind.REWARD)
        was_running = self.running(rollout, attempt)
        assert finish(self.database, attempt, status, reward) is was_running
        if was_running:
            rollout.spans[attempt.number - 1].append(reward.id)
            rollout.end(status)

    @rule(worker=st.sampled_from(["w0", "w1"]))
    def lose(self, worker: str) -> None:
        with self.database.begin() as connection:
            lost = self.database.lose(connection, 6.0, worker)
        mine = {
            (attempt.rollout_id, attempt.number)
            for rollout in self.model.values()
            for attempt in rollout.attempts
            if attempt.worker == worker and self.running(rollout, attempt)
        }
        assert set(lost) == mine
        for rollout_id, _ in lost:
            self.model[rollout_id].end(AttemptStatus.UNRESPONSIVE)

    @rule()
    def lose_all(self) -> None:
        """Their run had ended, for which they are not to blame."""
        with self.database.begin() as connection:
            lost = self.database.lose_all(connection, 6.0)
        running = [rollout for rollout in self.model.values() if rollout.status is RolloutStatus.RUNNING]
        assert sorted(lost) == sorted((r.attempts[-1].rollout_id, r.attempts[-1].number) for r in running)
        for rollout in running:
            rollout.status = RolloutStatus.QUEUED
            rollout.ends[-1] = AttemptStatus.CANCELLED

    @rule()
    def cancel(self) -> None:
        with self.database.begin() as connection:
            self.database.cancel_batch(connection, "b", 7.0)
        for rollout in self.model.values():
            if not rollout.status.ended:
                rollout.status = RolloutStatus.CANCELLED
                rollout.ends = [end if end.ended else AttemptStatus.CANCELLED for end in rollout.ends]

    @rule(batch=st.sampled_from("abc"))
    def withdraw(self, batch: str) -> None:
        """As if what has not ended had not been asked for, but attempts of then stay ended."""
        with self.database.begin() as connection:
            self.database.withdraw(connection, "", batch, 7.0)
        for name, rollout in list(self.model.items()):
            if batch <= "b" and not rollout.status.ended:
                rollout.ends = [end if end.ended else AttemptStatus.CANCELLED for end in rollout.ends]
                self.withdrawn[name] = self.model.pop(name)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.database = Database(self.url)

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        rollouts = self.database.find_rollouts(Query()).items
        assert [rollout.id for rollout in rollouts] == list(self.model)
        for rollout in rollouts:
            model = self.model[rollout.id]
            assert rollout.status is model.status
            assert [attempt.status for attempt in rollout.attempts] == model.ends
            assert sum(not end.ended for end in model.ends) == (rollout.status is RolloutStatus.RUNNING)
            whole = self.database.rollout(rollout.id)
            assert whole is not None
            assert [s.id for s in whole.spans] == (model.spans[-1] if model.spans else [])
            order = [s.sequence for s in whole.spans]
            assert order == sorted(set(order)), "it rises with each"
            claims = self.database.authorize([attempt.key for attempt in model.attempts])
            for attempt, claim in zip(model.attempts, claims, strict=True):
                if self.running(model, attempt):
                    assert isinstance(claim, Claim)
                    assert claim.attempt == attempt
                else:
                    assert isinstance(claim, AttemptEndedError)


def test_any_interleaving_of_writes_gives_what_the_model_says(new_store_url: Callable[[], str]) -> None:
    limits = settings(max_examples=15, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: DatabaseMachine(new_store_url()), settings=limits)


@pytest.mark.parametrize("ending", [AttemptStatus.FAILED, AttemptStatus.TIMED_OUT])
def test_a_rollout_is_tried_max_attempts_times_each_with_a_fresh_attempt(
    database: Database, ending: AttemptStatus
) -> None:
    enqueue(database, request("r", max_attempts=3))
    seen = []
    for number in range(3):
        (made,) = claim(database, f"c{number}")
        append(database, span(f"s{number}", made.attempt))
        seen.append(made.attempt)
        assert finish(database, made.attempt, ending)
    assert claim(database, "c3") == []
    assert status_of(database, "r") is RolloutStatus.FAILED
    assert [attempt.number for attempt in seen] == [1, 2, 3]
    assert len({attempt.key for attempt in seen}) == 3
    (rollout,) = [database.rollout("r")]
    assert rollout is not None
    assert [s.id for s in rollout.spans] == ["s2"], "only the last attempt's spans count"


def test_the_rollouts_own_rules_decide_whether_it_is_tried_again(database: Database) -> None:
    """In the transaction that ends the attempt: by status, and by the class of the error."""
    rules = RetryRules(2, (AttemptStatus.FAILED,), errors=("openai.APIError",))
    task = Task("t", {})
    ends = {
        "again": (AttemptStatus.FAILED, "openai.APIError"),
        "error": (AttemptStatus.FAILED, "builtins.ValueError"),
        "status": (AttemptStatus.TIMED_OUT, None),
    }
    enqueue(database, *(RolloutRequest(name, "b", "g", task, retry=rules) for name in ends))
    for made in claim(database, "c", limit=3):
        status, error = ends[made.request.id]
        end = replace(made.attempt, status=status, error_class=error)
        with database.begin() as connection:
            assert database.finish(connection, [(end, ())]) == [True]
    statuses = {rollout.id: rollout.status for rollout in database.find_rollouts(Query()).items}
    assert statuses == {
        "again": RolloutStatus.QUEUED,
        "error": RolloutStatus.FAILED,
        "status": RolloutStatus.FAILED,
    }


def test_lost_attempts_do_not_count_as_tries_but_are_limited(database: Database) -> None:
    enqueue(database, request("r", max_attempts=1))
    for number in range(LOST_LIMIT):
        assert status_of(database, "r") is RolloutStatus.QUEUED
        assert claim(database, f"c{number}")
        with database.begin() as connection:
            assert database.lose(connection, 6.0, "w") == [("r", number + 1)]
    assert status_of(database, "r") is RolloutStatus.FAILED


def test_a_run_may_be_interrupted_as_often_as_anybody_likes(database: Database) -> None:
    """What agents were about then is no failure of theirs: it is run again."""
    enqueue(database, request("r", max_attempts=1))
    for number in range(LOST_LIMIT + 1):
        assert claim(database, f"c{number}")
        with database.begin() as connection:
            assert database.lose_all(connection, 6.0) == [("r", number + 1)]
        assert status_of(database, "r") is RolloutStatus.QUEUED
    (last,) = claim(database, "last")
    assert finish(database, last.attempt, AttemptStatus.FAILED)
    assert status_of(database, "r") is RolloutStatus.FAILED


def test_a_lease_that_is_renewed_does_not_run_out(database: Database) -> None:
    enqueue(database, request("a"), request("b"))
    claim(database, "c1", worker="w1")
    claim(database, "c2", worker="w2")
    with database.begin() as connection:
        assert database.renew(connection, "w1", 100.0) == [("a", 1)]
        assert database.expire(connection, 50.0, lease_clock=50.0) == [("b", 1)]
        assert database.expire(connection, 101.0, lease_clock=101.0) == [("a", 1)]
        assert database.renew(connection, "w1", 200.0) == []


def test_a_claim_that_is_repeated_gives_a_lease_that_begins_anew(database: Database) -> None:
    """As it tells: the store that gave the first may have died before its answer came."""
    enqueue(database, request("a"))
    with database.begin() as connection:
        database.claim(connection, [Ask("w", "c", 1)], 0.0, 30.0, 30.0)
        ((again,),) = database.claim(connection, [Ask("w", "c", 1)], 40.0, 30.0, 70.0)
        assert (again.attempt.number, again.lease_seconds) == (1, 30.0)
        assert database.expire(connection, 69.0, lease_clock=69.0) == []
        assert database.expire(connection, 71.0, lease_clock=71.0) == [("a", 1)]


def test_no_lease_outlives_the_limit(database: Database) -> None:
    """As one would that was written while the clock went ahead."""
    enqueue(database, request("a"), request("b"))
    claim(database, "c1", worker="w1")
    claim(database, "c2", worker="w2")
    with database.begin() as connection:
        database.renew(connection, "w1", 1e9)
        database.limit_leases(connection, 60.0)
        assert database.expire(connection, 50.0, lease_clock=50.0) == [("b", 1)]
        assert database.expire(connection, 61.0, lease_clock=61.0) == [("a", 1)]


def test_a_group_is_finished_when_its_last_rollout_is_and_brings_its_spans(database: Database) -> None:
    enqueue(database, request("a", group="x"), request("b", group="x"), request("c", group="y"))
    enqueue(database, request("d", group="x", batch="other"))
    (a,), (b,) = claim(database, "c1"), claim(database, "c2")
    finish(database, a.attempt, AttemptStatus.SUCCEEDED, span("reward", a.attempt, SpanKind.REWARD))
    assert database.finished_groups("b", ()) == []
    finish(database, b.attempt, AttemptStatus.FAILED)
    assert database.finished_groups("b", ()) == ["x"]
    (group,) = database.groups("b", ["x"])
    assert (group.id, group.batch) == ("x", "b")
    assert [(r.id, r.status, len(r.spans)) for r in group.rollouts] == [
        ("a", RolloutStatus.SUCCEEDED, 1),
        ("b", RolloutStatus.FAILED, 0),
    ]
    assert database.finished_groups("b", {"x"}) == []


def test_a_span_is_looked_for_by_any_text(database: Database) -> None:
    """Also by one that no database can hold."""
    enqueue(database, request("a"))
    (claimed,) = claim(database, "c")
    finish(database, claimed.attempt, AttemptStatus.SUCCEEDED, span("own", claimed.attempt))
    found = [database.attempt_spans("a", 1, name) for name in ("own", "other", "own\x00")]
    assert [[each.id for each in spans] for spans in found] == [["own"], [], []]


def test_a_judge_rewards_what_has_ended_once_and_only_what_it_was_asked_to_judge(database: Database) -> None:
    """Its rewards come with its own end, or not at all; nobody else may add to what has ended."""
    enqueue(database, request("r"), request("other", group="h"))
    judged, other = (each.attempt for each in claim(database, "a", 2))
    for attempt in (judged, other):
        finish(database, attempt, AttemptStatus.SUCCEEDED)
    enqueue(database, replace(request("g/judge", batch=judge_batch("b")), mode="judge"), request("agent"))
    agent, judge = (each.attempt for each in claim(database, "b", 2))
    reward = span("reward", judged, SpanKind.REWARD)
    for attempt, foreign in (
        (agent, reward),
        (judge, span("x", other, SpanKind.REWARD)),
        (judge, span("x", judged)),
    ):
        with pytest.raises(AttemptEndedError):
            finish(database, attempt, AttemptStatus.SUCCEEDED, foreign)
    assert finish(database, judge, AttemptStatus.SUCCEEDED, span("own", judge, SpanKind.EVENT), reward)
    assert not finish(database, judge, AttemptStatus.SUCCEEDED, span("late", judged, SpanKind.REWARD))
    (group,) = database.groups("b", ["g"])
    assert [each.id for each in group.rollouts[0].spans] == ["reward"]
    assert [each.id for each in database.attempt_spans("g/judge", 1)] == ["own"]


def test_what_was_asked_for_too_early_is_withdrawn_and_asked_for_again(database: Database) -> None:
    """Of later batches and their judges, what has not ended; who still works on it is refused, and no attempt
    of before counts as a try."""
    batches = ("eval/step-000009", "step-000003", "step-000003-judged", "step-000004", "step-000004-judged")
    modes: dict[str, Mode] = {"eval/step-000009": "eval", "step-000003-judged": "judge"}
    modes["step-000004-judged"] = "judge"
    wanted = [replace(request(name, batch=name), mode=modes.get(name, "train")) for name in batches]
    wanted.append(request("done", batch="step-000004"))
    enqueue(database, *reversed(wanted))
    (done, *others) = (made.attempt for made in claim(database, "c", limit=9)[3:4])
    assert done.rollout_id == "done" and not others
    finish(database, done, AttemptStatus.SUCCEEDED)
    early = {a.rollout_id: a for a in database.find_attempts(Query()).items}["step-000004"]
    with database.begin() as connection:
        database.withdraw(connection, "step-", "step-000004", 7.0)
        database.withdraw(connection, "step-", "step-000004", 7.0)
        database.withdraw(connection, "eval/", "eval/step-000010", 7.0)
    kept = {"eval/step-000009", "step-000003", "step-000003-judged", "done"}
    assert set(database.rollout_ids()) == kept
    assert not finish(database, early, AttemptStatus.SUCCEEDED)
    with pytest.raises(AttemptEndedError):
        append(database, span("late", early))
    enqueue(database, *wanted)
    again = {made.request.id: made.attempt for made in claim(database, "again", limit=9)}
    assert {name: attempt.number for name, attempt in again.items()} == {
        "step-000004": 2,
        "step-000004-judged": 2,
    }
    assert not finish(database, early, AttemptStatus.SUCCEEDED)
    finish(database, again["step-000004"], AttemptStatus.SUCCEEDED, span("own", again["step-000004"]))
    (group,) = database.groups("step-000004", ["g"])
    assert {each.id: [s.id for s in each.spans] for each in group.rollouts} == {
        "done": [],
        "step-000004": ["own"],
    }


def test_what_an_earlier_step_waits_for_is_given_first(database: Database) -> None:
    """Though later steps asked before: its judges, its refills; and an evaluation before all."""
    order = ["eval/step-000003", "step-000003", "step-000003-judged", "step-000003-refill-1", "step-000004"]
    enqueue(database, *(request(name, batch=name) for name in reversed(order)))
    assert [made.request.id for made in claim(database, "c", limit=9)] == order


def test_cancelled_rollouts_end_with_their_attempts_and_others_go_on(database: Database) -> None:
    enqueue(database, *(request(name) for name in ("done", "running", "queued", "other")))
    done, running, *_ = claim(database, "c", limit=2)
    finish(database, done.attempt, AttemptStatus.SUCCEEDED)
    with database.begin() as connection:
        database.cancel(connection, ["done", "running", "queued", "unknown"], 7.0)
    assert [rollout.status for rollout in database.find_rollouts(Query()).items] == [
        RolloutStatus.SUCCEEDED,
        RolloutStatus.CANCELLED,
        RolloutStatus.CANCELLED,
        RolloutStatus.QUEUED,
    ]
    cancelled, unknown = database.authorize([running.attempt.key, "no key"])
    assert "has ended: cancelled" in str(cancelled)
    assert "none of ours" in str(unknown)
    assert finish(database, running.attempt, AttemptStatus.SUCCEEDED) is False
    assert [claimed.request.id for claimed in claim(database, "later", limit=9)] == ["other"]


def test_a_resource_has_a_version_for_each_content_and_none_changes(database: Database) -> None:
    def put(name: str, content: object, now: float) -> Resource:
        with database.begin() as connection:
            return database.put_resource(connection, name, "prompt", content, now)

    first, second = put("p", {"text": "a"}, 1.0), put("p", {"text": "b"}, 2.0)
    assert (first.version, second.version) == (1, 2)
    assert put("p", {"text": "a"}, 3.0) == first, "what is repeated changes nothing"
    other = put("q", {"text": "a"}, 4.0)
    assert other == Resource("q", 1, "prompt", {"text": "a"}, 4.0)
    assert database.resource("p") == second
    assert database.resource("p", 1) == first
    assert database.resource("p", 3) is None
    assert database.resource("none") is None
    assert database.resources() == [first, second, other]
    assert database.resources("p") == [first, second]


def test_workers_are_listed_as_they_were_last_heard_of(database: Database) -> None:
    for now, seen in ((1.0, "ab"), (2.0, "b"), (3.0, "")):
        with database.begin() as connection:
            database.see(connection, [Worker(name, "runner", WorkerStatus.BUSY, now) for name in seen])
    assert [(worker.name, worker.seen_at) for worker in database.workers()] == [("a", 1.0), ("b", 2.0)]


def test_more_at_once_than_a_database_takes_in_one_question(database: Database) -> None:
    many = 1200
    enqueue(database, *(request(f"r{index}") for index in range(many)))
    claims = claim(database, "c", limit=many)
    with database.begin() as connection:
        ends = [
            (ended(made.attempt, AttemptStatus.SUCCEEDED), [span(made.request.id, made.attempt)])
            for made in claims
        ]
        assert database.finish(connection, ends) == [True] * many
    assert {len(rollout.spans) for rollout in database.find_rollouts(Query(), list(SpanKind)).items} == {1}


def test_what_is_written_is_read_as_it_was(database: Database) -> None:
    """Requests, attempts and spans come back equal, numbers and all."""
    wanted = RolloutRequest(
        "r",
        "b",
        "g",
        Task("t", {"q": [1, 2.5, None, "\u00e9\u4e2d"]}, "test"),
        "eval",
        RetryRules(2, (AttemptStatus.FAILED,), ("a.B",), ("C",)),
        Replay("another", 2, 3),
    )
    enqueue(database, wanted)
    (made,) = claim(database, "c")
    assert made.request == wanted
    exact = Span(
        "s", "r", 1, SpanKind.EVENT, "tool", 1.25, 2.5, {"x": -0.30000000000000004, "y": {"z": [True]}}, 1
    )
    append(database, exact)
    finish(database, made.attempt, AttemptStatus.FAILED)
    rollout = database.rollout("r")
    assert rollout is not None
    assert rollout.request == wanted
    assert rollout.spans == [exact]
    (attempt,) = rollout.attempts
    assert (attempt.error, attempt.output, attempt.started_at, attempt.ended_at) == ("e", [1], 5.0, 9.0)


def test_rollouts_are_listed_by_batch_prefix_and_status(database: Database) -> None:
    def ids(*where: Condition) -> list[str]:
        return [rollout.id for rollout in database.find_rollouts(Query(where)).items]

    enqueue(
        database, request("a", batch="eval/1"), request("b", batch="eval_1"), request("c", batch="eval/2")
    )
    assert ids(Condition("batch", "prefix", "eval/")) == ["a", "c"]
    assert ids(Condition("batch", "prefix", "eval_")) == ["b"], "an underscore is no wildcard"
    claim(database, "c1")
    assert ids(Condition("batch", "prefix", "eval/"), Condition("status", "=", "queued")) == ["c"]


def test_a_write_that_raises_leaves_nothing_behind(database: Database) -> None:
    enqueue(database, request("r"))
    (made,) = claim(database, "c")
    with pytest.raises(StatementError), database.begin() as connection:
        database.append(connection, [[span("s", made.attempt)]])
        database.finish(connection, [(Attempt("r", 1, "", AttemptStatus.FAILED, output={1: object()}), ())])
    rollout = database.rollout("r")
    assert rollout is not None
    assert rollout.spans == ()
    assert rollout.status is RolloutStatus.RUNNING


def test_a_store_of_another_version_is_refused_with_the_cure(store_url: str) -> None:
    database = Database(store_url)
    with database.begin() as connection:
        connection.execute(meta.update().values(schema_version=1))
    database.close()
    with pytest.raises(UserError, match=r"store .*schema version 1.*use the al_ray that wrote it"):
        Database(store_url)


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (schema_version INTEGER NOT NULL)")
        connection.execute("INSERT INTO meta VALUES (999)")
    with pytest.raises(UserError, match="schema version 999"):
        Database(sqlite_url(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("meta",)]


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////no/such/folder/store"])
def test_a_database_that_is_not_there_is_the_users_problem(url: str) -> None:
    with pytest.raises(UserError, match="no database can be used there"):
        Database(url)


def test_a_damaged_file_is_the_users_problem(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"no store" * 1024)
    with pytest.raises(UserError, match="file is not a database': no database can be used there"):
        Database(sqlite_url(tmp_path / "store.sqlite"))


def test_the_password_of_a_database_is_not_told() -> None:
    with pytest.raises(UserError) as caught:
        Database("postgresql://somebody:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_a_read_of_several_questions_sees_one_moment(store_url: str) -> None:
    """What a writer commits between them belongs to the next."""
    database, writer = Database(store_url), Database(store_url)
    enqueue(writer, request("r"))
    with database._reading.connect() as connection:
        count = sa.select(sa.func.count()).select_from(rollouts)
        assert connection.scalar(count) == 1
        enqueue(writer, request("s"))
        assert connection.scalar(count) == 1
    assert len(database.find_rollouts(Query()).items) == 2
    database.close()
    writer.close()


def test_two_stores_on_one_database_write_one_after_the_other(store_url: str) -> None:
    """As when a store was killed whose last transaction its server has not ended yet."""
    old, new = Database(store_url), Database(store_url)
    enqueue(old, request("r"))
    claims: list[Claim] = []
    with old.begin() as connection:
        old.claim(connection, [Ask("w", "old", 1)], 5.0, 30.0, 35.0)
        waiting = threading.Thread(target=lambda: claims.extend(claim(new, "new")))
        waiting.start()
        time.sleep(0.3)
    waiting.join()
    assert claims == []
    old.close()
    new.close()


def test_a_writer_of_postgresql_that_falls_silent_holds_others_up_for_a_while_only(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose machine is lost amid a transaction; what it had not committed is undone."""
    monkeypatch.setattr("al_ray.database.backends._PG_SILENT_SECONDS", 1.0)
    url = postgresql_url(postgresql, "silent_writer")
    silent, other = Database(url), Database(url)
    with pytest.raises(DBAPIError), silent.begin() as connection:
        silent.enqueue(connection, [request("of the silent")])
        enqueue(other, request("of another"))
        silent.enqueue(connection, [request("too late")])
    assert other.rollout_ids() == ["of another"]
    enqueue(silent, request("later"))
    assert other.rollout_ids() == ["of another", "later"]
    silent.close()
    other.close()


def test_who_waits_in_vain_for_another_writer_is_told_so(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_ray.database.backends._PG_LOCK_SECONDS", 0.3)
    monkeypatch.setattr("al_ray.database.backends.open_sqlite", partial(open_sqlite, busy_seconds=0.3))
    busy, waiting = Database(store_url), Database(store_url)
    with busy.begin(), pytest.raises(StoreError, match=r"the store .* cannot be written: another process"):
        enqueue(waiting, request("a"))
    enqueue(waiting, request("a"))
    busy.close()
    waiting.close()
