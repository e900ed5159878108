"""The runner: every attempt ends once, in the store, and as what it was."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import Printed
from al_ray.actors.runner.actor import Runner
from al_ray.actors.runner.failure import failed
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.actors.runner.user_code import UserCode
from al_ray.errors import AttemptEndedError, RecipeError, RewardError, ToldError
from al_ray.recipe import AgentSection
from al_ray.traces import semconv
from al_ray.types import Attempt, AttemptStatus, Endpoint, RolloutRequest, RolloutStatus, Span, SpanKind, Task
from tests.support.agents.told import NUMBERS, STRANGE
from tests.support.houses.beside_the_store import append, authorize, finished
from tests.support.houses.runner import CONCURRENCY, House, appears, house_of, until


@pytest.fixture(scope="module")
def house(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from house_of(tmp_path_factory.mktemp("runner"), run="tests.support.agents.told:act")


@pytest.fixture(scope="module")
def judged(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from house_of(
        tmp_path_factory.mktemp("judged"),
        run="tests.support.agents.told:answer_and_spoil",
        evaluate="tests.support.agents.told:judge",
    )


async def test_a_runners_process_holds_the_agent_and_not_what_other_parts_are_made_of(house: House) -> None:
    """Each has a handle of the store, for which Ray imports what that is."""
    await house.rollout({"do": "give", "value": 1.0})
    loaded = set(await house.runner.__ray_call__.remote(lambda _: list(sys.modules)))
    assert "tests.support.agents.told" in loaded
    assert not loaded & {"sqlalchemy", "aiohttp", "torch", "transformers", "vllm"}


@pytest.mark.parametrize(
    ("value", "dimensions"),
    [
        (0.25, {"reward": 0.25}),
        (1, {"reward": 1.0}),
        (True, {"reward": 1.0}),
        ({"reward": -1.5, "format": 1}, {"reward": -1.5, "format": 1.0}),
    ],
)
async def test_what_the_agent_returns_is_the_reward(
    house: House, value: Any, dimensions: dict[str, float]
) -> None:
    rollout = await house.rollout({"do": "give", "value": value})
    (reward,) = rollout.spans
    assert rollout.status is RolloutStatus.SUCCEEDED
    assert reward.attributes[semconv.REWARD] == dimensions["reward"]
    assert reward.attributes[semconv.REWARD_DIMENSIONS] == dimensions
    (attempt,) = rollout.attempts
    assert (attempt.status, attempt.output, attempt.error) == (AttemptStatus.SUCCEEDED, value, None)
    assert attempt.ended_at is not None
    assert attempt.started_at <= attempt.ended_at


@pytest.mark.parametrize("value", STRANGE)
async def test_what_is_no_finite_number_or_a_huge_one_is_no_reward(house: House, value: str) -> None:
    rollout = await house.rollout({"do": "give_something_strange", "value": value})
    assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    error = rollout.attempts[-1].error or ""
    assert "a finite number" in error or "name it in plain text" in error
    assert "told:act" in error


@pytest.mark.parametrize("value", NUMBERS)
async def test_what_is_a_number_elsewhere_is_a_reward(house: House, value: str) -> None:
    rollout = await house.rollout({"do": "give_a_number", "value": value})
    (reward,) = rollout.spans
    assert reward.attributes[semconv.REWARD] == 1.0
    assert set(reward.attributes[semconv.REWARD_DIMENSIONS].values()) == {1.0}


async def test_an_agent_that_raises_fails_with_its_traceback_and_is_tried_again(house: House) -> None:
    """As often as it may, each time with a key of its own, and never with a reward."""
    rollout = await house.rollout({"do": "fail"}, max_attempts=3)
    assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.FAILED] * 3
    assert len({attempt.key for attempt in rollout.attempts}) == 3
    error = rollout.attempts[0].error or ""
    assert "in _fail" in error
    assert "ValueError: a mistake of the agent \\ud800\\x00" in error


@pytest.mark.parametrize(
    ("do", "says"),
    [
        ("exit", "SystemExit: 3"),
        ("raise_cancelled", "CancelledError"),
        ("raise_timeout", "the agent's own"),
        ("panic", "tests.support.agents.told.Panic"),
        ("stop_iteration", "StopIteration"),
        ("leave_the_generator", "GeneratorExit"),
        ("fail_at_length", "bytes left out"),
        ("fail_by_a_class_of_no_name", "ud800"),
        ("give_a_generator", "a finite number"),
        ("give_what_cannot_be_printed", "Panic"),
        ("give_much", "bytes of JSON; 16777216 are allowed"),
    ],
)
async def test_an_agent_that_tries_to_end_more_than_itself_only_fails(
    house: House, do: str, says: str
) -> None:
    failed, other = await house.rollouts({"do": do}, {"do": "take_a_while"})
    assert failed.attempts[0].status is AttemptStatus.FAILED
    assert says in (failed.attempts[0].error or "")
    assert len(failed.attempts[0].error or "") < 2**17
    assert other.status is RolloutStatus.SUCCEEDED


async def test_a_thread_of_an_agents_own_that_exits_ends_itself_alone(house: House) -> None:
    rollout = await house.rollout({"do": "exit_in_a_thread"})
    assert rollout.status is RolloutStatus.SUCCEEDED


async def test_a_time_out_ends_the_agent_and_its_key(house: House, tmp_path: Path) -> None:
    rollout = await house.rollout({"do": "sleep", "mark": str(tmp_path / "cancelled")})
    (attempt,) = rollout.attempts
    assert (rollout.status, attempt.status) == (RolloutStatus.FAILED, AttemptStatus.TIMED_OUT)
    assert list(rollout.spans) == []
    assert "1 s" in (attempt.error or "")
    with pytest.raises(AttemptEndedError, match="timed_out"):
        await authorize(house.store, attempt.key)
    await appears(tmp_path / "cancelled")


async def test_an_agent_that_ignores_its_cancellation_has_timed_out_all_the_same(house: House) -> None:
    rollout = await house.rollout({"do": "ignore_cancellation"}, max_attempts=2)
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.TIMED_OUT] * 2
    assert list(rollout.spans) == []


async def test_an_agent_that_fails_while_there_is_no_gateway_is_tried_again_when_there_is_one(
    ray_cluster: None, tmp_path: Path
) -> None:
    """Though it may be tried only once: the first failure is not its own, the second is."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        for house in house_of(tmp_path, url, run="tests.support.agents.told:act"):
            batch = await house.enqueue({"do": "fail", "mark": str(tmp_path / "failed")})
            await until((tmp_path / "failed").exists, 120)
            await asyncio.sleep(2)  # and nobody was found to listen
            bound.listen()
            (rollout,) = await house.ended(batch)
    assert [attempt.status for attempt in rollout.attempts] == [
        AttemptStatus.UNRESPONSIVE,
        AttemptStatus.FAILED,
    ]
    told = rollout.attempts[0].error or ""
    assert f"there was no gateway at {url}" in told
    assert "in _fail" in told


