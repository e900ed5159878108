"""A batch asks for the same rollouts whenever it is asked for, and failed ones are no part of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.observing import Observations
from al_ray.algorithms.passes import Passes
from al_ray.errors import AlRayError, UserError
from al_ray.evaluation.evaluate import summary
from al_ray.evaluation.scores import result_of
from al_ray.recipe import Recipe, ReinforcementStage, SourceSection, TransitionsSection
from al_ray.recipe.schedule import stage_spans
from al_ray.reports.names import BATCH, HEALTH
from al_ray.rollouts.blame import AROUND_THE_AGENT
from al_ray.run.stages.batch import Batch
from al_ray.run.stages.grouped import Grouped
from al_ray.run.stages.reinforcement import Reinforcement
from al_ray.traces import semconv
from al_ray.types import (
    Attempt,
    AttemptStatus,
    Group,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
    Task,
)
from tests.support.models.learner_inputs import learner_spec
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing, unlisted

RECIPE = Recipe.model_validate(toy.recipe(Path("model"), Path("out")))
CRITIC = ("critic/loss", "critic/explained_variance")
TASKS = [Task(str(index), {"word": str(index)}) for index in range(8)]


def stage(recipe: Recipe = RECIPE, tasks: Sequence[Task] = TASKS) -> Reinforcement:
    span = stage_spans(recipe)[1]
    assert isinstance(span.stage, ReinforcementStage)
    return Reinforcement(recipe, span.stage, span, tasks)


def rollout(group: str, member: int, reward: float | None, calls: int = 1) -> Rollout:
    """That sampled two tokens a call and was rewarded; None: it failed after its calls."""
    name = f"{group}/{member}"
    succeeded = reward is not None
    attempt = Attempt(name, 1, "key", AttemptStatus.SUCCEEDED if succeeded else AttemptStatus.FAILED)
    spans = [
        Span(
            f"{name}/{call}",
            name,
            1,
            SpanKind.CALL,
            "chat",
            call,
            call + 1,
            {
                semconv.REQUEST_MODEL: RECIPE.model.name,
                semconv.PROMPT_IDS: [1, 2, call],
                semconv.CHOICES: [{"ids": [3, 4], "logprobs": [-1.0, -1.0], "versions": [[5, 0, 2]]}],
                semconv.FINISH_REASONS: ["stop"],
            },
            call,
        )
        for call in range(calls)
    ]
    if succeeded:
        attributes = {semconv.REWARD: reward, semconv.REWARD_DIMENSIONS: {"reward": reward}}
        spans.append(Span(f"{name}/r", name, 1, SpanKind.REWARD, "reward", 9, 9, attributes, calls))
    status = RolloutStatus.SUCCEEDED if succeeded else RolloutStatus.FAILED
    return Rollout(RolloutRequest(name, "step-000002", group, TASKS[0]), status, [attempt], spans)


def groups(*rewards: Sequence[float | None]) -> list[Group]:
    return [
        Group(
            f"g{index}", "step-000002", [rollout(f"g{index}", m, reward) for m, reward in enumerate(members)]
        )
        for index, members in enumerate(rewards)
    ]


def test_a_steps_requests_are_groups_of_one_task_each() -> None:
    requests = stage().requests(3)
    assert [request.id for request in requests] == [f"step-000003/{g}/{m}" for g in (0, 1) for m in (0, 1)]
    assert [request.group for request in requests] == ["step-000003/0"] * 2 + ["step-000003/1"] * 2
    by_group = {request.group: request.task for request in requests}
    assert all(request.task == by_group[request.group] for request in requests)
    assert {request.retry for request in requests} == {RECIPE.agent.retry.rules}


class Simulated:
    """Agents that solve what ``solves`` says, of which rollout of a group."""

    judges = None

    def __init__(self, solves: Callable[[RolloutRequest], float]) -> None:
        self.solves = solves
        self.asked: list[list[RolloutRequest]] = []

    async def recorded(self, requests: Sequence[RolloutRequest]) -> float:
        return 0.0

    async def ask(self, requests: Sequence[RolloutRequest]) -> None:
        self.asked.append(list(requests))

    async def ended(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sequence[Group]]:
        for group, of_group in groupby(requests, key=lambda request: request.group):
            ended = [
                replace(rollout(group, member, self.solves(request)), request=request)
                for member, request in enumerate(of_group)
            ]
            yield [Group(group, requests[0].batch, ended)]


def refilling(times: int) -> Recipe:
    refilled = RECIPE.stages[1].model_copy(update={"refills": times, "kl_coefficient": 0.0})
    return RECIPE.model_copy(update={"stages": [RECIPE.stages[0], refilled]})


def made(stage: Grouped, groups: list[Group], policy_version: int) -> Batch:
    policy: Any = SimpleNamespace(served_version=policy_version)
    return asyncio.run(stage.batch_of(groups, policy))


async def batch_of(agents: Simulated, recipe: Recipe) -> tuple[Batch, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    policy = SimpleNamespace(served_version=5)
    batch = await stage(recipe).batch(2, agents, policy, lambda *done: told.append(done))  # type: ignore[arg-type]
    return batch, told


async def test_groups_that_teach_nothing_are_replaced_by_groups_of_further_tasks() -> None:
    """As many as are missing, from a batch of their own, until the bound; none is trained in vain."""
    plain, _ = await batch_of(Simulated(lambda request: 1.0), refilling(0))
    assert plain.metrics["rollout/equal_groups"] == 2
    agents = Simulated(lambda request: float("refill-2" in request.id and request.id.endswith("/0")))
    batch, told = await batch_of(agents, refilling(3))
    assert [[r.id for r in asked] for asked in agents.asked] == [
        [f"{name}/{g}/{m}" for g in (0, 1) for m in (0, 1)]
        for name in ("step-000002", "step-000002-refill-1", "step-000002-refill-2")
    ]
    assert {row.group for row in batch.rows} == {"step-000002-refill-2/0", "step-000002-refill-2/1"}
    assert batch.metrics["rollout/equal_groups"] == 4 and batch.metrics["rollout/count"] == 12
    assert told[-1] == (12, 12)
    never = Simulated(lambda request: 0.0)
    batch, _ = await batch_of(never, refilling(2))
    assert len(never.asked) == 3 and batch.rows == []


@pytest.mark.parametrize("refills", [0, 2])
def test_the_mean_reward_is_of_the_groups_that_were_replaced_too(refills: int) -> None:
    """It does not fall as the policy comes to solve every task; no more do lengths and surprise."""
    refilled = stage(refilling(refills))
    for ended, mean in ((groups([1.0, 1.0], [1.0, 0.0]), 0.75), (groups([1.0, 1.0], [1.0, 1.0]), 1.0)):
        metrics = made(refilled, ended, 5).metrics
        assert (metrics["reward/mean"], metrics["rollout/response_tokens"]) == (mean, 2)
        assert metrics["rollout/surprise"] == 1.0


def test_a_refill_is_of_other_tasks_while_there_are_any() -> None:
    refilled = stage(refilling(3))
    for step in range(2, 5):
        asked = [{request.task.id for request in refilled.requests(step, refill)} for refill in range(4)]
        assert sum(map(len, asked)) == len(set().union(*asked)) == len(TASKS)
        assert len(refilled.requests(step, 4)) == 4, "then they come again"


async def test_only_as_many_groups_are_asked_for_again_as_are_missing() -> None:
    agents = Simulated(lambda request: float(request.id.endswith(("/1/0", "refill-1/0/0"))))
    batch, _ = await batch_of(agents, refilling(3))
    assert [len(asked) for asked in agents.asked] == [4, 2]
    assert {row.group for row in batch.rows} == {"step-000002/1", "step-000002-refill-1/0"}


class Learning:
    """A policy whose learner is real and has no engines."""

    served_version = 5

    def __init__(self, model: Path, stage: Reinforcement) -> None:
        self.learner = Learner(learner_spec(model))
        self.learner.start_stage(stage.spec)

    async def observe(self, *asked: Any, **more: Any) -> Observations:
        return self.learner.observe(*asked, **more)

    async def critic_values(self, features: np.ndarray) -> np.ndarray:
        return self.learner.critic_values(features)


async def test_a_critics_values_and_a_divergence_are_in_the_advantages_and_the_critic_learns(
    tiny_model: Path,
) -> None:
    chosen = {"algorithm": "ppo", "kl_in": "reward", "kl_coefficient": 0.05, "scale": "none"}
    chosen |= {"steps": 4, "groups_per_step": 2, "group_size": 2, "optimizer": {"learning_rate": 1e-3}}
    ppo = ReinforcementStage.model_validate(chosen)
    learning = stage(RECIPE.model_copy(update={"stages": [RECIPE.stages[0], ppo]}))
    policy = Learning(tiny_model, learning)
    agents = Simulated(lambda request: float(request.id.endswith("/0")))
    for _ in range(10):
        batch = await learning.batch(2, agents, policy, lambda *_: None)  # type: ignore[arg-type]
        assert batch.lesson is not None
        policy.learner.fit_critic(batch.lesson.features, batch.lesson.targets)
    assert batch.passes == Passes(epochs=3) and len(batch.rows) == 4
    seen = policy.learner.observe(batch.rows, batch.loss, "k1", features=False)
    costs = dict(zip(seen.calls, 0.05 * seen.divergences, strict=True))
    assert batch.metrics["policy/kl"] == pytest.approx(float(seen.divergences.sum()) / 8)
    # All prompts are alike, so all calls had one value before.
    offset = {
        float(row.advantages[-1]) + costs[row.rollout_id, 0] - row.rollout_id.endswith("/0")
        for row in batch.rows
    }
    assert max(offset) - min(offset) == pytest.approx(0, abs=1e-5)
    assert -max(offset) == pytest.approx(0.5 - sum(costs.values()) / 4, abs=0.05), "what they are worth"


def test_requests_depend_on_recipe_and_step_alone() -> None:
    again = Recipe.model_validate(RECIPE.model_dump())
    for step in range(2, 5):
        assert stage().requests(step) == stage(again, list(TASKS)).requests(step)
    other = RECIPE.model_copy(update={"seed": 1})
    asked = [[r.task for r in stage(one).requests(2)] for one in (RECIPE, other)]
    assert asked[0] != asked[1]


def test_failed_rollouts_are_counted_and_leave_the_baseline_of_their_group_alone() -> None:
    """The others' advantages are as if the failed one had never been asked for."""
    with_failed = made(stage(), groups([0.0, None, 1.0]), 5)
    without = made(stage(), groups([0.0, 1.0]), 5)
    assert [list(row.advantages) for row in with_failed.rows] == [
        list(row.advantages) for row in without.rows
    ]
    assert (with_failed.metrics["rollout/count"], with_failed.metrics["rollout/failed"]) == (3, 1)
    assert with_failed.metrics["reward/mean"] == without.metrics["reward/mean"] == 0.5


