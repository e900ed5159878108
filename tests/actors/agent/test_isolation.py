"""Agents in threads, in processes and as programs: what they give, and that they end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray

from al_ray.actors.agent import guarded_process
from al_ray.actors.agent.interpreter import interpreter
from al_ray.actors.agent.job import Job
from al_ray.actors.agent.printed import KeptText, Printed
from al_ray.actors.agent.sub_process import ProcessAgent
from al_ray.actors.runner.actor import Runner
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.errors import AttemptEndedError
from al_ray.recipe import AgentSection
from al_ray.traces import semconv
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Endpoint,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    SpanKind,
    Task,
)
from tests.actors.agent.test_interpreter import wheel
from tests.support.agents import wild
from tests.support.houses.beside_the_store import authorize
from tests.support.houses.runner import House, alive, house_of, until

TIMEOUT = 4.0
WILD = Path(wild.__file__)
PROGRAM = [sys.executable, str(WILD)]
CALLABLE = "tests.support.agents.wild:act"


@pytest.fixture(scope="module")
def thread(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("thread")
    yield from house_of(folder, isolation="thread", run=CALLABLE, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def process(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("process")
    yield from house_of(folder, isolation="process", run=CALLABLE, timeout=TIMEOUT, concurrency=6)


@pytest.fixture(scope="module")
def command(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("command")
    yield from house_of(folder, isolation="command", command=PROGRAM, timeout=TIMEOUT, concurrency=6)


@pytest.fixture(params=["process", "command"])
def apart(request: pytest.FixtureRequest) -> House:
    """Agents that are processes."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["thread", "process", "command"])
def any_house(request: pytest.FixtureRequest) -> House:
    return request.getfixturevalue(request.param)


def reward(rollout: Rollout) -> float:
    (span,) = (span for span in rollout.spans if span.kind is SpanKind.REWARD)
    return span.attributes[semconv.REWARD]


def printed(rollout: Rollout) -> dict[str, str]:
    (span,) = (span for span in rollout.spans if span.kind is SpanKind.EVENT)
    assert span.name == semconv.AGENT_OUTPUT
    return dict(span.attributes)


def error(rollout: Rollout) -> str:
    assert rollout.status is RolloutStatus.FAILED
    assert not [span for span in rollout.spans if span.kind is SpanKind.REWARD]
    return rollout.attempts[-1].error or ""


async def test_what_an_agent_gives_is_its_reward_however_it_is_run(any_house: House) -> None:
    rollout = await any_house.rollout({"do": "give", "value": 0.25})
    assert reward(rollout) == 0.25


async def test_what_an_agent_prints_and_logs_is_kept_with_its_attempt_and_no_other(any_house: House) -> None:
    loud, quiet = await any_house.rollouts({"do": "print"}, {"do": "give", "value": 0.5})
    told = printed(loud)
    assert told[semconv.STDOUT].startswith("said aloud\n")
    assert told[semconv.STDERR] == "said aside\nsaid to the log\n"
    assert "said" not in json.dumps([dict(span.attributes) for span in quiet.spans])


async def test_of_much_that_is_printed_the_beginning_and_the_end_are_kept(any_house: House) -> None:
    text = printed(await any_house.rollout({"do": "print_much"}))[semconv.STDOUT]
    assert text.startswith("line 0\nline 1\n")
    assert "line 49999\n" in text[-200:]
    assert "bytes left out" in text
    assert len(text) < 2**17


async def test_an_agent_that_raises_fails_with_its_traceback_and_what_it_printed(any_house: House) -> None:
    rollout = await any_house.rollout({"do": "raise"})
    assert "ValueError: a mistake of the agent" in error(rollout)
    assert "about to fail" in printed(rollout)[semconv.STDERR]


async def test_the_class_of_what_an_agent_raised_is_told(process: House) -> None:
    failed, died = await process.rollouts({"do": "raise"}, {"do": "die"})
    assert (failed.attempts[0].error or "").startswith("Traceback")
    assert "was killed by SIGKILL" in error(died)


async def test_a_program_that_exits_with_another_code_than_0_has_failed(apart: House) -> None:
    failed = error(await apart.rollout({"do": "exit"}))
    assert "exited with code 3; its standard error ends with: no good" in failed


WILD_TASKS: list[dict[str, Any]] = [
    {"do": "hang"},
    {"do": "ignore_sigterm"},
    {"do": "multiply"},
    {"do": "start_programs"},
]


