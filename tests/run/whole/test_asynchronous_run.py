"""A whole asynchronous run, killed while rollouts of a later step are under way, and brought to its end with
the real parts; until then its engines have no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from al_ray.data.tasks import load_tasks
from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.recipe import Recipe, loading
from al_ray.recipe.schedule import stage_spans
from al_ray.reports import jsonl_sink
from al_ray.rollouts.requests import step_batch
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.replay import differences, logged, replay
from al_ray.run.stages.stage import stage_of
from al_ray.traces import semconv
from al_ray.types import AttemptStatus, Rollout, RolloutRequest, RolloutStatus, SpanKind
from tests.support.machines.processes import Command, run, run_here
from tests.support.runs import toy

pytestmark = pytest.mark.slow

STEPS, KILLED_IN = 5, 3
"""Checkpoints are written after every second step: the one after step 2, counted from 1, is the last."""
AGENT = """
import asyncio
from pathlib import Path

from toy_agent import solve


async def solve_unless_held(task, llm):
    while (Path(__file__).parent / task["word"]).exists():
        await asyncio.sleep(0.1)
    return await solve(task, llm)
"""


class Place:
    """Where the recipe is run. A task waits as long as there is a file with its word for a name."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        toy.write_code(path)
        (path / "held_agent.py").write_text(AGENT, encoding="utf-8")
        content = toy.recipe(model, path / "out")
        content["data"]["options"] = {"count": 16}
        content["agent"] |= {"run": "held_agent:solve_unless_held", "concurrency": 4}
        content["stages"] = [{**content["stages"][1], "steps": STEPS, "staleness": 1}]
        content["checkpoint"] = {"every": 2, "keep": 3}
        toy.write_recipe(path, content)

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path / "out" / "toy" / "a")

    def requests(self, recipe: Recipe, step: int) -> Sequence[RolloutRequest]:
        stage = stage_of(recipe, stage_spans(recipe)[0], load_tasks(recipe).train)
        return stage.requests(step)  # type: ignore[attr-defined, no-any-return]

    def held(self, request: RolloutRequest) -> Path:
        return self.path / str(request.task.data["word"])

    def rollouts(self, step: int | None = None) -> Sequence[Rollout]:
        if not (self.run.path / "store.sqlite").exists():
            return ()
        records = Records(self.run.store_url)
        batch = "step-" if step is None else step_batch(step)
        found = records.find_rollouts(Query([Condition("batch", "prefix", batch)]), tuple(SpanKind)).items
        records.close()
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("asynchronous")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("AL_RAY_DATA", raising=False)
        yield Place(path, tiny_model)


@pytest.fixture(scope="module")
def recipe(place: Place) -> Recipe:
    return loading.load(place.path / "toy.yaml")


@pytest.fixture(scope="module")
def killed(place: Place, recipe: Recipe) -> dict[str, Rollout]:
    """What the store had when the run was killed: a group of the step that it was in does not end, and of the
    next one's groups one has ended and the other has not."""
    waits, ends, waits_too = (
        place.requests(recipe, KILLED_IN)[0],
        place.requests(recipe, KILLED_IN + 1)[0],
        place.requests(recipe, KILLED_IN + 1)[-1],
    )
    for request in (waits, waits_too):
        place.held(request).touch()

    def it_is_so() -> bool:
        if not any(line["step"] == KILLED_IN for line in jsonl_sink.read(place.run.path)):
            return False  # the one before has not ended: a store takes more to look into
        there = {rollout.id: rollout.status for rollout in place.rollouts(KILLED_IN + 1)}
        return there.get(ends.id) is RolloutStatus.SUCCEEDED and there[waits_too.id] is RolloutStatus.RUNNING

    turnstiles = place.path / "turnstiles"  # none of which is closed
    turnstiles.mkdir()
    babbling = ["tests.support.runs.turnstiles", turnstiles, "train", "toy.yaml", "--run", "a"]
    with Command(babbling, place.path) as command:
        command.wait_until(it_is_so)
        command.kill()
        command.wait()
        command.wait_until_nothing_is_left()
    for request in (waits, waits_too):
        place.held(request).unlink()
    return {rollout.id: rollout for rollout in place.rollouts()}