def test_what_the_model_made_fail_is_worth_what_the_recipe_says_and_is_not_tried_again() -> None:
    """It is compared like a rollout that was given so much; the others are still left out."""
    recipe = settled(failed_reward=-1.0)
    ended = groups([0.0, None, 1.0])
    batch = made(stage(recipe), ended, 5)
    given = made(stage(recipe), groups([0.0, -1.0, 1.0]), 5)
    assert [list(row.advantages) for row in batch.rows] == [list(row.advantages) for row in given.rows]
    assert batch.metrics["rollout/failed_by_model"] == 1 and batch.metrics["rollout/unreadable"] == 0
    lost = [replace(a, status=AttemptStatus.UNRESPONSIVE) for a in ended[0].rollouts[1].attempts]
    ended[0] = replace(
        ended[0],
        rollouts=[ended[0].rollouts[0], replace(ended[0].rollouts[1], attempts=lost), ended[0].rollouts[2]],
    )
    assert len(made(stage(recipe), ended, 5).rows) == 2
    rules = stage(recipe).requests(3)[0].retry
    assert rules.statuses == (AttemptStatus.FAILED,) and rules.errors == AROUND_THE_AGENT


def test_a_group_with_nothing_to_compare_is_dropped_and_counted() -> None:
    batch = made(stage(), groups([1.0, None], [0.0, 1.0], [None, None], [1.0, 1.0]), 5)
    assert {row.group for row in batch.rows} == {"g1", "g3"}
    assert (batch.metrics["rollout/dropped_groups"], batch.metrics["rollout/equal_groups"]) == (2, 1)


