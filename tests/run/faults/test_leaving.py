"""A run that is interrupted keeps what it has learnt."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.reports import jsonl_sink
from al_ray.run.folder import RunFolder
from tests.support.machines.processes import Command
from tests.support.runs import toy

pytestmark = pytest.mark.slow


def test_a_run_that_is_ended_goes_on_from_the_step_that_it_had_done(
    tmp_path: Path, tiny_model: Path, joining: Mapping[str, str]
) -> None:
    """By what ends its whole process group, as `timeout` does. Though no checkpoint was due, one is written
    on the way out; no process stays."""
    toy.write_code(tmp_path)
    content = toy.recipe(tiny_model, tmp_path / "out")
    content["agent"] |= {"run": "toy_agent:solve_slowly", "concurrency": 1}
    content["stages"] = [{**content["stages"][1], "steps": 2}]
    content["checkpoint"] = {"every": 100}
    toy.write_recipe(tmp_path, content)
    folder = RunFolder(tmp_path / "out" / "toy" / "a")
    training = ["tests.support.runs.without_vllm", "train", "toy.yaml", "--run", "a"]

    def second_step() -> bool:
        """Whether it has begun to ask."""
        if not any(line["step"] == 1 for line in jsonl_sink.read(folder.path)):
            return False
        records = Records(folder.store_url)
        found = records.find_rollouts(Query([Condition("batch", "=", "step-000001")])).items
        records.close()
        return bool(found)

    with Command(training, tmp_path) as command:
        command.wait_until(second_step)
        os.killpg(command.pid, signal.SIGTERM)
        assert command.wait(120) == 130, command.output
        command.wait_until_nothing_is_left(0)
    (tmp_path / "hurry").touch()
    assert "interrupted after step 1; --resume goes on from there" in command.output
    assert "Traceback" not in command.output
    assert folder.checkpoints() == [1]
    with Command([*training, "--resume"], tmp_path, **joining) as command:
        assert command.wait(300) == 0, command.output
    assert "resumed after step 1" in command.output
    assert [line["step"] for line in jsonl_sink.read(folder.path) if "optim/loss" in line] == [1, 2]


@pytest.mark.parametrize("background", [False, True])
def test_an_update_under_way_is_ended_and_kept(tmp_path: Path, tiny_model: Path, background: bool) -> None:
    """Whether SIGTERM is heard by a command at a terminal, or in the background of a script, where Ctrl-C is
    ignored."""
    toy.write_code(tmp_path)
    content = toy.recipe(tiny_model, tmp_path / "out")
    content["stages"] = [{**content["stages"][1], "steps": 2}]
    content["checkpoint"] = {"every": 100}
    toy.write_recipe(tmp_path, content)
    moments = tmp_path / "moments"
    moments.mkdir()
    (moments / "update.closed").touch()
    inside = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if background else []
    training = ["tests.support.runs.turnstiles", moments, "train", "toy.yaml", "--run", "a"]
    with Command(training, tmp_path, inside) as command:
        command.wait_until((moments / "update.held").exists)
        os.kill(command.pid, signal.SIGTERM)
        command.wait_until(lambda: "what is under way is ended first" in command.output)
        (moments / "update.held").unlink()
        assert command.wait(120) == 130, command.output
    assert "interrupted after step 1; --resume goes on from there" in command.output
    assert RunFolder(tmp_path / "out" / "toy" / "a").checkpoints() == [1]
