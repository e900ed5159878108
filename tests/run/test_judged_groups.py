"""Groups that a judge rewards: by a real store and a real runner, whoever asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.reader import Records
from al_ray.errors import UselessRunError
from al_ray.rollouts.rewards import rewards
from al_ray.run.agents import Agents
from al_ray.run.stages.asked import Asked
from al_ray.run.stages.grouped import judge_metrics
from al_ray.types import AttemptStatus, Group, RetryRules, Rollout, RolloutRequest, RolloutStatus, Task
from tests.support.houses.runner import house_of

JUDGES = "tests.support.agents.judges"
MEMBERS = 3


@pytest.fixture(scope="module")
def agents(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    folder = tmp_path_factory.mktemp("judged")
    for house in house_of(folder, run=f"{JUDGES}:number_off", judge=f"{JUDGES}:rank", timeout=2):
        records = Records(sqlite_url(folder / "store"))
        yield Agents(house.store, records, [], RetryRules(2))
        records.close()


def asked(name: str, mode: Any = "train", **task: Any) -> list[RolloutRequest]:
    told = Task(name, {"name": name, **task})
    return [
        RolloutRequest(f"{name}/{i}", name, f"{name}/g", told, mode, RetryRules(1)) for i in range(MEMBERS)
    ]


async def group_of(agents: Agents, requests: list[RolloutRequest]) -> Group:
    (group,) = [group async for groups in agents.rollouts(requests) for group in groups]
    return group


def judge_of(agents: Agents, group: Group) -> Rollout:
    found = agents.records.rollout(f"{group.id}/judge")
    assert found is not None
    return found


@pytest.mark.parametrize("later", [False, True])
async def test_a_judge_rewards_the_rollouts_of_a_group_together_and_the_store_has_it(
    agents: Agents, later: bool
) -> None:
    group = await group_of(agents, asked(f"together-{later}", later=later))
    given = {rollout.attempts[-1].output["number"]: rewards(rollout) for rollout in group.rollouts}
    assert [given[number] for number in sorted(given)] == [
        {"judged": MEMBERS, "reward": place / MEMBERS} for place in range(MEMBERS)
    ]
    judge = judge_of(agents, group)
    assert judge.request.mode == "judge" and judge.status is RolloutStatus.SUCCEEDED
    assert judge.attempts[-1].output == {r.id: rewards(r)["reward"] for r in group.rollouts}
    assert "judging 3" in str([span.attributes for span in judge.spans]), "what it prints is kept"
    assert await group_of(agents, asked(f"together-{later}", later=later)) == group, "a resumed run's"


async def test_what_is_asked_for_ahead_is_judged_though_nobody_waits_for_it_yet(agents: Agents) -> None:
    """And told when its step comes. Who leaves it gets nothing, and is told of no failure."""
    left = await Asked.of(agents, asked("left", judge="hang"), {})
    await left.leave()
    ahead = await Asked.of(agents, asked("ahead"), {})
    async with asyncio.timeout(60):
        while ahead.ended < 1:
            await asyncio.sleep(0.1)
    judge = agents.records.rollout("ahead/g/judge")
    assert judge is not None and judge.status is RolloutStatus.SUCCEEDED
    told: list[tuple[int, int]] = []
    (group,) = await ahead.groups(lambda *progress: told.append(progress))
    assert all(rewards(rollout) for rollout in group.rollouts) and told == [(MEMBERS, MEMBERS)]


async def test_a_judge_that_fails_is_asked_again(agents: Agents) -> None:
    group = await group_of(agents, asked("once", judge="raise once"))
    assert [a.status for a in judge_of(agents, group).attempts] == ["failed", "succeeded"]
    assert all(len(rewards(rollout)) == 2 for rollout in group.rollouts)


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ("raise", "LookupError: a judge without an opinion"),
        ("forget", f"{JUDGES}:rank returned 1 rewards for 3 candidates; give a reward for each"),
        ("nan", f"{JUDGES}:rank returned nan as reward; it must be a finite number"),
        ("hang", "the judge had not ended after 2 s"),
    ],
)
async def test_a_group_that_cannot_be_judged_has_no_rewards_and_its_rollouts_stay_what_they_are(
    agents: Agents, judge: str, says: str
) -> None:
    """A failure of the judge is never a reward of 0."""
    group = await group_of(agents, asked(f"fails-{judge}", judge=judge))
    assert [rewards(rollout) for rollout in group.rollouts] == [{}] * MEMBERS
    assert {rollout.status for rollout in group.rollouts} == {RolloutStatus.SUCCEEDED}
    failed = judge_of(agents, group)
    assert (failed.status, len(failed.attempts)) == (RolloutStatus.FAILED, 2)
    assert says in (failed.attempts[-1].error or "")
    well = replace(failed, status=RolloutStatus.SUCCEEDED)
    assert judge_metrics(3, [failed, well]) == {"judge/groups": 2, "judge/failed": 1}
    with pytest.raises(UselessRunError, match=r"step 4: agent\.judge failed on all 2 groups"):
        judge_metrics(3, [failed, failed])


async def test_a_judge_sees_those_that_succeeded_and_none_is_asked_where_there_are_none(
    agents: Agents,
) -> None:
    group = await group_of(agents, asked("some", fail="some"))
    for rollout in group.rollouts:
        succeeded = rollout.status is RolloutStatus.SUCCEEDED
        assert bool(rewards(rollout)) == succeeded
    assert len({rollout.status for rollout in group.rollouts}) == 2
    group = await group_of(agents, asked("all", fail="all"))
    assert {rollout.status for rollout in group.rollouts} == {RolloutStatus.FAILED}
    assert agents.records.rollout(f"{group.id}/judge") is None


async def test_an_evaluation_is_not_judged(agents: Agents) -> None:
    """Its reward comes from where it would come from without a judge: this agent gives none."""
    group = await group_of(agents, asked("eval", mode="eval"))
    assert {a.status for r in group.rollouts for a in r.attempts} == {AttemptStatus.FAILED}
    assert agents.records.rollout(f"{group.id}/judge") is None