def test_why_a_group_was_dropped_is_told_and_its_tokens_count_as_sampled() -> None:
    """Of three groups one has answers whose tokens are not known, and one a rollout that failed."""

    def untold(span: Span) -> Span:
        return replace(span, attributes={**span.attributes, semconv.PROMPT_IDS: []})

    ended = groups([0.0, 1.0], [0.0, 1.0], [0.0, None])
    ended[1] = with_spans(ended[1], untold)
    metrics = made(stage(), ended, 5).metrics
    assert metrics["rollout/dropped_groups"] == metrics["rollout/left_out_no_token_ids"] == 2
    assert (metrics["rollout/response_tokens"], metrics["rollout/sampled_tokens"]) == (2, 12)


def test_a_batch_tells_the_shares_of_what_taught_nothing() -> None:
    """Of nine rollouts with two sampled tokens each, four have a gradient: failed ones have none, nor has a
    group with one reward, nor one with nothing to compare."""
    ended = groups([0.0, 1.0], [1.0, 1.0], [1.0, None], [0.0, 0.5, None])
    silent = replace(ended[0].rollouts[0], spans=ended[0].rollouts[0].spans[-1:])
    plain = RECIPE.stages[1].model_copy(update={"kl_coefficient": 0.0})
    recipe = RECIPE.model_copy(update={"stages": [RECIPE.stages[0], plain]})
    batch = made(stage(recipe), ended, 5)
    expected = {"failed": 2 / 9, "without_calls": 0, "equal_groups": 1 / 3, "dropped_groups": 1 / 4}
    for name, share in expected.items():
        assert batch.metrics[f"health/{name}"] == pytest.approx(share), name
    assert batch.metrics["health/wasted_tokens"] == pytest.approx(5 / 9)
    assert [outcome.error is not None for outcome in batch.outcomes].count(True) == 2
    ended[0] = replace(ended[0], rollouts=[silent, *ended[0].rollouts[1:]])
    assert made(stage(recipe), ended, 5).metrics["health/without_calls"] == pytest.approx(1 / 9)


