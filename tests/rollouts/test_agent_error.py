"""What is told of an attempt's error: in a line, and as a person reads it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from al_ray.rollouts.agent_error import agent_error, folded
from al_ray.types import Attempt, AttemptStatus

ATTEMPT = Attempt("r", 1, "key", AttemptStatus.FAILED)
HERE = __file__

CAUSE = """Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/httpx/_transports/default.py", line 101, in map_exceptions
    yield
httpx.ConnectError: All connection attempts failed

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/al_ray/actors/runner/actor.py", line 168, in _play
    output = await self._output(job)
  File "/srv/al_ray/actors/agent/in_process.py", line 60, in wait
    return await self._task
  File "/home/me/shop/agent.py", line 12, in solve
    return await ask(task)
           ^^^^^^^^^^^^^^^
  File "/home/me/shop/model.py", line 5, in ask
    return await client.chat.completions.create(model="x")
  File "/opt/venv/lib/python3.11/site-packages/openai/resources/chat.py", line 99, in create
    raise APIConnectionError(request=request) from err
  File "/usr/lib/python3.11/asyncio/tasks.py", line 1, in x
openai.APIConnectionError: Connection error.
"""


def error_of(function: Callable[[], object]) -> str:
    try:
        function()
    except BaseException:
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


def test_an_error_is_told_with_the_last_frame_of_the_agents_own_code() -> None:
    """Neither where a library raised it nor where al_ray called the agent."""
    told = agent_error(replace(ATTEMPT, error=CAUSE))
    assert (
        str(told) == "openai.APIConnectionError: Connection error. (/home/me/shop/model.py, line 5, in ask)"
    )


def test_a_real_exception_is_told_by_its_first_line_and_place() -> None:
    def fails() -> None:
        raise ValueError("no column 'a'\nsecond line")

    told = agent_error(replace(ATTEMPT, error=error_of(fails)))
    line = fails.__code__.co_firstlineno + 1
    assert (told.said, told.file, told.line, told.function) == (
        "ValueError: no column 'a'", HERE, line, "fails",
    )  # fmt: skip


def test_of_a_group_of_exceptions_the_one_inside_is_told() -> None:
    async def inner() -> None:
        raise KeyError("price")

    async def agent() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inner())

    told = agent_error(replace(ATTEMPT, error=error_of(lambda: asyncio.run(agent()))))
    assert (told.said, told.function) == ("KeyError: 'price'", "inner")


def test_a_file_that_does_not_parse_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    imports = [sys.executable, "-c", "import broken"]
    done = subprocess.run(imports, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    told = agent_error(replace(ATTEMPT, error=done.stderr))
    assert told.said.startswith("SyntaxError") and (told.file, told.line) == (str(tmp_path / "broken.py"), 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("the agent had not ended after 60 s", "the agent had not ended after 60 s"),
        (None, "failed"),
        (f"there was no gateway at http://x\n\n{CAUSE}", "openai.APIConnectionError: Connection error."),
        ("ValueError: first\n\nagent.after failed:\n\nKeyError: 'second'", "ValueError: first"),
        ("agent.after failed:\n\n" + CAUSE, "openai.APIConnectionError: Connection error."),
    ],
)
def test_what_is_no_traceback_or_more_than_one_is_told_by_what_came_first(
    error: str | None, told: str
) -> None:
    assert agent_error(replace(ATTEMPT, error=error)).said == told


def test_an_agent_that_was_installed_as_a_package_is_told_by_where_it_was_entered() -> None:
    installed = CAUSE.replace("/home/me/shop", "/opt/venv/lib/python3.11/site-packages/shop")
    assert agent_error(replace(ATTEMPT, error=installed)).file.endswith("site-packages/shop/agent.py")


def test_frames_of_libraries_and_of_al_ray_are_counted_and_the_agents_own_are_shown() -> None:
    assert folded(CAUSE).splitlines() == [
        "Traceback (most recent call last):",
        "  ... 1 frame of libraries and of al_ray",
        "httpx.ConnectError: All connection attempts failed",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        "  ... 2 frames of libraries and of al_ray",
        '  File "/home/me/shop/agent.py", line 12, in solve',
        "    return await ask(task)",
        "           ^^^^^^^^^^^^^^^",
        '  File "/home/me/shop/model.py", line 5, in ask',
        '    return await client.chat.completions.create(model="x")',
        "  ... 2 frames of libraries and of al_ray",
        "openai.APIConnectionError: Connection error.",
    ]


def test_frames_that_call_each_other_in_turn_are_shown_once() -> None:
    def even(n: int) -> None:
        odd(n)

    def odd(n: int) -> None:
        if n == 0:
            raise RuntimeError("deep")
        even(n - 1)

    text = error_of(lambda: even(40))
    told = folded(text).splitlines()
    assert len(text.splitlines()) > 100 > 20 > len(told)
    assert "  ... these 2 39 more times" in told and told[-1] == "RuntimeError: deep"
    assert "  ... these 2 1 more times" in folded(error_of(lambda: even(2))).splitlines()


def test_text_that_is_no_traceback_is_left_as_it_is() -> None:
    assert folded("exited with code 3\n  File under: nothing") == "exited with code 3\n  File under: nothing"
