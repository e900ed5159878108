"""One run of the unmodified Spider agent whose writer and rewriter are two policies, beside a checker that is
frozen, with the real parts; brought to its end once more from the checkpoint before the last step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UserError
from al_ray.evaluation.subject import subject
from al_ray.models.adapters import place_of
from al_ray.reports import jsonl_sink
from al_ray.reports.names import POLICIES
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.measure import Wanted, chosen
from al_ray.run.recorded.replay import calls, differences, logged, replay
from al_ray.types import Transition
from tests.support.machines.processes import run, run_here
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing, unlisted

pytestmark = pytest.mark.slow

STEPS, FIRST_RL_STEP = 3, 2
TRAINED = ("writer", "second")
REWARD = """
def score(task, output):
    \"\"\"A query of a model that writes anything: how much of it is letters.\"\"\"
    return sum(letter.isascii() and letter.isalpha() for letter in output) / max(1, len(output))
"""


def content(model: Path, output: Path) -> dict[str, Any]:
    recipe = toy.recipe(model, output)
    recipe["model"] |= {"max_length": 1000, "lora": {"rank": 4, "alpha": 64}}
    recipe["data"] = {
        "load": "al_ray.envs.spider.data:load",
        "options": {"levels": ["easy"], "max_schema_chars": 350, "budget": 350, "turns": 2},
    }
    recipe["agent"] |= {
        "run": "al_ray.envs.spider.agent:solve",
        "evaluate": "letters:score",
        "timeout": 120,
        "sampling": {"max_tokens": 12},
    }
    recipe["policies"] = {
        "writer": {"agents": ["writer"]},
        "second": {"agents": ["re*"]},
        "critic": {"agents": ["check*"], "frozen": True},
    }
    supervised, grpo = recipe["stages"]
    supervised |= {
        "steps": 1,
        "tasks_per_step": 8,
        "demonstrate": "al_ray.envs.spider.demonstrations:demonstrate",
    }
    grpo |= {"steps": 2, "group_size": 3}
    recipe["stages"] = [supervised, grpo]
    recipe["checkpoint"] = {"every": 1, "keep": 3}
    return recipe


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, joining: Mapping[str, str]
) -> Iterator[RunFolder]:
    path = tmp_path_factory.mktemp("policies")
    (path / "letters.py").write_text(REWARD)
    toy.write_recipe(path, content(tiny_model, path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("AL_RAY_DATA", raising=False)
        code, told = run(["al_ray", "train", "toy.yaml", "--run", "a"], path, **joining)
        assert code == 0, told
        yield RunFolder(path / "out" / "toy" / "a")


def lines(folder: RunFolder) -> Sequence[Mapping[str, Any]]:
    """Of steps of reinforcement."""
    return [line for line in jsonl_sink.read(folder.path) if "rollout/calls/writer" in line]


def transitions(folder: RunFolder) -> Sequence[Transition]:
    records = Records(folder.store_url)
    found = records.find_rollouts(Query([Condition("batch", "prefix", "step-")])).items
    complete = [records.rollout(each.id) for each in found]
    records.close()
    return [call for rollout in complete if rollout for call in trajectory(rollout).transitions]


def test_each_agents_calls_are_its_policys_and_engine_and_learner_agree_on_every_token(
    finished: RunFolder,
) -> None:
    """What was sampled by one adapter is trained in that adapter: both give each token the same probability,
    also after the adapters have moved apart."""
    found = {(call.agent, call.policy, call.trained) for call in transitions(finished)}
    assert found == {("writer", "writer", True), ("rewriter", "second", True), ("checker", "critic", False)}
    of_steps = lines(finished)
    assert [line["step"] for line in of_steps] == [FIRST_RL_STEP, STEPS]
    for line in of_steps:
        assert abs(line["off_policy/mismatch_kl"]) < 1e-6, line
        assert line["policy/version"] == line["step"]
        assert line["rollout/calls/writer"] == line["rollout/calls/critic"] == 1
        assert 0 < line["rollout/calls/second"] <= 1 and line["health/idle_policies"] == 0
        assert (
            sum(line[f"learner/trained_tokens/{name}"] for name in TRAINED) == line["learner/trained_tokens"]
        )
        for name in TRAINED:
            assert line[f"optim/grad_norm/{name}"] > 0 and line[f"policy/entropy/{name}"] > 0


def test_a_rollout_is_shown_with_whom_each_call_was_answered_by(finished: RunFolder) -> None:
    code, told = run_here(["rollouts", finished.path, "step-000001/0/0"], finished.path)
    assert code == 0, told
    for title in ("call 1 of writer, answered by writer", "call 2 of checker, answered by critic"):
        assert title in " ".join(told.split()), told


def test_what_is_told_of_policies_is_in_the_table(finished: RunFolder) -> None:
    told = {key for line in jsonl_sink.read(finished.path) for key in line} - {"step", "time"}
    assert unlisted(told) == [] and missing(POLICIES, told) == set()


def test_each_policy_has_an_adapter_of_its_own_that_moved_with_every_step(finished: RunFolder) -> None:
    """Demonstrations of the checker taught nobody."""
    adapters = {
        (step, name): load_file(place_of(finished.checkpoint(step), name) / "adapter_model.safetensors")
        for step in range(1, STEPS + 1)
        for name in TRAINED
    }
    assert not (place_of(finished.checkpoint(STEPS), "critic")).exists()
    for name in TRAINED:
        for step in range(2, STEPS + 1):
            before, after = adapters[step - 1, name], adapters[step, name]
            assert before.keys() == after.keys()
            assert not any(before[key].equal(after[key]) for key in before if "lora_B" in key)
    writer, second = (adapters[STEPS, name] for name in TRAINED)
    assert not any(writer[key].equal(second[key]) for key in writer)
    first = next(line for line in jsonl_sink.read(finished.path) if "demonstration/of_others" in line)
    assert first["demonstration/of_others"] > 0
    assert sum(first[f"learner/rows/{name}"] for name in TRAINED) == 8 - first["demonstration/of_others"]


def test_a_step_is_computed_once_more_bit_for_bit_and_every_token_is_accounted_for(
    finished: RunFolder,
) -> None:
    for step in (FIRST_RL_STEP, STEPS):
        again = replay(finished, step, finished.recipe())
        assert list(differences(again.figures, logged(finished, step))) == []
        assert {call.agent for call in calls(again) if call.weight} == {"writer", "rewriter"}
    code, told = run_here(["audit", finished.path], finished.path)
    assert code == 0 and "each is trained once" in told, told


def test_a_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    finished: RunFolder, joining: Mapping[str, str]
) -> None:
    """Killed after its last update, before that was kept: it is repeated from what the store has, and no
    engine is asked anything."""
    path = finished.path.parents[2]
    again = RunFolder(finished.path.parent / "b")
    shutil.copytree(finished.path, again.path)
    shutil.rmtree(again.checkpoint(STEPS))
    resuming = ["tests.support.runs.without_vllm", "train", "toy.yaml", "--resume", "--run", "b"]
    code, told = run(resuming, path, **joining)
    assert code == 0 and f"resumed after step {STEPS - 1}" in " ".join(told.split()), told
    for name in TRAINED:
        ours, theirs = (
            load_file(place_of(each.checkpoint(STEPS), name) / "adapter_model.safetensors")
            for each in (finished, again)
        )
        assert all(ours[key].equal(theirs[key]) for key in ours)


def test_a_checkpoint_is_evaluated_as_the_run_evaluated_it(
    finished: RunFolder, joining: Mapping[str, str]
) -> None:
    """With all of its adapters; as one model it cannot be had."""
    checkpoint = finished.checkpoint(STEPS)
    path = finished.path.parents[2]
    code, told = run(["al_ray", "eval", str(checkpoint)], path, **joining)
    assert code == 0, told
    [folder] = (path / "out" / "evaluations" / "toy").iterdir()
    [line] = jsonl_sink.read(folder)
    ours = [line for line in jsonl_sink.read(finished.path) if line.get("eval/accuracy") is not None][-1]
    assert line["eval/accuracy"] == pytest.approx(ours["eval/accuracy"])
    evaluated = subject(checkpoint, finished.recipe(), None)
    assert evaluated.policies["second"].adapter == str(place_of(checkpoint, "second"))
    assert evaluated.policies["critic"] == finished.recipe().policies["critic"]
    code, told = run_here(["serve", checkpoint, "--dry-run"], path)
    assert code == 2 and f"writer={place_of(checkpoint, 'writer')}" in "".join(told.split("\n")), told
    with pytest.raises(UserError, match="has several policies"):
        chosen(finished, finished.recipe(), Wanted())
