"""A run's rollouts are measured by the weights that sampled them, with real engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UserError
from al_ray.recipe import Recipe
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.measure import Wanted, _weights, chosen
from al_ray.traces import call_span
from al_ray.types import Rollout, SpanKind
from tests.support.machines.processes import run, run_here
from tests.support.runs import toy

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Done:
    """A run of three steps of reinforcement, and a measurement of its last one."""

    path: Path
    code: int
    output: str

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path / "out" / "toy" / "a")

    @property
    def measured(self) -> RunFolder:
        return RunFolder(self.path / "out" / "measurements" / "toy" / "m")

    @property
    def told(self) -> Mapping[str, Any]:
        return orjson.loads((self.measured.path / "measured.json").read_bytes())


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, joining: Mapping[str, str]
) -> Iterator[Done]:
    path = tmp_path_factory.mktemp("measure")
    toy.write_code(path)
    content = toy.recipe(tiny_model, path / "out")
    content["agent"] |= {"run": "toy_agent:converse"}
    content["stages"] = [content["stages"][1]]
    content["checkpoint"] = {"every": 1}
    toy.write_recipe(path, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("AL_RAY_DATA", raising=False)
        code, output = run(["al_ray", "train", "toy.yaml", "--run", "a"], path, **joining)
        assert code == 0, output
        code, output = run(measure_command("--samples", "3"), path, **joining)
        yield Done(path, code, output)


def measure_command(*options: str) -> list[str]:
    return ["al_ray", "measure", "out/toy/a", "--run", "m", "--rollouts", "3", *options]


def rollouts(folder: RunFolder, batch: str = "") -> Sequence[Rollout]:
    with closing(Records(folder.store_url)) as records:
        return records.find_rollouts(Query([Condition("batch", "prefix", batch)]), tuple(SpanKind)).items


def test_the_newest_step_whose_weights_are_kept_is_measured(done: Done) -> None:
    """Three steps leave the weights after the second and the third; the former sampled the last step."""
    assert done.code == 0, done.output
    assert (done.told["step"], done.told["weights"]) == (3, str(done.run.checkpoint(2)))
    assert "3 rollouts of step 3, each state 3 times" in done.output
    for title in ("Agreement with the measured advantages", "identical", "group_in_group", "(the stage)"):
        assert title in done.output
    assert not done.told["diverged"] and not done.told["failed"]


def test_values_are_means_of_rollouts_that_begin_as_recorded(done: Done) -> None:
    """And the last one is the recorded return."""
    recorded = {rollout.id: rollout for rollout in rollouts(done.run, "step-000002")}
    played = rollouts(done.measured)
    assert len(played) == done.told["rollouts"] == (2 + 3 * 2) * 3
    assert len(done.told["calls"]) == 3 * 3
    returns: dict[tuple[str, int], list[float]] = {}
    for rollout in played:
        replay = rollout.request.replay
        state = (replay.rollout_id, replay.calls) if replay else (rollout.request.group.split("/")[-2], 0)
        returns.setdefault(state, []).append(trajectory(rollout).reward)
        calls = call_span.answered(rollout.spans)
        again = [call_span.is_replayed(call) for call in calls]
        assert again == [number < state[1] for number in range(3)]
        if replay:
            answers = [call_span.choices(call)[0].message for call in calls[: replay.calls]]
            theirs = call_span.answered(recorded[replay.rollout_id].spans)
            assert answers == [call_span.choices(call)[0].message for call in theirs[: replay.calls]]
    for call in done.told["calls"]:
        group = recorded[call["rollout"]].request.group.split("/")[-1]
        before = (call["rollout"], call["number"] - 1) if call["number"] > 1 else (group, 0)
        assert call["before"]["mean"] == pytest.approx(sum(returns[before]) / 3)
        if call["number"] == 3:
            assert call["after"]["mean"] == pytest.approx(trajectory(recorded[call["rollout"]]).reward)


def test_the_first_sampled_call_begins_with_the_recorded_tokens(done: Done) -> None:
    """Its prompt is that of the recorded call in the same place, token for token, also where the tokens are
    not those of their text."""
    recorded = {rollout.id: rollout for rollout in rollouts(done.run, "step-000002")}
    compared = 0
    for rollout in rollouts(done.measured):
        if (replay := rollout.request.replay) is None:
            continue
        mine = call_span.answered(rollout.spans)[replay.calls]
        theirs = call_span.answered(recorded[replay.rollout_id].spans)[replay.calls]
        told, known = call_span.lineage(mine), call_span.lineage(theirs)
        assert told is not None and known is not None
        assert (told.outcome, told.reused_tokens) == (known.outcome, known.reused_tokens)
        assert call_span.prompt_ids(mine) == call_span.prompt_ids(theirs)
        compared += told.outcome == "continued"
    assert compared


def test_a_measurement_that_is_asked_for_again_is_not_played_again(
    done: Done, joining: Mapping[str, str]
) -> None:
    """The same samples are; more of them are added to those that there are, whatever an engine says."""
    before = {rollout.id: rollout for rollout in rollouts(done.measured)}
    _, *more = measure_command("--samples", "4", "--resume")
    code, output = run(["tests.support.runs.without_vllm", *more], done.path, **joining)
    assert code == 0, output
    after = {rollout.id: rollout for rollout in rollouts(done.measured)}
    assert len(after) == len(before) * 4 / 3
    assert before == {name: after[name] for name in before}


def test_the_run_is_left_as_it_was(done: Done) -> None:
    """Its tokens are accounted for as before."""
    code, output = run_here(["audit", "out/toy/a"], done.path)
    assert code == 0 and "3 steps" in output, output
    assert {rollout.request.batch for rollout in rollouts(done.run)} == {
        *(f"step-{step:06d}" for step in range(3)), "eval/step-000000", "eval/step-000003"}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (
            Wanted(step=2),
            "--step: 2: its rollouts were sampled by the weights after step 1, which are not kept",
        ),
        (Wanted(step=7), "--step: 7: steps of reinforcement are 1 to 3"),
        (
            Wanted(rollouts=["step-000001/0/0", "step-000002/0/0"]),
            "of steps 2, 3': measure rollouts of one step",
        ),
        (Wanted(rollouts=["eval/step-000000/0/0"]), "only rollouts of a step of reinforcement have a credit"),
        (Wanted(rollouts=["nothing"]), "no rollout starts so"),
        (Wanted(step=2, checkpoint=Path("nowhere")), "--checkpoint: 'nowhere': it has no config.json"),
    ],
)
def test_what_cannot_be_measured_is_said_with_what_can(done: Done, wanted: Wanted, told: str) -> None:
    with pytest.raises(UserError) as refused:
        chosen(done.run, done.run.recipe(), wanted)
    assert told in str(refused.value)


def test_weights_of_different_places_are_not_called_alike(tmp_path: Path) -> None:
    """Two runs' checkpoints after as many steps, say: with --resume the one's rollouts were the other's."""
    folder = RunFolder(tmp_path / "a")
    places = [RunFolder(tmp_path / name).checkpoint(2) for name in "abc"]
    for place in places:
        place.mkdir(parents=True)
        (place / "config.json").touch()
    _, kept = _weights(folder, 3, None)
    own, *others = (_weights(folder, 3, place)[1] for place in places)
    assert own == kept == "step-000002"
    assert len({own, *others}) == 3