async def test_agents_run_at_once_but_no_more_than_may(house: House) -> None:
    rollouts = await house.rollouts(*[{"do": "take_a_while"}] * 10)
    spans = [rollout.spans[0].attributes[semconv.REWARD_DIMENSIONS] for rollout in rollouts]
    at_once = [sum(o["begun"] <= s["begun"] < o["ended"] for o in spans) for s in spans]
    assert max(at_once) == CONCURRENCY


async def test_hundreds_of_rollouts_wait_at_once_in_one_runner(ray_cluster: None, tmp_path: Path) -> None:
    """Each until all the others are there too."""
    houses = house_of(tmp_path, run="tests.support.agents.told:act", concurrency=400, timeout=60.0)
    house = next(houses)
    met = await house.rollouts(*[{"do": "meet", "place": "a", "count": 400}] * 400)
    assert {rollout.status for rollout in met} == {RolloutStatus.SUCCEEDED}
    assert all(len(rollout.attempts) == 1 for rollout in met)
    assert list(houses) == []


async def test_an_attempt_that_the_store_has_cancelled_ends_its_agent(house: House, tmp_path: Path) -> None:
    """With the next renewal of its lease, long before its time-out would."""
    marks = {"begun": str(tmp_path / "begun"), "mark": str(tmp_path / "cancelled")}
    await house.store.enqueue.remote([RolloutRequest("c", "c", "c", Task("t", {"do": "sleep", **marks}))])
    await appears(tmp_path / "begun")
    await house.store.cancel.remote("c")
    await appears(tmp_path / "cancelled")
    (group,) = await finished(house.store, "c", 0.0)
    assert group.rollouts[0].status is RolloutStatus.CANCELLED


async def test_an_agent_is_ended_to_the_last_though_its_attempt_is_cancelled_twice() -> None:
    """By the store, and by its time-out while it is ended."""
    waiting, ending, released, ended = (asyncio.Event() for _ in range(4))

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def end() -> None:
        ending.set()
        await released.wait()
        ended.set()

    async def start(job: Job) -> Any:
        return Mock(wait=wait, end=end, ended=True)

    runner = Runner(RunnerSpec("r", AgentSection(run="a:b"), [], "toy"), Mock())
    runner._agent = Mock(start=start)
    request = RolloutRequest("r", "g", "b", Task("t", {}))
    job = Job(request, Attempt("r", 1, "k"), Endpoint("http://gateway/v1", "k", "toy"), Printed())
    attempt = asyncio.create_task(runner._output(job))
    for moment in (waiting, ending):
        await moment.wait()
        attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    released.set()
    await until(ended.is_set)