async def test_after_a_time_out_nothing_of_an_agent_is_left_and_its_key_is_refused(
    apart: House, tmp_path: Path
) -> None:
    """Of none: not those that ignore SIGTERM, nor their grandchildren in sessions of their own."""
    batch = await apart.enqueue(*WILD_TASKS, {"do": "clean_up", "mark": str(tmp_path / "mark")})
    await until(lambda: len(alive(f"{batch}/2")) > 15)
    for rollout in await apart.ended(batch):
        (attempt,) = rollout.attempts
        assert (attempt.status, error(rollout)) == (
            AttemptStatus.TIMED_OUT,
            f"the agent had not ended after {TIMEOUT:g} s",
        )
        assert alive(rollout.id) == []
        with pytest.raises(AttemptEndedError):
            await authorize(apart.store, attempt.key)


async def test_sigterm_lets_a_python_agent_clean_up(process: House, tmp_path: Path) -> None:
    await process.rollout({"do": "clean_up", "mark": str(tmp_path / "mark")})
    assert (tmp_path / "mark").read_text() == "done"


async def test_what_an_agent_leaves_behind_ends_with_it(apart: House) -> None:
    rollout = await apart.rollout({"do": "leave_a_daemon"})
    assert reward(rollout) == 1.0
    assert alive(rollout.id) == []


async def test_a_copy_that_an_agent_has_forked_gives_no_answer_in_its_place(process: House) -> None:
    assert reward(await process.rollout({"do": "fork"})) == 1.0


async def test_an_attempt_that_the_store_has_cancelled_leaves_no_process(apart: House) -> None:
    batch = await apart.enqueue({"do": "start_programs"})
    await until(lambda: len(alive(f"{batch}/0")) > 6)
    await apart.store.cancel.remote(batch)
    await until(lambda: not alive(f"{batch}/0"), TIMEOUT)


async def test_an_attempt_that_is_cancelled_as_its_process_starts_gives_its_answer_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two, the first is forked when it has been cancelled. It is gone long before its grace is over."""
    popen = guarded_process._popen

    def slow(program: guarded_process.Program, control: int) -> Any:
        if program.environment["AL_RAY_ROLLOUT_ID"].endswith("/first"):
            time.sleep(1)
        return popen(program, control)

    monkeypatch.setattr(guarded_process, "_popen", slow)
    section = AgentSection(isolation="process", run=CALLABLE, grace=60.0)
    runner = Runner(RunnerSpec("r", section, [], "toy"), Mock())
    runner._agent = ProcessAgent(section)
    batch = f"cancelled-{os.getpid()}"
    first = asyncio.create_task(runner._output(job(f"{batch}/first", {"do": "give", "value": 0.25})))
    await asyncio.sleep(0.3)
    first.cancel()
    next_one = asyncio.create_task(runner._output(job(f"{batch}/next", {"do": "give_late", "value": 0.5})))
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await first
    assert alive(f"{batch}/first") == []
    assert await next_one == 0.5


SLOWLY_EXECUTED = """
import os, sys, time
from al_ray.actors.agent import guardian
become = os.setsid
os.setsid = lambda: (time.sleep(2), become())
guardian.main("60", sys.argv[1], "sleep", "100")
"""


def test_a_program_that_is_ended_before_it_is_executed_ends_at_once() -> None:
    """And not when its grace is over: until then it is a copy of its guardian, which ignores SIGTERM."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            number = theirs.fileno()
            subprocess.run(
                [sys.executable, "-c", SLOWLY_EXECUTED, str(number)], pass_fds=[number], check=True
            )
        time.sleep(0.5)
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(30)
        assert os.WTERMSIG(int(ours.recv(100))) == signal.SIGTERM


FAMILY = """
import os, signal, subprocess, sys, time
def told(name):
    def note(*_):
        with open(f"{sys.argv[1]}/{name}", "a") as file:
            file.write("asked ")
        deadline = time.monotonic() + 0.5  # as who cleans up, through a second one if it came
        while time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(0)
    signal.signal(signal.SIGTERM, note)
    open(f"{sys.argv[1]}/{name} is ready", "w").close()
    time.sleep(100)
for name, apart in ("in its group", False), ("in another session", True):
    if os.fork() == 0:
        if apart:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                told("its child's child")
        told(name)
time.sleep(100)
"""


async def test_all_that_descends_from_a_program_is_asked_once_to_end_and_has_its_grace(
    tmp_path: Path,
) -> None:
    """In whatever session it is; and whoever ends early ends the wait. Of several at once, so that some note
    a first signal before a second could come."""
    members = ["in its group", "in another session", "its child's child"]

    async def noted(folder: Path) -> dict[str, str]:
        folder.mkdir()
        command = [sys.executable, "-c", FAMILY, str(folder)]
        program = guarded_process.Program(command, dict(os.environ), None, b"", grace=60.0)
        process = await guarded_process.GuardedProcess.start(program, KeptText(), KeptText())
        for member in members:
            await until((folder / f"{member} is ready").exists)
        async with asyncio.timeout(30):
            await process.end()
        return {member: (folder / member).read_text() for member in members}

    found = await asyncio.gather(*[noted(tmp_path / str(number)) for number in range(8)])
    assert found == [dict.fromkeys(members, "asked ")] * 8