def test_rollouts_that_are_named_are_measured_by_the_weights_that_are_named(done: Done) -> None:
    found = chosen(
        done.run,
        done.run.recipe(),
        Wanted(rollouts=["step-000001/1/0"], checkpoint=done.run.checkpoint(3)),
    )
    assert [each.request.id for each in found.recorded] == ["step-000001/1/0"]
    assert (found.step, found.weights) == (2, done.run.checkpoint(3))
    first = chosen(done.run, done.run.recipe(), Wanted(step=1))
    assert (first.weights, first.weights_name) == (None, "untrained")
    assert [each.request.id[-3:] for each in first.recorded] == ["0/0", "1/0", "0/1", "1/1"]


def test_a_run_whose_rewards_are_a_judge_s_is_refused(tmp_path: Path) -> None:
    """Who plays on from one state would be compared with nobody from another, also without the judge."""
    content = toy.recipe(tmp_path / "model", tmp_path / "out")
    content["agent"]["judge"] = "toy_agent:judge"
    folder = RunFolder.create(Recipe.model_validate(content), "a")
    content["agent"]["judge"] = None
    for recipe in (folder.recipe(), Recipe.model_validate(content)):
        with pytest.raises(UserError, match="rewards a group's rollouts beside each other"):
            chosen(folder, recipe, Wanted())
