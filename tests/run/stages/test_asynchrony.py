"""Asynchronous training, in a world whose agents are as early and as late as they can be: the real driver and
stage, without the parts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.errors import AlRayError, LearnerLostError
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import Admission, first_not_due, stage_spans
from al_ray.reports.health import Health
from al_ray.rollouts.requests import step_batch
from al_ray.run.driver import Run
from al_ray.run.stages.batch import Batch
from al_ray.types import Group, Rollout, RolloutRequest, Task, UpdateReport
from tests.run.stages.test_reinforcement import TASKS, of_versions, rollout
from tests.support.runs import toy

GROUPS, MEMBERS = 2, 2


class KilledError(BaseException):
    """The driver's end."""


def recipe(*stages: tuple[int, int], refills: int = 0, every: int = 1) -> Recipe:
    """Stages of so many steps and such a staleness."""
    content = toy.recipe(Path("model"), Path("out"))
    grpo = {**content["stages"][1], "kl_coefficient": 0, "refills": refills}
    content["stages"] = [{**grpo, "steps": steps, "staleness": staleness} for steps, staleness in stages]
    content["checkpoint"] = {"every": every}
    return Recipe.model_validate(content)


@dataclass
class Playing:
    """A rollout that was asked for. Version ``oldest`` sampled its first token, ``ended`` its last."""

    request: RolloutRequest
    oldest: int | None = None
    ended: int | None = None


@dataclass
class World:
    """What outlives a driver, and what its parts do meanwhile. ``faults`` tells who dies at the n-th moment,
    which are when rollouts were asked for, and updates: the driver, or in an update a learner."""

    dice: random.Random
    faults: dict[int, type[BaseException]]
    store: dict[str, Playing] = field(default_factory=dict)
    asked: dict[str, Task] = field(default_factory=dict)
    checkpoints: dict[int, int] = field(default_factory=dict)
    """The policy version in each."""
    served: int | None = None
    """None: engines do not answer."""
    moments: int = 0
    trained: list[int] = field(default_factory=list)
    ahead: list[set[str]] = field(default_factory=list)
    """The batches that were known to the store, and not over, at each update that came back."""

    def pass_by(self) -> None:
        """A moment: any rollout may begin or end."""
        for each in self.store.values():
            if self.served is None or each.ended is not None or self.dice.random() < 0.5:
                continue
            if each.oldest is None:
                each.oldest = self.served
            else:
                each.ended = self.served

    def fault(self, possible: type[BaseException] = BaseException) -> None:
        self.moments += 1
        if (fault := self.faults.get(self.moments)) and issubclass(fault, possible):
            raise fault("at some moment")

    def die(self) -> None:
        """With the driver die engines and runners, and what is under way begins anew."""
        self.served = None
        for each in self.store.values():
            if each.ended is None:
                each.oldest = None


