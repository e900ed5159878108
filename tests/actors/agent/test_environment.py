"""The task as variables of an agent's environment: told before a run where one cannot hold it."""

from __future__ import annotations

import pytest

from al_ray.actors.agent.environment import check_tasks, task_variables
from al_ray.errors import DataError
from al_ray.recipe import AgentSection
from al_ray.types import Task

LONGEST = 131_071
VARIABLES = AgentSection(isolation="command", command=["true"], task="variables")


def test_a_value_may_be_as_long_as_linux_allows() -> None:
    name = "AL_RAY_TASK_Q"
    room = LONGEST - len(f"{name}=")
    assert task_variables({"q": "x" * room}) == {name: "x" * room}
    with pytest.raises(DataError, match="would have 131072 bytes, and Linux allows 131071; set"):
        task_variables({"q": "x" * (room + 1)})


def test_a_task_that_no_variable_can_hold_is_told_by_id_and_key() -> None:
    tasks = [Task("good", {"q": "x"}), Task("bad", {"q": "é" * 100_000})]
    with pytest.raises(DataError, match="task 'bad' of train: the task's 'q'"):
        check_tasks(VARIABLES, tasks)
    check_tasks(VARIABLES.model_copy(update={"task": "stdin"}), tasks)
