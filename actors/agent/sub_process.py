"""Agents in processes of their own: any program, or a Python callable in any interpreter.

Each attempt is a process under a guardian; with its end, all that it has started has ended.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import orjson

from al_ray.actors.agent import child, interpreter
from al_ray.actors.agent import environment as agent_environment
from al_ray.actors.agent.guarded_process import GuardedProcess, Program
from al_ray.actors.agent.inherited import inherited
from al_ray.actors.agent.job import MAX_RESULT_BYTES, Job, too_large
from al_ray.actors.agent.printed import LastLine
from al_ray.errors import AgentExitError, ToldError
from al_ray.recipe import AgentSection
from al_ray.types import JSON


class CommandAgent:
    """A program. What it answers is the JSON object on the last line of its standard output, or else all
    of that output, as far as it is kept, as text."""

    def __init__(self, section: AgentSection) -> None:
        assert section.command
        self._section = section
        self._command = section.command

    async def start(self, job: Job) -> RunningCommand:
        environment = agent_environment.variables(job, inherited(self._section, os.environ))
        folder = None
        if self._section.task == "variables":
            environment |= agent_environment.task_variables(job.task)
        elif self._section.task == "file":
            folder = tempfile.TemporaryDirectory(prefix="al_ray-task-")
            file = Path(folder.name) / "task.json"
            file.write_bytes(task_bytes(job))
            environment[agent_environment.TASK_FILE] = str(file)
        program = Program(
            command=self._command,
            environment=environment,
            folder=self._section.folder,
            stdin=task_bytes(job) if self._section.task == "stdin" else b"",
            grace=self._section.grace,
        )
        stdout = LastLine(job.printed.stdout, MAX_RESULT_BYTES)
        process = await GuardedProcess.start(program, stdout, job.printed.stderr)
        return RunningCommand(job, process, stdout, folder.cleanup if folder else _nothing)


def task_bytes(job: Job) -> bytes:
    """The task as JSON."""
    return orjson.dumps(dict(job.task))


def _nothing() -> None:
    """Is left to be removed."""


class RunningCommand:
    """One under way; ``remove`` is called when it has ended."""

    def __init__(
        self, job: Job, process: GuardedProcess, stdout: LastLine, remove: Callable[[], None]
    ) -> None:
        self._job = job
        self._process = process
        self._stdout = stdout
        self._remove = remove

    async def wait(self) -> JSON:
        if code := await self._process.wait():
            raise AgentExitError(_how(code, self._job))
        printed = self._job.printed.stdout.text
        line, size = self._stdout.get()
        if size > len(line) and line.lstrip().startswith(b"{"):
            raise too_large(size)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return printed
        return answer if isinstance(answer, Mapping) else printed

    async def end(self) -> None:
        await self._process.end()
        self._remove()

    @property
    def ended(self) -> bool:
        return self._process.ended


class ProcessAgent:
    """A Python callable, async or not, of the task and the endpoint, or of the task alone."""

    def __init__(self, section: AgentSection) -> None:
        self._section = section
        self._python = interpreter.interpreter(section)
        self._variables = interpreter.python_variables(section)

    async def start(self, job: Job) -> _Python:
        result = os.memfd_create("al_ray-result")
        request = {"run": self._section.run, "task": dict(job.task), "endpoint": asdict(job.endpoint)}
        program = Program(
            command=[self._python, child.SCRIPT, str(result)],
            environment=agent_environment.variables(job, self._variables),
            folder=None,
            stdin=orjson.dumps(request),
            grace=self._section.grace,
            files=[result],
        )
        try:
            process = await GuardedProcess.start(program, job.printed.stdout, job.printed.stderr)
            return _Python(job, process, result)
        except BaseException:
            os.close(result)
            raise


class _Python:
    def __init__(self, job: Job, process: GuardedProcess, result: int) -> None:
        self._job = job
        self._process = process
        self._result = result

    async def wait(self) -> JSON:
        code = await self._process.wait()
        size = os.fstat(self._result).st_size
        if size == 0:
            raise AgentExitError(f"it returned nothing: {_how(code, self._job)}")
        if size > MAX_RESULT_BYTES:
            raise too_large(size)
        told = json.loads(os.pread(self._result, size, 0))
        if "error" in told:
            raise ToldError(told["error"], told["error_class"])
        return told["output"]

    async def end(self) -> None:
        await self._process.end()
        os.close(self._result)

    @property
    def ended(self) -> bool:
        return self._process.ended


def _how(code: int, job: Job) -> str:
    """How it ended, with the last that it said."""
    ended = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    last = job.printed.stderr.last_line
    return f"the agent's process {ended}" + (f"; its standard error ends with: {last}" if last else "")