async def test_an_evaluator_turns_the_output_into_rewards(judged: House) -> None:
    """Awaited if need be; it sees the task as it was, not as the agent has left it."""
    for later in (False, True):
        rollout = await judged.rollout({"answer": {"right": 0.75}, "later": later})
        (reward,) = rollout.spans
        assert reward.attributes[semconv.REWARD] == 0.5
        assert reward.attributes[semconv.REWARD_DIMENSIONS] == {"reward": 0.5, "answered": 1.0, "right": 0.75}
        (attempt,) = rollout.attempts
        assert attempt.output == ["http://gateway/v1", attempt.key, "toy"]


async def test_an_evaluator_that_raises_fails_the_attempt_and_the_output_is_kept(judged: House) -> None:
    rollout = await judged.rollout({"answer": {}, "raise": True}, max_attempts=2)
    assert [attempt.status for attempt in rollout.attempts] == [AttemptStatus.FAILED] * 2
    assert "LookupError: a mistake of the evaluator" in (rollout.attempts[0].error or "")
    assert rollout.attempts[0].output[2] == "toy"
    assert list(rollout.spans) == []
    panicked = await judged.rollout({"answer": {}, "panic": True})
    assert panicked.attempts[0].error_class == "tests.support.agents.told.Panic"


async def test_an_output_that_is_no_json_is_kept_as_it_prints(judged: House) -> None:
    rollout = await judged.rollout({"answer": {"right": 1}, "unstorable": True})
    assert rollout.status is RolloutStatus.SUCCEEDED
    assert rollout.attempts[0].output.startswith("<object object")


async def test_an_agent_that_is_not_async_fails_with_the_reason(ray_cluster: None, tmp_path: Path) -> None:
    houses = house_of(tmp_path, run="tests.support.agents.told:plain")
    rollout = await next(houses).rollout({})
    assert rollout.status is RolloutStatus.FAILED
    assert "told:plain is not async: it returned 1.0" in (rollout.attempts[0].error or "")
    assert list(houses) == []


BARE_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then echo one; exit; fi
echo "$PIP_INDEX_URL $UV_DEFAULT_INDEX" > {seen}
exit 1
"""


def test_an_agents_packages_are_installed_with_the_installers_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a runner that is the first on its node: then they are among what the agent does not find."""
    python, seen = tmp_path / "python", tmp_path / "seen"
    python.write_text(BARE_PYTHON.format(seen=seen))
    python.chmod(0o755)
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without uv
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.corp/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.corp/uv")
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    agent = AgentSection(run="a:b", isolation="process", python=str(python), requirements=["absent"])
    surroundings = dict(os.environ)
    try:
        with pytest.raises(RecipeError, match=r"agent\.python"):
            Runner(RunnerSpec("r", agent, [], "toy"), Mock())._prepare()
    finally:
        os.environ.clear()
        os.environ.update(surroundings)
    assert seen.read_text().split() == ["https://mirror.corp/simple", "https://mirror.corp/uv"]


async def test_prints_and_logs_of_agents_that_run_at_once_are_told_apart(house: House) -> None:
    """Also those of an agent's own tasks and of ``asyncio.to_thread``."""
    rollouts = await house.rollouts(*[{"do": "print", "word": word} for word in "ab"])
    for word, rollout in zip("ab", rollouts, strict=True):
        (output,) = (span for span in rollout.spans if span.kind is SpanKind.EVENT)
        assert output.name == semconv.AGENT_OUTPUT
        assert output.attributes[semconv.STDOUT] == f"{word}\n{word}\n{word}\n{word} in a thread\n"
        assert output.attributes[semconv.STDERR] == f"{word}\n"


async def test_the_class_of_what_ended_an_attempt_is_told_to_the_store() -> None:
    """Qualified, as a recipe names classes."""
    for error, name in (
        (ValueError("x"), "builtins.ValueError"),
        (RewardError("x"), "al_ray.errors.RewardError"),
        (ToldError("Traceback", "openai.RateLimitError"), "openai.RateLimitError"),
    ):
        assert failed(Attempt("r", 1, "k"), error).error_class == name


async def test_an_agent_that_posted_its_reward_need_not_return_one(house: House, tmp_path: Path) -> None:
    """What it returns comes on top of what it posted."""
    for value, rewards in ((None, [0.5]), (0.25, [0.5, 0.25])):
        mark = tmp_path / f"mark {value}"
        batch = await house.enqueue({"do": "wait_for", "mark": str(mark), "value": value})
        await post_reward(house, f"{batch}/0", 0.5)
        mark.touch()
        (rollout,) = await house.ended(batch)
        assert rollout.status is RolloutStatus.SUCCEEDED
        assert [span.attributes[semconv.REWARD] for span in rollout.spans] == rewards


