"""The task as variables of an agent's environment: told before a run where one cannot hold it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


NAMES = st.text(st.sampled_from("aAbB-_. ß"), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, st.text("ab"), max_size=4))
def test_each_key_has_a_variable_of_its_own_or_the_task_is_refused(task: dict[str, str]) -> None:
    """Never does one key's value stand in the place of another's."""
    try:
        variables = task_variables(task)
    except DataError as error:
        assert sum(repr(name) in str(error) for name in task) >= 2, "both keys are named"
        assert "set agent.task to stdin or file" in str(error)
    else:
        assert sorted(variables.values()) == sorted(task.values())


def test_keys_that_would_share_a_variable_are_told_by_the_task_and_both() -> None:
    for task in ({"answer": "A", "Answer": "B"}, {"max_len": 1, "max-len": 2}):
        first, second = task
        with pytest.raises(DataError, match=f"task 't' of train: the task's '{second}'.*its '{first}'; set"):
            check_tasks(VARIABLES, [Task("t", task)])


def test_a_task_that_no_variable_can_hold_is_told_by_id_and_key() -> None:
    tasks = [Task("good", {"q": "x"}), Task("bad", {"q": "é" * 100_000})]
    with pytest.raises(DataError, match="task 'bad' of train: the task's 'q'"):
        check_tasks(VARIABLES, tasks)
    check_tasks(VARIABLES.model_copy(update={"task": "stdin"}), tasks)