def job(name: str, task: dict[str, Any]) -> Job:
    request = RolloutRequest(name, "b", "g", Task("t", task))
    return Job(request, Attempt(name, 1, "key"), Endpoint("http://gateway/v1", "key", "toy", {}), Printed())


@pytest.mark.parametrize(
    ("agent", "by_ray"),
    [
        ({"isolation": "process", "run": CALLABLE}, False),
        ({"isolation": "command", "command": PROGRAM}, True),
    ],
    ids=["process, kill -9", "command, ray.kill"],
)
async def test_a_runner_that_is_killed_leaves_no_process(
    ray_cluster: None, tmp_path: Path, agent: dict[str, Any], by_ray: bool
) -> None:
    """Not even what its agents have started in sessions of their own, ignoring SIGTERM."""
    houses = house_of(tmp_path, timeout=60.0, concurrency=6, **agent)
    house = next(houses)
    batch = await house.enqueue(*WILD_TASKS)
    ids = [f"{batch}/{index}" for index in range(len(WILD_TASKS))]
    await until(lambda: len(alive(ids[2])) > 15 and all(len(alive(name)) > 1 for name in ids))
    if by_ray:
        ray.kill(house.runner)
    else:
        os.kill(await house.runner.__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)
    await until(lambda: not any(map(alive, ids)))
    houses.close()
    ray.kill(house.store)


def is_guardian(process: int) -> bool:
    """Not yet the program, which begins as a copy of it."""
    try:
        return b"guardian" in Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_killed_guardian_takes_its_program_along(apart: House) -> None:
    batch = await apart.enqueue({"do": "hang"})
    await until(lambda: [is_guardian(process) for process in sorted(alive(f"{batch}/0"))] == [True, False])
    os.kill(min(alive(f"{batch}/0")), signal.SIGKILL)
    (rollout,) = await apart.ended(batch)
    assert "guardian" in error(rollout)
    await until(lambda: not alive(f"{batch}/0"))


async def test_a_callable_in_a_process_returns_json_and_not_too_much(process: House) -> None:
    for do, told in (
        ("return_an_object", "of type object, which JSON cannot"),
        ("return_much", "bytes of JSON"),
    ):
        assert told in error(await process.rollout({"do": do}))


async def test_a_program_finds_the_endpoint_and_its_attempt_in_its_environment(command: House) -> None:
    """Under the names that the SDKs of OpenAI, Anthropic and OpenTelemetry read, and nothing of Ray's."""
    rollout = await command.rollout({"do": "see"})
    (attempt,) = rollout.attempts
    seen = attempt.output
    wanted = {
        "OPENAI_BASE_URL": "http://gateway/v1",
        "OPENAI_API_KEY": attempt.key,
        "OPENAI_MODEL": "toy",
        "ANTHROPIC_BASE_URL": "http://gateway",
        "ANTHROPIC_API_KEY": attempt.key,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://gateway",
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer%20{attempt.key}",
        "AL_RAY_ROLLOUT_ID": rollout.id,
        "AL_RAY_ATTEMPT": "1",
    }
    assert {name: seen.get(name) for name in wanted} == wanted
    resource = seen["OTEL_RESOURCE_ATTRIBUTES"]
    assert resource == f"al_ray.rollout.id={rollout.id.replace('/', '%2F')},al_ray.attempt.number=1"
    assert not [name for name in seen if name.startswith("RAY_")]


async def test_a_program_whose_last_line_is_no_json_has_no_reward(command: House) -> None:
    failed = await command.rollout({"do": "give", "value": "forty-two"})
    assert 'does not end with a line such as {"reward": 1.0}' in error(failed)
    assert failed.attempts[0].output == '"forty-two"\n'


@pytest.mark.slow
async def test_hundreds_of_programs_run_at_once_in_one_runner(ray_cluster: None, tmp_path: Path) -> None:
    """Beyond the number of files that select(2) can wait for; each waits until all are there."""
    gate, there = tmp_path / "gate", tmp_path / "there"
    os.mkfifo(gate)
    there.touch()
    program = ["sh", "-c", f'echo >> {there}; read _ < {gate}; echo "{{\\"reward\\": 1}}"']
    section = {"isolation": "command", "command": program, "concurrency": 300, "timeout": 300.0}
    houses = house_of(tmp_path, lease=60.0, **section)
    house = next(houses)
    batch = await house.enqueue(*[{}] * 300)
    await until(lambda: there.stat().st_size == 300, 150)
    with gate.open("r+b", buffering=0) as opened:  # until the last has opened it too
        opened.write(b"go\n" * 300)
        ended = await house.ended(batch)
    assert {(rollout.status, rollout.attempts[0].error) for rollout in ended} == {
        (RolloutStatus.SUCCEEDED, None)
    }
    assert list(houses) == []