async def post_reward(house: House, rollout_id: str, value: float) -> None:
    """As soon as there is an attempt to be rewarded."""
    span = Span(uuid.uuid4().hex, rollout_id, 1, SpanKind.REWARD, "posted", 0.0, 0.0, {semconv.REWARD: value})
    async with asyncio.timeout(60):
        while (await append(house.store, [span]))[0] is not None:
            await asyncio.sleep(0.02)


async def test_an_agent_that_gives_no_reward_at_all_has_failed_with_the_cure(house: House) -> None:
    rollout = await house.rollout({"do": "give", "value": None})
    assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    assert "returned no reward and posted none; return a finite number" in (rollout.attempts[0].error or "")


async def test_hooks_are_called_around_every_attempt_and_their_failure_is_its_failure(
    ray_cluster: None, tmp_path: Path
) -> None:
    hooks = {"before": "tests.support.agents.told:before", "after": "tests.support.agents.told:after"}
    houses = house_of(tmp_path, run="tests.support.agents.told:act", **hooks)
    house = next(houses)
    tasks: list[dict[str, Any]] = [
        {"do": "give", "value": 1.0},
        {"do": "give", "value": 1.0, "before": "fail"},
        {"do": "give", "value": 1.0, "after": "fail"},
        {"do": "fail", "after": "fail"},
        {"do": "sleep", "mark": str(tmp_path / "mark")},
        {"do": "give", "value": 1.0, "before": "stop"},
        {"do": "give", "value": 1.0, "after": "exit"},
        {"do": "give", "value": 1.0, "after": "panic"},
    ]
    named = [task | {"notes": str(tmp_path / f"notes {i}")} for i, task in enumerate(tasks)]
    good, unprepared, undone, worse, late, stopped, *ending = await house.rollouts(*named)
    notes = [(tmp_path / f"notes {i}").read_text().splitlines() for i in range(5)]
    assert [lines[-1] for lines in notes] == [
        "after 1 succeeded",
        "after 1 failed",
        "after 1 succeeded",
        "after 1 failed",
        "after 1 timed_out",
    ]
    assert [lines[0] for lines in notes if len(lines) > 1] == ["before 1 preparing"] * 4
    assert good.status is RolloutStatus.SUCCEEDED
    for rollout in (unprepared, undone, worse):
        assert (rollout.status, list(rollout.spans)) == (RolloutStatus.FAILED, [])
    assert "LookupError: a mistake before" in (unprepared.attempts[0].error or "")
    blamed = [sorted(r.attempts[0].error_names) for r in (unprepared, undone)]
    assert blamed == [
        ["LookupError", "agent.before", "builtins.LookupError"],
        ["LookupError", "agent.after", "builtins.LookupError"],
    ]
    assert not {"agent.before", "agent.after"} & worse.attempts[0].error_names
    told = worse.attempts[0].error or ""
    assert told.index("a mistake of the agent") < told.index("a mistake after")
    assert late.attempts[0].status is AttemptStatus.TIMED_OUT
    assert "StopIteration" in (stopped.attempts[0].error or "")
    for rollout, says in zip(ending, ("SystemExit", "Panic"), strict=True):
        assert rollout.attempts[0].status is AttemptStatus.FAILED
        assert says in (rollout.attempts[0].error or "")
    assert list(houses) == []


async def test_hooks_that_hang_time_out_however_many_there_are(ray_cluster: None, tmp_path: Path) -> None:
    """More than there are threads that asyncio shares out; who comes after them has its time, too."""
    many = min(32, (os.cpu_count() or 1) + 4) + 1
    hook = "tests.support.agents.told:before"
    notes = {"notes": str(tmp_path / "notes"), "mark": str(tmp_path / "mark")}
    houses = house_of(tmp_path, run="tests.support.agents.told:act", before=hook, concurrency=many)
    house = next(houses)
    async with asyncio.timeout(60):
        hung = await house.rollouts(*[{"do": "give", "value": 1.0, "before": "hang"}] * many)
        late = await house.rollout({"do": "sleep", **notes})
    assert {each.attempts[0].status for each in (*hung, late)} == {AttemptStatus.TIMED_OUT}
    assert list(houses) == []


async def test_what_hangs_of_the_users_counts_until_it_ends() -> None:
    """A runner gives itself up when it has too much of that."""
    released, code = threading.Event(), UserCode(grace=1.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await code.called(released.wait, Printed())
    assert code.still_there() == 1
    released.set()
    await until(lambda: code.still_there() == 0)
