"""A run lives through deaths at its worst moments: as its parts start, and its driver's at any."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from tests.support.machines.processes import Command, is_called, run
from tests.support.runs import toy

pytestmark = pytest.mark.slow

TRAINING = ("tests.support.runs.without_vllm", "train", "toy.yaml", "--run", "a")
MORE = """

async def tell_and_solve(task, llm):
    (Path(__file__).parent / "an agent runs").touch()
    return await solve_slowly(task, llm)


class Echo:
    def __init__(self, path): ...
    def check(self): ...
    async def start(self): ...
    async def answer(self, question): return question
    async def probe(self): ...
"""
PARTS = ("Store", "Learner", "SpeakingEngine", "Door", "Gateway", "ServiceHost", "Runner")


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> RunFolder:
    """Of a run of three steps and one service, which was not begun; it is trained in ``tmp_path``."""
    (tmp_path / "toy_agent.py").write_text(toy.CODE + MORE, encoding="utf-8")
    content = toy.recipe(tiny_model, tmp_path / "out")
    content["agent"] |= {"run": "toy_agent:tell_and_solve"}
    content["stages"] = [content["stages"][1]]
    content["checkpoint"] = {"every": 2}
    content["services"] = {"echo": {"run": "toy_agent:Echo"}}
    toy.write_recipe(tmp_path, content)
    return RunFolder(tmp_path / "out" / "toy" / "a")


def kill_at_sight(command: Command, parts: Collection[str]) -> None:
    """The first process of each part, as soon as it is one."""
    waiting = set(parts)

    def all_killed() -> bool:
        for pid in command.alive():
            for part in [each for each in waiting if is_called(pid, f"ray::{each}")]:
                os.kill(pid, signal.SIGKILL)
                waiting.remove(part)
        return not waiting

    command.wait_until(all_killed, 600, f"the start of {waiting}")


def test_a_run_goes_on_though_the_first_process_of_each_part_is_killed_as_it_starts(
    tmp_path: Path, folder: RunFolder
) -> None:
    """As what a run dies of may come at any moment, also on the way back from a checkpoint."""
    with Command(TRAINING, tmp_path) as command:
        kill_at_sight(command, PARTS)
        assert command.wait(600) == 0, command.output
        command.wait_until_nothing_is_left(0)
    assert [line["step"] for line in jsonl_sink.read(folder.path) if "optim/loss" in line] == [1, 2, 3]


def test_a_run_whose_driver_is_killed_goes_on_at_once_whatever_it_was_about(
    tmp_path: Path, folder: RunFolder, joining: Mapping[str, str]
) -> None:
    """Though what it started is still ending, with a cluster of its own or on one that stays; most of the
    moments are before the first checkpoint."""
    moments: Sequence[tuple[str, Callable[[], bool]]] = [
        ("the store is made", lambda: (folder.path / "store.sqlite").exists()),
        ("an agent runs", (tmp_path / "an agent runs").exists),
        ("a step is learnt", lambda: any(line["step"] == 1 for line in jsonl_sink.read(folder.path))),
        ("a checkpoint is there", lambda: bool(folder.checkpoints())),
    ]
    with ExitStack() as commands:
        training = commands.enter_context(Command(TRAINING, tmp_path))
        for (moment, happened), cluster in zip(moments, ({}, joining, joining, joining), strict=True):
            training.wait_until(happened, 600, moment)
            os.kill(training.pid, signal.SIGKILL)
            training = commands.enter_context(Command([*TRAINING, "--resume"], tmp_path, **cluster))
        assert training.wait(600) == 0, training.output
    assert [line["step"] for line in jsonl_sink.read(folder.path) if "optim/loss" in line] == [1, 2, 3]
    code, output = run(["al_ray", "audit", str(folder.path)], tmp_path)
    assert code == 0 and "each is trained once" in output, output