async def test_a_long_last_line_is_read_whole(command: House) -> None:
    """Far longer than what is kept of what is printed; but not without end."""
    rollout = await command.rollout({"do": "give_at_length", "size": 200_000})
    assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
    assert rollout.attempts[0].output == {"reward": 1.0, "x" * 200_000: 0.5}
    told = error(await command.rollout({"do": "give_at_length", "size": 17 * 2**20}))
    assert "bytes of JSON; 16777216 are allowed" in told


async def test_a_task_that_no_variable_can_hold_is_told_by_key_with_the_cure(
    ray_cluster: None, tmp_path: Path
) -> None:
    houses = house_of(tmp_path, isolation="command", command=["true"], task="variables", timeout=20)
    house = next(houses)
    for task, says in (
        ({"question": "x" * 140_000}, "the task's 'question'.*140021 bytes, and Linux allows 131071"),
        ({"question": "a\0b"}, "the task's 'question'.*NUL"),
        ({f"k{i}": "x" * 100_000 for i in range(12)}, "its variables would have 12"),
    ):
        told = error(await house.rollout(task))
        assert re.search(says, told) and "set agent.task to stdin or file" in told
    assert list(houses) == []


async def test_a_thread_that_hangs_has_timed_out_and_its_slot_is_given_back(thread: House) -> None:
    """More than there are slots, and still others run."""
    hung = await thread.rollouts(*[{"do": "hang"}] * 3)
    assert [rollout.attempts[0].status for rollout in hung] == [AttemptStatus.TIMED_OUT] * 3
    assert reward(await thread.rollout({"do": "give", "value": 1.0})) == 1.0


@pytest.mark.parametrize(
    ("way", "program"),
    [
        ("file", 'read -r task < "$AL_RAY_TASK_FILE"; echo "$task" >&2; echo "{\\"reward\\": 1}"'),
        ("variables", 'echo "$AL_RAY_TASK_WORD_ONE" >&2; echo "{\\"reward\\": $AL_RAY_TASK_POINTS}"'),
    ],
)
async def test_a_program_gets_the_task_as_the_recipe_says(
    ray_cluster: None, tmp_path: Path, way: str, program: str
) -> None:
    houses = house_of(tmp_path, isolation="command", command=["bash", "-c", program], task=way, timeout=20)
    rollout = await next(houses).rollout({"word one": "sun", "points": 1})
    told = {"file": '{"word one":"sun","points":1}', "variables": "sun"}
    # `read` returns 1 at the end of a file without a newline, and has read all the same.
    assert printed(rollout)[semconv.STDERR].strip() == told[way]
    assert reward(rollout) == 1.0
    assert list(houses) == []


async def test_a_callable_in_a_process_may_be_async_or_take_the_task_alone(
    ray_cluster: None, tmp_path: Path
) -> None:
    for name, task, given in (
        ("act_later", {"do": "give", "value": 0.5}, 0.5),
        ("act_on_the_task", {"value": 0.75}, 0.75),
    ):
        (tmp_path / name).mkdir()
        run = f"tests.support.agents.wild:{name}"
        houses = house_of(tmp_path / name, isolation="process", run=run, timeout=20)
        assert reward(await next(houses).rollout(task)) == given
        assert list(houses) == []


async def test_an_agent_with_pins_of_its_own_runs_beside_ours(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # uv's
    run = "tests.support.agents.wild:act_with_pins"
    for version in ("1.5", "2.5"):
        agent = AgentSection(isolation="process", run=run, requirements=[wheel(tmp_path, version)])
        (tmp_path / version).mkdir()
        houses = house_of(
            tmp_path / version, isolation="process", run=run, python=interpreter(agent), timeout=20
        )
        assert reward(await next(houses).rollout({})) == float(version)
        assert list(houses) == []


async def test_a_runner_process_is_not_kept_waiting_by_agents_that_wait(thread: House) -> None:
    """The event loop answers while threads sleep."""
    batch = await thread.enqueue({"do": "hang"})
    await asyncio.sleep(0.5)
    async with asyncio.timeout(60):
        await thread.runner.ping.remote()
    await thread.ended(batch)
