"""``al-ray try``, as somebody uses it at a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines.processes import ROOT, run
from tests.support.runs import quiz, toy

AGENT = """
from tests.support.runs.quiz import solve as ask

async def solve(task, llm):
    print("it was asked", task["question"])
    breakpoint()
    return await ask(task, llm)

async def fail(task, llm):
    return await ask(task, llm) + 1

async def fail_oddly(task, llm):
    raise ValueError("cannot read caf\\udce9.txt \\x1b[2J")

async def know(task, llm):
    return "yes"

def after(request, attempt):
    raise LookupError("nothing is there")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[quiz.Server]:
    (tmp_path / "agents.py").write_text(AGENT, encoding="utf-8")
    quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out"))
    with quiz.served() as server:
        yield server


def tried(folder: Path, *arguments: str, typed: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "al_ray", "try", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "SECRET": "s", "QUIZ_KEY": "sk-quiz"}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=typed, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_the_agent_has_the_terminal_to_itself(tmp_path: Path, server: quiz.Server) -> None:
    """What it prints is seen, and a debugger reads what is typed; then comes all that happened, with the
    reward. It finds the environment that it would find in a run, and nothing is left behind."""
    arguments = ["--task", "t1", "--url", server.url, "--model", "wise:8b", "--api-key-env", "QUIZ_KEY"]
    typed = "p 'question ' + task['question']\nimport os\np os.environ.get('SECRET')\nc\n"
    code, told = tried(tmp_path, "quiz.yaml", "--set", "agent.run=agents:solve", *arguments, typed=typed)
    assert code == 0, told
    assert "it was asked 1\n" in told and "'question 1'" in told and "(Pdb) None" in told
    assert "task t1 of validation" in told and "call 1: 3 prompt tokens" in told
    assert "final reward 1\n" in told
    assert "warning" not in told
    assert server.keys == {"Bearer sk-quiz"} and server.bodies[0]["model"] == "wise:8b"
    assert not (tmp_path / "out").exists()


def test_what_the_agent_raises_is_shown_whole(tmp_path: Path, server: quiz.Server) -> None:
    """From its own first frame, after what had happened until then."""
    arguments = ["--set", "agent.run=agents:fail", "--url", server.url, "--model", "wise"]
    code, told = tried(tmp_path, "quiz.yaml", *arguments)
    assert code == 1, told
    call, _, traceback = told.partition("Traceback (most recent call last):\n")
    assert "call 1: 3 prompt tokens" in call and "no reward" in call
    assert traceback.startswith(f'  File "{tmp_path}/agents.py", line 10, in fail\n'), told
    assert 'can only concatenate str (not "int") to str' in traceback


def test_of_a_program_that_fails_its_own_words_are_shown(tmp_path: Path, server: quiz.Server) -> None:
    """It is a process of its own: where this one waited for it tells nothing."""
    command = "command: [sh, -c, 'echo no luck >&2; exit 3']"
    agent = f"agent={{isolation: command, {command}, sampling: {{max_tokens: 8}}}}"
    code, told = tried(tmp_path, "quiz.yaml", "--set", agent, "--url", server.url, "--model", "wise")
    assert code == 1 and "exited with code 3; its standard error ends with: no luck" in told, told
    assert "Traceback" not in told


def test_what_is_raised_cannot_steer_the_terminal_and_is_told_though_it_cannot_be_written(
    tmp_path: Path, server: quiz.Server
) -> None:
    arguments = ["--set", "agent.run=agents:fail_oddly", "--url", server.url, "--model", "wise"]
    code, told = tried(tmp_path, "quiz.yaml", *arguments)
    assert code == 1 and told.rstrip().endswith(r"ValueError: cannot read caf\udce9.txt \x1b[2J"), told


def test_what_a_hook_raises_is_shown_from_its_own_first_frame(tmp_path: Path, server: quiz.Server) -> None:
    hooked = ["--set", "agent.run=tests.support.runs.quiz:solve", "--set", "agent.after=agents:after"]
    code, told = tried(tmp_path, "quiz.yaml", *hooked, "--url", server.url, "--model", "wise")
    assert code == 1 and "LookupError: nothing is there" in told and "/agents.py" in told, told
    assert "/actors/runner/" not in told, told


def test_an_agent_that_asks_no_model_is_told_where_to_ask(tmp_path: Path, server: quiz.Server) -> None:
    """Rewarded or not: a run would learn nothing of it."""
    arguments = ["--set", "agent.run=agents:know", "--url", server.url, "--model", "wise"]
    code, told = tried(tmp_path, "quiz.yaml", *arguments)
    assert code == 0 and "final reward 1\n" in told, told
    assert "warning: the model answered no call" in told and "llm.base_url" in told


@pytest.mark.slow
def test_a_model_of_ones_own_answers_without_a_cluster(tmp_path: Path, tiny_model: Path) -> None:
    """One engine in the process of the command: the tokens that it sampled are recorded."""
    toy.write_code(tmp_path)
    toy.write_recipe(tmp_path, toy.recipe(tiny_model, tmp_path / "out"))
    code, told = run(["al_ray", "try", "toy.yaml", "--set", "agent.run=toy_agent:converse"], tmp_path)
    assert code == 0, told
    assert "call 3: " in told and "policy version 0, mean logprob" in told and "final reward " in told
    assert "WARNING" not in told
