"""One task by hand, in this process: a real gateway and a real database, and a model that is served."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import openai
import pytest

from al_ray.data.tasks import load_tasks
from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.errors import RewardError, UserError
from al_ray.evaluation.subject import Served, subject
from al_ray.recipe import loading
from al_ray.reports.console import Console
from al_ray.rollouts.rewards import rewards
from al_ray.run.trial.attempt import Tried, attempted, chosen
from al_ray.run.trial.house import opened
from al_ray.types import AttemptStatus, Endpoint, RolloutStatus, SpanKind
from tests.support.runs import quiz

Try = Callable[..., Tried]


def plain(task: Mapping[str, Any], llm: Endpoint) -> str | None:
    with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
        question: Any = [{"role": "user", "content": task["question"]}]
        return client.chat.completions.create(model=llm.model, messages=question).choices[0].message.content


def alone(task: Mapping[str, Any]) -> str | None:
    """It finds the endpoint in its environment."""
    with openai.OpenAI(max_retries=0) as client:
        question: Any = [{"role": "user", "content": task["question"]}]
        return client.chat.completions.create(model="any", messages=question).choices[0].message.content


def unwise(task: Mapping[str, Any], llm: Endpoint) -> str:
    raise SystemExit("no idea")


def no_number(task: Mapping[str, Any], output: str) -> str:
    return "good"


@pytest.fixture
def try_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Runs an agent on task ``t1``."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    file = quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out"))

    def try_it(*overrides: str, task: str = "t1") -> Tried:
        with quiz.served() as server:
            loaded = loading.load(file, overrides)
            recipe = subject(file, loaded, Served(server.url, "wise"))
            store = tmp_path / "store.sqlite"
            database = Database(sqlite_url(store))
            try:
                with opened(recipe, store, Console(StringIO())) as house:
                    return attempted(recipe, chosen(load_tasks(recipe), task), database, house)
            finally:
                database.close()

    return try_it


@pytest.mark.parametrize(
    ("isolation", "run"),
    [
        ("async", "tests.support.runs.quiz:solve"),
        ("thread", f"{__name__}:plain"),
        ("process", f"{__name__}:alone"),
    ],
)
def test_an_attempt_is_recorded_as_a_runs_are(try_it: Try, isolation: str, run: str) -> None:
    """Whatever kind of agent it is: its calls, its output and its reward."""
    tried = try_it(f"agent.isolation={isolation}", f"agent.run={run}")
    assert tried.raised is None and tried.rollout.status is RolloutStatus.SUCCEEDED
    assert tried.rollout.attempts[-1].output == "yes"
    assert rewards(tried.rollout) == {"em": 1.0, "f1": 1.0, "reward": 1.0}
    assert [span.kind for span in tried.rollout.spans] == [SpanKind.CALL, SpanKind.REWARD]
    assert "AL_RAY_ROLLOUT_ID" not in os.environ


def test_an_agent_in_processes_may_read_its_endpoint_where_it_is_imported(
    try_it: Try, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does whose client is made at module level."""
    lines = ["import os", "MODEL = os.environ['OPENAI_MODEL']", "def solve(task): return MODEL"]
    (tmp_path / "reading_trial_agent.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    tried = try_it("agent.isolation=process", "agent.run=reading_trial_agent:solve")
    assert tried.raised is None and tried.rollout.attempts[-1].output == "wise"


def test_what_the_agent_raises_comes_as_it_was_raised(try_it: Try) -> None:
    """Even what would end the process; the attempt has failed, and has no reward."""
    tried = try_it("agent.isolation=thread", f"agent.run={__name__}:unwise")
    assert isinstance(tried.raised, SystemExit)
    [attempt] = tried.rollout.attempts
    assert (attempt.status, attempt.error_class) == (AttemptStatus.FAILED, "builtins.SystemExit")
    assert tried.rollout.status is RolloutStatus.FAILED and not rewards(tried.rollout)


def test_a_reward_that_is_none_is_the_recipes_mistake_here_too(try_it: Try) -> None:
    tried = try_it(f"agent.evaluate={__name__}:no_number")
    assert isinstance(tried.raised, RewardError) and "returned 'good' as reward" in str(tried.raised)


def test_a_task_is_named_by_its_id(try_it: Try) -> None:
    """Held out or trained on; what is none is told with what there is."""
    assert try_it(task="u3").rollout.request.task.split == "train"
    with pytest.raises(UserError, match="--task: 't99': no task of the recipe has this id; there are t9, "):
        try_it(task="t99")