def test_a_group_is_equal_if_no_call_has_an_advantage_whatever_its_rewards_are_made_of() -> None:
    """By reward-to-go the calls of rollouts with one sum may differ, and then they teach something."""

    def earlier(span: Span) -> Span:
        return replace(span, sequence=1) if span.id == "g0/0/r" else span

    members = [rollout("g0", member, 0.3, 2) for member in (0, 1)]
    members[0] = replace(
        members[0], spans=[replace(s, sequence=2 * i) for i, s in enumerate(members[0].spans)]
    )
    ended = [with_spans(Group("g0", "step-000002", members), earlier)]
    ahead = RECIPE.stages[1].model_copy(update={"credit": "reward_to_go"})
    recipes = [RECIPE, RECIPE.model_copy(update={"stages": [RECIPE.stages[0], ahead]})]
    found = [made(stage(recipe), ended, 5).metrics["health/equal_groups"] for recipe in recipes]
    assert found == [1.0, 0.0]


@pytest.mark.parametrize(
    ("algorithm", "share"), [("grpo", 2 / 3), ("reinforce_pp_baseline", 2 / 3), ("reinforce_pp", 0)]
)
def test_a_group_of_equals_is_told_though_the_batchs_mean_gives_it_an_advantage(
    algorithm: str, share: float
) -> None:
    """The better of the first group's rollouts made more calls, so the mean over tokens is above zero.
    Without a baseline equals are learnt from too: as what is better or worse than the batch."""
    chosen = RECIPE.stages[1].model_dump(include={"steps", "optimizer", "groups_per_step", "group_size"})
    own = ReinforcementStage.model_validate(chosen | {"algorithm": algorithm})
    settings = stage(RECIPE.model_copy(update={"stages": [RECIPE.stages[0], own]}))
    ended = groups([0.0, 1.0], [1.0, 1.0], [0.0, 0.0])
    ended[0] = replace(ended[0], rollouts=[ended[0].rollouts[0], rollout("g0", 1, 1.0, calls=2)])
    batch = made(settings, ended, 5)
    if algorithm != "grpo":
        assert all(row.advantages.any() for row in batch.rows)
    assert batch.metrics["health/equal_groups"] == pytest.approx(share)