class Agents:
    """As ``al_ray.run.agents.Agents``."""

    judges = None
    records = None

    def __init__(self, world: World, withdraws: bool) -> None:
        self._world = world
        self._withdraws = withdraws

    async def recorded(self, requests: Sequence[RolloutRequest]) -> float:
        return 0.0

    async def ask(self, requests: Sequence[RolloutRequest]) -> None:
        for request in requests:
            task = self._world.asked.setdefault(request.id, request.task)
            assert task == request.task, "the same is asked for in every life"
            self._world.store.setdefault(request.id, Playing(request))
        self._world.pass_by()
        self._world.fault(KilledError)

    async def withdraw(self, step: int, evaluation: int) -> None:
        for name, each in list(self._world.store.items()):
            if self._withdraws and each.ended is None and each.request.batch >= step_batch(step):
                del self._world.store[name]

    async def ended(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        for name, of_group in groupby(requests, key=lambda request: request.group):
            members = list(of_group)
            while any(self._world.store[request.id].ended is None for request in members):
                self._world.pass_by()
                await asyncio.sleep(0)
            yield [Group(name, members[0].batch, [self._rollout(request) for request in members])]

    def _rollout(self, request: RolloutRequest) -> Rollout:
        played, member = self._world.store[request.id], int(request.id.rpartition("/")[2])
        assert played.oldest is not None and played.ended is not None
        dull = "refill" not in request.batch and request.group.endswith("/1")
        found = rollout(request.group, member, 0.0 if dull else float(member))
        change = of_versions([[played.oldest, 0, 1], [played.ended, 1, 2]])
        return replace(found, request=request, spans=[change(span) for span in found.spans])


class Policy:
    """As ``al_ray.run.policy.Policy``, of versions without weights."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.version = 0

    @property
    def served_version(self) -> int:
        assert self._world.served is not None
        return self._world.served

    async def start_stage(self, spec: Any) -> None:
        self._world.pass_by()

    async def serve(self) -> None:
        self._world.served = self.version
        self._world.pass_by()

    async def update(self, batch: Batch) -> UpdateReport:
        world = self._world
        (step,) = {int(row.rollout_id[5:11]) for row in batch.rows}
        for _ in range(world.dice.randrange(3)):
            world.pass_by()
            await asyncio.sleep(0)
        world.fault()
        world.trained.append(step)
        world.ahead.append({each.request.batch for each in world.store.values()})
        self.version += 1
        return UpdateReport(self.version, {})

    async def save(self, folder: int) -> None:
        self._world.pass_by()
        self._world.checkpoints[folder] = self.version

    async def load(self, folder: int) -> None:
        self._world.pass_by()
        self.version = self._world.checkpoints[folder]

    async def restart_learners(self) -> None:
        self._world.pass_by()
        self.version = 0


async def live(world: World, recipe: Recipe, folder: Path, withdraws: bool) -> None:
    """One life of a driver."""
    folders: Any = SimpleNamespace(
        path=folder,
        checkpoints=lambda: sorted(world.checkpoints),
        checkpoint=lambda step: step,
        prune_checkpoints=lambda keep: None,
    )
    agents: Any = Agents(world, withdraws)
    policy: Any = Policy(world)
    calls = ("phase", "warning", "note", "step", "log", "log_rollouts", "rewind")
    silent: Any = SimpleNamespace(**dict.fromkeys(calls, lambda *_: None))
    health = Health(recipe.health, folder)
    await Run(recipe, folders, agents, policy, silent, silent, TASKS, (), health).train()


def lives(world: World, recipe: Recipe, folder: Path, withdraws: bool = True) -> None:
    """Until one of them comes to its end."""
    with pytest.MonkeyPatch.context() as patch:

        async def evaluate(run: Run, step: int) -> None:
            await run.policy.serve()

        for name in ("_evaluate", "_evaluate_if_missing"):
            patch.setattr(Run, name, evaluate)
        while True:
            try:
                asyncio.run(live(world, recipe, folder, withdraws))
                return
            except KilledError:
                world.die()


STAGES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=2)
FAULTS = st.dictionaries(st.integers(1, 20), st.sampled_from([KilledError, LearnerLostError]), max_size=4)


@settings(max_examples=60)
@given(STAGES, FAULTS, st.integers(0, 1), st.integers(1, 3), st.integers(0, 2**32))
def test_no_token_is_trained_that_is_older_than_its_stage_allows(
    stages: list[tuple[int, int]],
    faults: dict[int, type[BaseException]],
    refills: int,
    every: int,
    seed: int,
) -> None:
    """Whenever agents begin and end, and whoever dies when. Steps are trained in order, each on its own whole
    groups, the same in every life; and while one is trained, as many later ones as may be were asked for."""
    made, world = recipe(*stages, refills=refills, every=every), World(random.Random(seed), dict(faults))
    lives(world, made, Path("nowhere"))
    last = [len(world.trained) - 1 - world.trained[::-1].index(step) for step in sorted(set(world.trained))]
    assert [world.trained[place] for place in last] == list(range(stage_spans(made)[-1].end))
    assert last == sorted(last)
    for span in stage_spans(made):
        admission = Admission(span)
        for step in range(span.begin, span.end):
            for name, played in world.store.items():
                if played.request.batch.startswith(step_batch(step)):
                    assert played.oldest is not None and step - played.oldest <= admission.staleness, name
            at_update = world.ahead[last[step]]
            assert {step_batch(each) for each in admission.due(step)} <= at_update
            own = [name for name in world.store if name.startswith(step_batch(step) + "/")]
            assert len(own) == GROUPS * MEMBERS


@pytest.mark.parametrize("staleness", [0, 2])
def test_what_is_not_taken_back_at_a_restart_would_be_too_old_and_is_refused(staleness: int) -> None:
    """So the test above would see it: the driver is killed long after its last checkpoint."""
    world = World(random.Random(0), {9: KilledError})
    with pytest.raises(AlRayError, match=rf"stages\.0\.staleness is {staleness}"):
        lives(world, recipe((9, staleness), every=9), Path("nowhere"), withdraws=False)


@given(STAGES)
def test_a_batch_is_due_from_one_step_on_and_only_in_its_stage(stages: list[tuple[int, int]]) -> None:
    made = recipe(*stages)
    for span in stage_spans(made):
        admission = Admission(span)
        for batch in range(span.begin, span.end):
            steps = [step for step in range(span.begin, span.end) if batch in admission.due(step)]
            assert steps == list(range(admission.asked_at(batch), batch + 1))
            assert batch - steps[0] <= admission.staleness
        for done in range(span.begin, span.end):
            assert first_not_due(made, done) == admission.due(done)[-1] + 1 <= span.end
    assert first_not_due(made, span.end) == span.end