@pytest.fixture(scope="module")
def finished(place: Place, killed: dict[str, Rollout], joining: Mapping[str, str]) -> str:
    code, told = run(["al_ray", "train", "toy.yaml", "--resume"], place.path, **joining)
    assert code == 0, told
    return told


def test_no_token_is_older_than_the_recipe_allows_and_every_one_is_accounted_for(
    place: Place, finished: str
) -> None:
    lines = [line for line in jsonl_sink.read(place.run.path) if "off_policy/staleness_max" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    stalest = [line["off_policy/staleness_max"] for line in lines]
    assert max(stalest) == 1 and stalest[0] == 0, "and it is as old as it may be"
    # A step in which all rewards are equal may have no gradient, and then raises no version.
    versions = [0, *(int(line["policy/version"]) for line in lines)]
    for step in range(STEPS):
        for rollout in place.rollouts(step):
            (call,) = [span for span in rollout.spans if span.kind is SpanKind.CALL]
            (choice,) = call.attributes[semconv.CHOICES]
            assert {version for version, _, _ in choice["versions"]} <= {versions[step] - 1, versions[step]}
    code, told = run_here(["audit", place.run.path], place.path)
    assert code == 0 and f"{STEPS} steps, " in told and "each is trained once" in told, told


def test_rollouts_of_a_step_begin_before_the_update_of_the_one_before_it_has_ended(
    place: Place, finished: str
) -> None:
    """Agents do not wait for learners."""
    lines = {line["step"]: line for line in jsonl_sink.read(place.run.path) if "optim/loss" in line}
    for step in range(STEPS - 1):
        begun = [rollout.attempts[0].started_at for rollout in place.rollouts(step + 1)]
        assert min(begun) < lines[step + 1]["time"]


def test_a_resumed_run_asks_for_the_same_rollouts_and_runs_no_ended_one_again(
    place: Place, recipe: Recipe, killed: dict[str, Rollout], finished: str
) -> None:
    now = {rollout.id: rollout for rollout in place.rollouts()}
    expected = [request for step in range(STEPS) for request in place.requests(recipe, step)]
    assert sorted(now) == sorted(request.id for request in expected)
    assert {name: rollout.request.task for name, rollout in now.items()} == {r.id: r.task for r in expected}
    ended = {name: rollout for name, rollout in killed.items() if rollout.status.ended}
    assert len(ended) >= 4 * KILLED_IN + 2
    assert {name: now[name] for name in ended} == ended


def test_what_was_under_way_is_lost_once_also_what_was_too_early_for_the_checkpoint(
    place: Place, recipe: Recipe, killed: dict[str, Rollout], finished: str
) -> None:
    """Weights two updates older than the step would have answered that; it is run anew when that is due."""
    (early,) = {request.group for request in place.requests(recipe, KILLED_IN + 1)[-1:]}
    under_way = [rollout for rollout in killed.values() if not rollout.status.ended]
    assert len([rollout for rollout in under_way if rollout.request.group == early]) == 2
    for rollout in place.rollouts():
        *before, last = (attempt.status for attempt in rollout.attempts)
        assert last is AttemptStatus.SUCCEEDED
        lost = rollout.id in {each.id for each in under_way}
        assert before == [AttemptStatus.CANCELLED] * lost


def test_a_step_on_stale_tokens_is_computed_once_more_bit_for_bit(
    place: Place, recipe: Recipe, finished: str
) -> None:
    again, told = replay(place.run, STEPS, place.run.recipe()), logged(place.run, STEPS)
    assert list(differences(again.figures, told)) == []
    assert told["off_policy/staleness_max"] == 1