def test_groups_give_the_same_batch_in_whatever_order_they_end() -> None:
    ended = groups([0.0, 1.0], [1.0, 0.0], [0.5, 1.0])
    first, second = (made(stage(), order, 5) for order in (ended, ended[::-1]))
    assert first.metrics == second.metrics
    for a, b in zip(first.rows, second.rows, strict=True):
        assert a.rollout_id == b.rollout_id and np.array_equal(a.tokens, b.tokens)


def test_a_batch_in_which_everything_failed_has_no_rows() -> None:
    batch = made(stage(), groups([None, None]), 5)
    assert batch.rows == [] and batch.metrics["reward/mean"] == 0.0


def test_staleness_is_the_version_now_minus_the_version_that_sampled() -> None:
    """By the call's oldest token. Beyond what the recipe allows, nothing is learnt, and the call is named."""
    stale = RECIPE.stages[1].model_copy(update={"staleness": 2})
    allowed = stage(RECIPE.model_copy(update={"stages": [RECIPE.stages[0], stale]}))
    assert made(allowed, groups([0.0, 1.0]), 7).metrics["off_policy/staleness_max"] == pytest.approx(2)
    mixed = with_spans(groups([0.0, 1.0])[0], of_versions([[4, 0, 1], [6, 1, 2]]))
    told = r"rollout g0/0, call g0/0/0/0: .* version 4, to be trained at 7, but stages\.1\.staleness is 2"
    with pytest.raises(AlRayError, match=told):
        made(allowed, [mixed], 7)


def of_versions(versions: Sequence[Sequence[int]]) -> Callable[[Span], Span]:
    """A call as if these had sampled it."""

    def change(span: Span) -> Span:
        if span.kind is not SpanKind.CALL:
            return span
        (choice,) = span.attributes[semconv.CHOICES]
        changed = [{**choice, "versions": versions}]
        return replace(span, attributes={**span.attributes, semconv.CHOICES: changed})

    return change


def settled(**transitions: object) -> Recipe:
    return RECIPE.model_copy(update={"transitions": TransitionsSection.model_validate(transitions)})


def with_spans(group: Group, change: object) -> Group:
    return replace(group, rollouts=[replace(r, spans=[change(s) for s in r.spans]) for r in group.rollouts])  # type: ignore[operator]


def test_a_rollout_without_the_reward_that_is_learnt_from_is_no_part_of_the_baseline() -> None:
    """It is not a rollout with reward 0, in training or in evaluation."""

    def another_dimension(span: Span) -> Span:
        told = {semconv.REWARD_DIMENSIONS: {"style": 9.0}}
        return (
            replace(span, attributes=told) if span.kind is SpanKind.REWARD and span.id == "g0/1/r" else span
        )

    unrewarded = [with_spans(group, another_dimension) for group in groups([0.0, 0.5, 1.0])]
    batch, without = (made(stage(), each, 5) for each in (unrewarded, groups([0.0, None, 1.0])))
    assert [list(row.advantages) for row in batch.rows] == [list(row.advantages) for row in without.rows]
    results = [
        result_of(each, RECIPE.transitions, "model") for group in unrewarded for each in group.rollouts
    ]
    of_tasks = [replace(r, task=replace(r.task, id=str(i))) for i, r in enumerate(results)]
    evaluated = summary(RECIPE, of_tasks)
    assert (evaluated.scores["reward"].value, evaluated.scores["reward"].tasks) == (0.5, 2)
    assert evaluated.failed == {"no reward 'reward'": 1}


async def groups_of(step: int, recipe: Recipe) -> Sequence[Group]:
    agents: Any = Simulated(lambda request: 1.0)
    return await stage(recipe).groups(step, agents, lambda *done: None)


async def test_only_the_named_agents_are_trained_and_a_name_of_nobody_ends_the_run_as_it_begins() -> None:
    """Later a step may do without the agent that is trained, and teaches nothing then."""

    def named(span: Span) -> Span:
        agent = "writer" if span.id.endswith("/0") else "checker"
        return replace(span, attributes={**span.attributes, semconv.AGENT_NAME: agent})

    ended = [with_spans(replace(g, rollouts=[rollout(g.id, m, float(m), 2) for m in (0, 1)]), named)
             for g in groups([0.0, 1.0])]  # fmt: skip
    batches = []
    for train in (["*"], ["wr*"], ["editor"]):
        batches.append(
            await stage(settled(train=train)).batch_of(ended, cast(Any, SimpleNamespace(served_version=5)))
        )
    assert [sum(row.trained.sum() for row in batch.rows) for batch in batches] == [8, 4, 0]
    assert batches[2].metrics["rollout/dropped_groups"] == 1
    with pytest.raises(UserError, match=r"transitions.train: \['editor'\]: no agent that made a call"):
        await groups_of(2, settled(train=["editor"]))
    assert len(await groups_of(3, settled(train=["editor"]))) == 2


