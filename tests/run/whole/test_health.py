"""Runs of no use: they say why, and end; and what is only bad is warned of. All parts are real but the
engines, of whose words nothing depends here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from al_ray.reports import jsonl_sink
from tests.support.machines.processes import run, run_here
from tests.support.runs import quiz, toy

AGENTS = """
from toy_agent import *


def look_up(task):
    return {}[task["word"]]


async def broken(task, llm):
    return look_up(task)


async def wordy(task, llm):
    async with client(llm) as asking:
        long = [{"role": "user", "content": "many words " * 200}]
        return await asking.chat.completions.create(model=llm.model, messages=long)


async def silent(task, llm):
    return "yes"


async def wordy_in_training(task, llm):
    return await (solve if "validation" in task["word"] else wordy)(task, llm)


def load_named(path, split):
    return [Task(f"{split}-{i}", {"word": f"{split} {i}"}, split) for i in range(8)]


def no_difference(task, output):
    return 1.0
"""

PREPARED = ["tasks", "the agent's environment", "model"]
"""The parts of each start that come first, in this order."""

Train = Callable[[Mapping[str, Any]], tuple[int, str, Path]]


@pytest.fixture
def train(tmp_path: Path, tiny_model: Path, joining: Mapping[str, str]) -> Train:
    """Runs the toy recipe without its imitation, with these keys of ``agent`` and ``data``."""

    def train(changes: Mapping[str, Any]) -> tuple[int, str, Path]:
        toy.write_code(tmp_path)
        (tmp_path / "bad_agents.py").write_text(AGENTS)
        content = toy.recipe(tiny_model, tmp_path / "out")
        content["stages"] = [{**content["stages"][1], "kl_coefficient": 0.0}]
        content["agent"] |= changes
        if changes.get("run") == "bad_agents:wordy_in_training":
            content["data"] = {"load": "bad_agents:load_named"}
        toy.write_recipe(tmp_path, content)
        code, output = run(
            ["tests.support.runs.without_vllm", "train", "toy.yaml", "--run", "a"], tmp_path, **joining
        )
        return code, output, tmp_path / "out" / "toy" / "a"

    return train


def started(output: str) -> list[str]:
    """The parts that a command tells of, as each was there."""
    lines = [line.split(maxsplit=1) for line in output.splitlines() if line.startswith("start  ")]
    return [part.rpartition(": ")[0] for _, part in lines]


@pytest.mark.slow
def test_a_run_whose_rollouts_all_fail_ends_with_the_error_once_its_place_and_a_command(train: Train) -> None:
    """After the first batch in which it is so, here of prompts longer than ``model.max_length``; nothing is
    learnt or kept. (That the first evaluation ends it too is tried below.)"""
    code, output, folder = train({"run": "bad_agents:wordy_in_training"})
    assert code == 1 and "Traceback" not in output, output
    told = output[output.index("error: ") :].splitlines()
    assert told[0].startswith("error: step 1: all 4 rollouts failed; the commonest error, of ")
    assert told[1].startswith("  openai.BadRequestError: ")
    line = 1 + next(i for i, text in enumerate(AGENTS.splitlines()) if "messages=long" in text)
    assert told[2] == f"  {folder.parents[2]}/bad_agents.py, line {line}, in wordy"
    _, _, command = told[3].partition("one of them: al-ray ")
    shown_code, shown = run_here(command.split(), folder.parents[2])
    assert shown_code == 0 and "in wordy" in shown
    assert "actors/runner" not in shown and "as attempt 1" in shown
    assert output.count("openai.BadRequestError: ") == 1
    last = jsonl_sink.read(folder)[-1]
    assert last.get("health/failed", 1) == 1 and not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_training_on_an_agent_that_never_asks_the_model_ends_with_the_cure(train: Train) -> None:
    code, output, folder = train({"run": "bad_agents:silent"})
    assert code == 1 and "Traceback" not in output, output
    assert "error: evaluation, untrained: the model answered no call of any of the 2 rollouts" in output
    assert f"al-ray rollouts {folder} eval/step-000000/" in output and "llm.base_url" in output
    [line] = jsonl_sink.read(folder)
    assert line["eval/without_calls"] == 2 and not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_groups_with_equal_rewards_are_a_column_a_warning_and_a_line_at_the_end(train: Train) -> None:
    """All of them in each of three steps: nothing was learnt, and the run says so. (Of a run that ends well,
    each part that was started is told too.)"""
    code, output, folder = train({"evaluate": "bad_agents:no_difference"})
    assert code == 0, output
    assert started(output) == [
        *PREPARED, "teachers", "connection to the cluster", "libraries", "Ray", "metrics", "store", "engines",
        "learners", "gateways", "the weights' way from learners to engines", "services",
    ]  # fmt: skip
    header, *rows = [line for line in output.splitlines() if line.startswith(("stage ", "grpo "))]
    at = header.index("equal") + len("equal")
    assert [row[:at].split()[-1] for row in rows] == ["1.00"] * 3
    assert output.count("100% of the groups have equal rewards, and nothing was learnt from them") == 1
    assert "warning: health.equal_groups passed in 3 of 3 steps" in output
    steps = [line for line in jsonl_sink.read(folder) if "optim/loss" in line]
    assert [line["health/equal_groups"] for line in steps] == [1.0] * 3
    assert [line["health/wasted_tokens"] for line in steps] == [1.0] * 3


def test_an_evaluation_of_an_agent_that_never_asks_the_model_warns_with_the_cure(
    tmp_path: Path, joining: Mapping[str, str]
) -> None:
    """Its scores are shown all the same; and what its rollouts died of is told with the place. Each part that
    was started is told."""
    (tmp_path / "toy_agent.py").write_text("from al_ray.types import Task\n")
    (tmp_path / "bad_agents.py").write_text(AGENTS)
    content = quiz.recipe(tmp_path / "out")
    content["agent"]["run"] = "bad_agents:silent"
    quiz.write_recipe(tmp_path, content)
    with quiz.served() as server:
        served = ["--url", server.url, "--model", "wise"]
        evaluating = ["tests.support.runs.without_vllm", "eval", "quiz.yaml", *served]
        code, output = run(evaluating, tmp_path, **joining)
        failed_code, failed = run(
            [*evaluating, "--run", "b", "--set", "agent.run=bad_agents:broken"], tmp_path, **joining
        )
    assert code == 0 and "1.0000" in output, output
    assert started(output) == [
        *PREPARED, "connection to the cluster", "libraries", "Ray", "store", "gateways", "services"
    ]  # fmt: skip
    assert "warning: 100% of the rollouts had no answer of the model" in output and "llm.base_url" in output
    folder = tmp_path / "out" / "evaluations" / "quiz" / "b"
    assert failed_code == 1 and "12 of 12 rollouts have no score: 12 builtins.KeyError" in failed, failed
    place = rf"\({tmp_path}/bad_agents.py, line \d+, in look_up\)"
    assert re.search(rf"  12 x KeyError: 'word' {place}: al-ray rollouts {folder} eval/", failed)
    assert failed.count("look_up") == 1
    assert [path.name for path in folder.glob("store.sqlite*")] == ["store.sqlite"]  # one whole file
