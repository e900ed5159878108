"""A supervised batch: what is left out is told, and one of which nothing is left ends the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_ray.algorithms.demonstration import TokenisedCall
from al_ray.data.mixture import SOURCE
from al_ray.errors import UselessRunError
from al_ray.recipe import Recipe, SourceSection, SupervisedStage
from al_ray.recipe.schedule import stage_spans
from al_ray.run.stages.supervision import Supervision
from al_ray.types import JSON, Task
from tests.support.runs import toy

TASKS = [Task(str(index), {"word": str(index)}) for index in range(2)]


SHOWN = """
from al_ray.protocols import Demonstration


def demonstrate(task):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return Demonstration(messages, agent=task["agent"])
"""


class Rendering:
    """A policy that has no room for the demonstrations of some tasks."""

    def __init__(self, too_long: set[str]) -> None:
        self._too_long = too_long

    async def render_calls(
        self, messages: Sequence[Mapping[str, JSON]], tools: Any
    ) -> Sequence[TokenisedCall] | None:
        return None if messages[0]["content"] in self._too_long else [((1, 2), (3, 4))]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervision:
    toy.write_code(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = Recipe.model_validate(toy.recipe(Path("model"), tmp_path))
    span = stage_spans(recipe)[0]
    assert isinstance(span.stage, SupervisedStage)
    return Supervision(recipe, span.stage, span, TASKS)


async def batch(stage: Supervision, too_long: set[str]) -> Any:
    nobody: Any = None
    policy: Any = Rendering(too_long)
    return await stage.batch(0, nobody, policy, lambda done, total: None)


async def test_demonstrations_that_are_too_long_are_a_share_of_the_batch(stage: Supervision) -> None:
    found = await batch(stage, {"1"})
    assert len(found.rows) == 1
    assert found.metrics == {"demonstration/too_long": 1, "health/too_long": 0.5}


async def test_a_batch_whose_demonstrations_are_all_too_long_ends_the_run(stage: Supervision) -> None:
    with pytest.raises(UselessRunError, match=r"step 1: all 2 .* longer than model.max_length, 128"):
        await batch(stage, {"0", "1"})


async def test_a_batch_whose_demonstrations_have_no_word_of_the_assistant_ends_the_run(
    stage: Supervision,
) -> None:
    class Silent(Rendering):
        async def render_calls(self, messages: Any, tools: Any) -> Sequence[TokenisedCall] | None:
            return None if await super().render_calls(messages, tools) is None else []

    for too_long, left in (set[str](), 2), ({"1"}, 1):
        policy: Any = Silent(too_long)
        with pytest.raises(
            UselessRunError, match=rf"step 1: of the {left} .*none has a message of the assistant"
        ):
            await stage.batch(0, None, policy, lambda done, total: None)  # type: ignore[arg-type]


async def test_a_demonstration_teaches_the_policy_of_its_agent_or_all(
    stage: Supervision, tmp_path: Path
) -> None:
    (tmp_path / "shown.py").write_text(SHOWN)
    policies = {
        "writer": {"agents": ["w"]},
        "critic": {"agents": ["c"]},
        "old": {"agents": ["o"], "frozen": True},
    }
    recipe = Recipe.model_validate(stage.recipe.model_dump() | {"policies": policies})

    async def learnt(*agents: str) -> Any:
        tasks = [Task(str(index), {"word": "a", "agent": agent}) for index, agent in enumerate(agents)]
        settings = stage.settings.model_copy(
            update={"demonstrate": "shown:demonstrate", "tasks_per_step": len(tasks)}
        )
        return await batch(replace(stage, recipe=recipe, settings=settings, tasks=tasks), set())

    found = await learnt("w", "o", "", "w")
    assert sorted((row.policy, row.group) for row in found.rows) == [
        ("critic", "2"), ("writer", "0"), ("writer", "2"), ("writer", "3"),
    ]  # fmt: skip
    for policy, count in (("writer", 3), ("critic", 1)):
        weights = [row.weights.sum() for row in found.rows if row.policy == policy]
        assert weights == pytest.approx([1 / count] * count), "a mean over its own demonstrations"
    assert found.metrics["demonstration/of_others"] == 1
    with pytest.raises(UselessRunError, match=r"does not learn: 'o', 'x'; .* are writer, critic"):
        await learnt("o", "x")


async def test_a_stage_with_few_demonstrations_shows_those_again_whatever_its_place_in_the_recipe(
    stage: Supervision,
) -> None:
    """Thirty of a hundred tasks, in steps of ten: each epoch has each of them once, in another order."""
    tasks = [Task(str(index), {"word": str(index)}) for index in range(100)]
    settings = stage.settings.model_copy(update={"demonstrations": 30, "tasks_per_step": 10})
    orders = []
    for index in (0, 1):
        few = replace(stage, settings=settings, tasks=tasks, span=replace(stage.span, index=index))
        policy: Any = Recording()
        for step in range(6):
            await few.batch(step + few.span.begin, None, policy, lambda done, total: None)  # type: ignore[arg-type]
        orders += [policy.shown[:30], policy.shown[30:]]
    assert len({tuple(order) for order in orders}) == 4
    assert len({frozenset(order) for order in orders}) == 1
    assert all(len(set(order)) == 30 for order in orders)


async def test_as_many_tasks_have_a_demonstration_as_are_asked_for_also_where_a_source_has_few(
    stage: Supervision,
) -> None:
    """The others have more; those that a source has in its share stay the same."""
    tasks = [
        Task(f"{name}/{index}", {SOURCE: name, "word": f"{name}/{index}"})
        for name, count in (("small", 3), ("large", 97))
        for index in range(count)
    ]
    sources = {name: SourceSection() for name in ("small", "large")}
    data = stage.recipe.data.model_copy(update={"sources": sources})
    recipe = stage.recipe.model_copy(update={"data": data})
    for count in (4, 40, 100, 200):
        settings = stage.settings.model_copy(update={"demonstrations": count})
        shown = replace(stage, recipe=recipe, settings=settings, tasks=tasks)._demonstrated()
        assert len({task.id for task in shown}) == len(shown) == min(count, 100)
        assert sum(task.data[SOURCE] == "small" for task in shown) == (2 if count == 4 else 3)


@pytest.mark.parametrize("aggregate", ["rollout_mean", "token_mean"])
async def test_a_task_that_a_batch_shows_several_times_counts_as_often(
    stage: Supervision, aggregate: str
) -> None:
    """Two of them in a batch of five: each that is shown weighs as much as any other."""
    settings = stage.settings.model_copy(update={"tasks_per_step": 5, "aggregate": aggregate})
    rows = (await batch(replace(stage, settings=settings), set())).rows
    assert sorted(row.group for row in rows) in (["0", "0", "0", "1", "1"], ["0", "0", "1", "1", "1"])
    assert [row.weights.sum() for row in rows] == pytest.approx([1 / 5] * 5)


async def test_a_source_without_a_demonstration_is_not_shown_and_the_others_are(stage: Supervision) -> None:
    """Of five demonstrations, nine parts of ten are of one source: the other has none of them."""
    data = stage.recipe.data.model_copy(
        update={"sources": {"often": SourceSection(weight=9), "seldom": SourceSection(weight=1)}}
    )
    recipe = stage.recipe.model_copy(update={"data": data})
    tasks = [
        Task(f"{name}/{index}", {"word": f"{name} {index}", SOURCE: name})
        for name in ("often", "seldom")
        for index in range(20)
    ]

    async def shown(demonstrations: int) -> Sequence[JSON]:
        settings = stage.settings.model_copy(
            update={"demonstrations": demonstrations, "tasks_per_step": 4, "steps": 10}
        )
        few = replace(stage, recipe=recipe, settings=settings, tasks=tasks)
        policy: Any = Recording()
        for step in range(10):
            await few.batch(step + few.span.begin, None, policy, lambda done, total: None)  # type: ignore[arg-type]
        return policy.shown  # type: ignore[no-any-return]

    of_five, of_twenty = await shown(5), await shown(20)
    assert len(of_five) == 40 and len(set(of_five)) == 5
    assert {str(word).split()[0] for word in of_five} == {"often"}
    assert sum(str(word).startswith("seldom") for word in of_twenty) == pytest.approx(4, abs=1)


class Recording:
    """A policy that remembers which conversations it was asked to render."""

    def __init__(self) -> None:
        self.shown: list[JSON] = []

    async def render_calls(
        self, messages: Sequence[Mapping[str, JSON]], tools: Any
    ) -> Sequence[TokenisedCall] | None:
        self.shown.append(messages[0]["content"])
        return [((1, 2), (3, 4))]