def test_signals_other_rewards_and_what_was_left_out_are_told() -> None:
    """All that can be told of rollouts, as the table of metrics lists it."""

    def changed(span: Span) -> Span:
        if span.kind is SpanKind.REWARD:
            value = span.attributes[semconv.REWARD]
            return replace(
                span, attributes={semconv.REWARD_DIMENSIONS: {"reward": value, "style": 2 * value}}
            )
        reason = "aborted" if span.id == "g0/1/1" else "length" if span.id == "g0/0/0" else "stop"
        return replace(span, attributes={**span.attributes, semconv.FINISH_REASONS: [reason]})

    members = [rollout("g0", 0, 0.0, 2), rollout("g0", 1, 1.0, 2), rollout("g0", 2, None)]
    ended = [with_spans(Group("g0", "step-000002", members), changed)]
    metrics = made(stage(settled(intermediate={"tool_errors": -0.1})), ended, 5).metrics
    assert unlisted(metrics) == [] and missing(BATCH, metrics) == {"demonstration/too_long", *CRITIC}
    assert missing(HEALTH, metrics) == {"health/too_long", "health/entropy_fall", "health/steps_refused"}
    assert metrics["rewards/style"] == 1.0 and "rewards/reward" not in metrics
    assert metrics["signals/truncated"] == pytest.approx(1 / 3) and metrics["signals/tool_errors"] == 0
    assert metrics["rollout/left_out_aborted"] == metrics["rollout/attempts_failed"] == 1


def test_a_rollout_that_cannot_be_read_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The others of its group are compared; an evaluation gives it no score."""
    poisoned = rollout("g", 2, 1.0)
    told = {semconv.REWARD: 1e308}
    more = [Span(f"huge {i}", "g/2", 1, SpanKind.REWARD, "reward", 9, 9, told, 9 + i) for i in (0, 1)]
    poisoned = replace(poisoned, spans=[*poisoned.spans, *more])
    group = Group("g", "b", [rollout("g", 0, 0.0), rollout("g", 1, 1.0), poisoned])
    batch = made(stage(), [group], 0)
    assert {row.rollout_id for row in batch.rows} == {"g/0", "g/1"}
    assert (batch.metrics["rollout/unreadable"], batch.metrics["rollout/failed"]) == (1, 0)
    assert "left out: the spans of rollout g/2 cannot be read: OverflowError" in caplog.text
    result = result_of(poisoned, TransitionsSection(), RECIPE.model.name)
    assert (result.episode, result.failure) == (None, "unreadable spans")


def test_a_step_of_several_sources_asks_for_each_in_its_share_and_tells_of_each() -> None:
    """Failed rollouts count for their source, and have no reward there."""
    sources = {"a": SourceSection(weight=3), "b": SourceSection()}
    data = RECIPE.data.model_copy(update={"sources": sources})
    mixed = RECIPE.model_copy(update={"data": data})
    tasks = [Task(f"{name}/{i}", {"data_source": name}) for name in "ab" for i in range(4)]
    asked = [request.task.id[0] for step in range(2, 22) for request in stage(mixed, tasks).requests(step)]
    assert asked.count("a") == pytest.approx(60, abs=4) and len(asked) == 80
    ended = [
        replace(
            group,
            rollouts=[replace(r, request=replace(r.request, task=task)) for r in group.rollouts],
        )
        for group, task in zip(groups([0.0, 1.0, None], [1.0, 0.5]), (tasks[0], tasks[4]), strict=True)
    ]
    metrics = made(stage(mixed, tasks), ended, 5).metrics
    assert {key: value for key, value in metrics.items() if "source" in key} == {
        "reward/source/a": 0.5,
        "reward/source/b": 0.75,
        "rollout/source/a": 3,
        "rollout/source/b": 2,
    }
    assert unlisted(metrics) == []
