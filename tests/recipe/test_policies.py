"""Several policies: whose calls each answers, and what of them is refused, with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from al_ray.errors import RecipeError
from al_ray.recipe import PolicySection, loading, policy_of
from tests.support.runs import toy

TWO: dict[str, Any] = {"writer": {"agents": ["writer"]}, "others": {"agents": ["re*", "check"]}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.write_code(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    return tmp_path


def content(folder: Path, policies: dict[str, Any] = TWO, **changed: Any) -> dict[str, Any]:
    made = toy.recipe(folder / "model", folder / "out") | {"policies": policies, **changed}
    made["model"]["lora"] = {"rank": 4}
    return made


def mistakes(folder: Path, content: dict[str, Any]) -> list[str]:
    path = toy.write_recipe(folder, content)
    with pytest.raises(RecipeError) as caught:
        loading.load(path)
    return [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_the_first_policy_that_matches_an_agents_name_answers() -> None:
    policies = {
        "writer": PolicySection(agents=["writer", "w?"]),
        "rest": PolicySection(agents=["*"], frozen=True),
    }
    for agent, policy in (("writer", "writer"), ("w1", "writer"), ("critic", "rest"), ("", "rest")):
        assert policy_of(policies, agent) == policy
    assert policy_of({"writer": policies["writer"]}, "critic") is None
    assert policy_of({}, "critic") == ""


def test_a_recipe_of_several_policies_says_which_are_trained_and_as_what_they_begin(folder: Path) -> None:
    (folder / "known").mkdir()
    policies = {
        "writer": {"agents": ["writer"], "adapter": "known"},
        "others": {"agents": ["re*"]},
        "opponent": {"agents": ["check"], "frozen": True, "adapter": "known"},
    }
    path = toy.write_recipe(folder, content(folder, policies))
    recipe = loading.load(path)
    assert recipe.trained_policies == {"writer": str(folder / "known"), "others": None}
    assert recipe.policies["opponent"].adapter == str(folder / "known")
    (folder / "again.yaml").write_text(loading.dump(recipe))
    assert loading.reload(folder / "again.yaml") == recipe
    one = toy.recipe(folder / "model", folder / "out")
    assert loading.load(toy.write_recipe(folder, one)).trained_policies == {"": None}


GAE = {"algorithm": "ppo", "steps": 1, "optimizer": {"learning_rate": 1e-3}}
TAUGHT = {"algorithm": "on_policy_distillation", "teacher": "wise", "steps": 1, "optimizer": GAE["optimizer"]}
WISE = {"wise": {"base_url": "http://127.0.0.1:8000/v1", "model": "large"}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"policies": {"a": {"agents": ["x"], "frozen": True}}},
            "policies: 'a': are all frozen: nothing would be trained",
        ),
        (
            {"policies": {"a": {"agents": ["re*"]}, "b": {"agents": ["y", "rewriter"]}}},
            "policies.b.agents.1: 'rewriter': never answers: policies.a comes before it, with 're*'",
        ),
        (
            {"policies": {"a": {"agents": ["*"]}, "b": {"agents": ["w?"]}}},
            "policies.b.agents.0: 'w?': never answers: policies.a comes before it, with '*'",
        ),
        (
            {"transitions": {"train": ["check", "rew*"]}},
            "policies.writer.agents: ['writer']: none is in transitions.train, ['check', 'rew*']",
        ),
        (
            {"policies": {"a": {"agents": ["x"], "adapter": "nowhere"}}},
            "policies.a.adapter: '{folder}/nowhere': no such folder",
        ),
        ({"policies": {"a": {"agents": []}}}, "policies.a.agents: []: List should have at least 1 item"),
        (
            {"policies": {"a.b": {"agents": ["x"]}}},
            "policies.a.b: 'a.b': a policy's name: letters, digits and _- are allowed",
        ),
        (
            {"policies": {"a": {"agent": ["x"]}}},
            "policies.a.agent: ['x']: no such key; did you mean 'agents'?",
        ),
        ({"stages": [GAE]}, "stages.0.credit: 'gae': is for one policy"),
        (
            {"stages": [TAUGHT], "upstreams": WISE},
            "stages.0.algorithm: 'on_policy_distillation': is for one policy",
        ),
    ],
)
def test_what_cannot_work_is_refused(folder: Path, changed: dict[str, Any], expected: str) -> None:
    found = mistakes(folder, content(folder, **changed))
    assert any(each.startswith(expected.format(folder=folder)) for each in found), found


def test_policies_are_adapters(folder: Path) -> None:
    made = content(folder)
    del made["model"]["lora"]
    (found,) = mistakes(folder, made)
    assert found.startswith("policies: 'writer, others': are adapters: set model.lora")


def test_an_agent_that_is_not_trained_may_be_sampled_otherwise(folder: Path) -> None:
    """What the learner computes with is what trained policies are sampled with."""
    frozen = TWO["others"] | {"frozen": True}
    for others, refused in ((TWO["others"], True), (frozen, False)):
        made = content(folder, TWO | {"others": others})
        made["agent"]["sampling"]["agents"] = {"check": {"temperature": 0.5}}
        if refused:
            (found,) = mistakes(folder, made)
            assert found.startswith("agent.sampling.agents.check.temperature: 0.5")
        else:
            loading.load(toy.write_recipe(folder, made))
