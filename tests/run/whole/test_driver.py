"""A whole run, killed in the middle, and brought to its end with the real parts; until then its engines have
no model."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UserError
from al_ray.recipe import Recipe, ReinforcementStage, loading
from al_ray.recipe.schedule import stage_spans
from al_ray.reports import jsonl_sink
from al_ray.reports.names import EVALUATION, STEP, TIMES
from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.replay import calls, differences, logged, replay
from al_ray.run.stages.reinforcement import Reinforcement
from al_ray.traces import semconv
from al_ray.types import AttemptStatus, Rollout, RolloutRequest, RolloutStatus, SpanKind, Task
from tests.support.machines.processes import Command, process_name, run, run_here
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing, unlisted

pytestmark = pytest.mark.slow

FIRST_RL_STEP, LAST_STEP = 2, 5
WITH_A_MODEL = LAST_STEP
"""The step whose rollouts are all of the life after the killed one, in which engines have a model."""


@dataclass(frozen=True)
class Place:
    """Where the toy recipe is run. One rollout at a time, so that a step can be met in its middle."""

    path: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path / "out" / "toy" / "a")

    def rollouts(self, batch: str = "") -> Sequence[Rollout]:
        """What the store holds by now."""
        if not (self.run.path / "store.sqlite").exists():
            return ()
        records = Records(self.run.store_url)
        found = records.find_rollouts(Query([Condition("batch", "prefix", batch)])).items
        records.close()
        return found

    def in_the_middle_of(self, step: int) -> bool:
        """Whether some rollouts of a step have ended and others have not."""
        if not any(line["step"] == step and "optim/loss" in line for line in jsonl_sink.read(self.run.path)):
            return False  # the one before has not: a store takes more to look into
        return len({rollout.status.ended for rollout in self.rollouts(f"step-{step:06d}")}) == 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("driver")
    toy.write_code(path)
    content = toy.recipe(tiny_model, path / "out")
    content["agent"] |= {"run": "toy_agent:solve_slowly", "concurrency": 1}
    content["checkpoint"] = {"every": 1, "keep": 3}
    toy.write_recipe(path, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("AL_RAY_DATA", raising=False)  # it would fill in data.path, here but not in the runs
        yield Place(path)


@pytest.fixture(scope="module")
def killed(place: Place) -> Sequence[Rollout]:
    """The rollouts that had ended when the run was killed, all its processes' parents at once, in the
    middle of its second step of reinforcement."""
    turnstiles = place.path / "turnstiles"  # none of which is closed
    turnstiles.mkdir()
    babbling = ["tests.support.runs.turnstiles", turnstiles, "train", "toy.yaml", "--run", "a"]
    with Command(babbling, place.path) as command:
        command.wait_until(lambda: place.in_the_middle_of(FIRST_RL_STEP + 1))
        command.kill()
        command.wait()
        command.wait_until_nothing_is_left()
    return [rollout for rollout in place.rollouts() if rollout.status.ended]


@pytest.fixture(scope="module")
def finished(place: Place, killed: Sequence[Rollout]) -> str:
    """What the resumed run printed until its end, though its learner was killed. Meanwhile nobody else could
    resume it."""
    with Command(["al_ray", "train", "toy.yaml", "--resume"], place.path) as command:
        command.wait_until(lambda: "resumed after step" in command.output)
        (learner,) = [pid for pid in command.alive() if process_name(pid).startswith("ray::Learner")]
        os.kill(learner, signal.SIGKILL)
        code, told = run_here(["train", "toy.yaml", "--resume"], place.path)
        assert (code, "another process has this run under way" in told) == (2, True), told
        (place.path / "hurry").touch()
        assert command.wait() == 0, command.output
        command.wait_until_nothing_is_left(0)
        return command.output


@pytest.fixture
def recipe(place: Place) -> Recipe:
    return place.run.recipe()


def requests(recipe: Recipe) -> Sequence[RolloutRequest]:
    """Those of a run that nothing ever disturbed."""
    tasks = [Task(f"train-{i}", {"word": f"word {i}"}) for i in range(8)]
    span = stage_spans(recipe)[1]
    assert isinstance(span.stage, ReinforcementStage)
    stage = Reinforcement(recipe, span.stage, span, tasks)
    return [request for step in range(FIRST_RL_STEP, LAST_STEP) for request in stage.requests(step)]


def test_every_token_of_the_run_is_accounted_for(place: Place, finished: str) -> None:
    """Though it was killed: what was sampled before counts once. A number that does not fit
    is found."""
    code, told = run(["al_ray", "audit", str(place.run.path)], place.path)
    steps = LAST_STEP - FIRST_RL_STEP
    assert code == 0 and f"{steps} steps, " in told and "each is trained once" in told, told
    changed = place.path / "changed"
    shutil.copytree(place.run.path, changed)
    lines = [orjson.loads(line) for line in (changed / "metrics.jsonl").read_bytes().splitlines()]
    last = [line for line in lines if "learner/trained_tokens" in line][-1]
    last["learner/trained_tokens"] += 1
    (changed / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    code, told = run_here(["audit", changed], place.path)
    assert code == 1 and f"step {LAST_STEP}: " in told and "mistakes: 1" in told, told


def test_a_recorded_step_is_computed_once_more_bit_for_bit(place: Place, finished: str) -> None:
    """Each figure that was logged of it, though the run was killed meanwhile; and where a
    changed recipe would have differed."""
    shutil.rmtree(place.run.checkpoint(LAST_STEP - 1))  # so that the last step needs the one before it
    recipe = place.run.recipe()
    for step in (LAST_STEP - 1, LAST_STEP):
        again, told = replay(place.run, step, recipe), logged(place.run, step)
        assert list(differences(again.figures, told)) == []
        assert len(again.figures.keys() & told.keys()) > 40
    unscaled = recipe.stages[1].model_copy(update={"scale": "none"})
    changed = replay(place.run, LAST_STEP, recipe.model_copy(update={"stages": [recipe.stages[0], unscaled]}))
    assert [call.reward for call in calls(changed)] == [call.reward for call in calls(again)]
    if any(call.advantage for call in calls(again)):
        assert [call.advantage for call in calls(changed)] != [call.advantage for call in calls(again)]
    for number, cure in ((1, "rollouts alone are recorded"), (FIRST_RL_STEP + 1, "raise checkpoint.keep")):
        with pytest.raises(UserError, match=cure):
            replay(place.run, number, recipe)
    with pytest.raises(UserError, match="has not ended"):
        logged(place.run, 77)


def test_a_replay_tells_what_calls_were_worth_and_what_would_be_otherwise(
    place: Place, finished: str
) -> None:
    rollout = f"step-{LAST_STEP - 1:06d}/0/0"
    changed = ["--set", "stages.1.kl_coefficient=0.1"]
    code, told = run_here(["replay", place.run.path, str(LAST_STEP), rollout, *changed], place.path)
    assert code == 0 and rollout in told and "are equal bit for bit" in " ".join(told.split()), told
    assert "optim/loss: " in told and ", changed " in told, told


def test_a_run_whose_learner_is_killed_goes_on_from_the_last_checkpoint(finished: str) -> None:
    told = " ".join(finished.split())
    assert "resumed after step 3" in told
    assert "warning: a learner died" in told and "going on from the last checkpoint" in told, told


def test_a_run_that_is_terminated_while_it_starts_leaves_nothing(place: Place) -> None:
    """As a batch system does it, at a bad moment: the engine's own processes are just coming up."""
    with Command(["al_ray", "train", "toy.yaml", "--set", "name=ended"], place.path) as command:
        command.wait_until(lambda: any("VLLM" in process_name(pid) for pid in command.alive()))
        command.terminate()
        assert command.wait(120) == 130, command.output
        command.wait_until_nothing_is_left(0)
    assert "Traceback" not in command.output


def test_a_resumed_run_asks_for_the_same_rollouts(place: Place, finished: str, recipe: Recipe) -> None:
    """The same ids, tasks and groups in the same batches, none twice."""
    found = [rollout.request for rollout in place.rollouts("step-")]
    assert sorted(found, key=lambda request: request.id) == requests(recipe)


def test_rollouts_that_had_ended_are_not_run_again(
    place: Place, killed: Sequence[Rollout], finished: str
) -> None:
    now = {rollout.id: rollout for rollout in place.rollouts()}
    assert len(killed) > 4
    assert [now[rollout.id] for rollout in killed] == list(killed)


def test_every_rollout_succeeds_in_the_end_and_attempts_of_dead_drivers_count_for_nothing(
    place: Place, finished: str
) -> None:
    found = place.rollouts()
    assert {rollout.status for rollout in found} == {RolloutStatus.SUCCEEDED}
    for rollout in found:
        *before, last = (attempt.status for attempt in rollout.attempts)
        assert last is AttemptStatus.SUCCEEDED and set(before) <= {AttemptStatus.CANCELLED}


def test_every_call_is_in_the_store_with_the_version_of_its_step(
    place: Place, finished: str, recipe: Recipe
) -> None:
    """Each step raises the version by one, also over restarts; evaluations are of the version then."""
    records = Records(place.run.store_url)
    expected = {request.id: int(request.batch.removeprefix("step-")) for request in requests(recipe)}
    for step in (0, FIRST_RL_STEP, LAST_STEP):
        expected |= {f"eval/step-{step:06d}/{index}/0": step for index in range(2)}
    assert set(records.rollout_ids()) == expected.keys()
    for name, version in expected.items():
        rollout = records.rollout(name)
        assert rollout is not None
        [call] = [span for span in rollout.spans if span.kind is SpanKind.CALL]
        [choice] = call.attributes[semconv.CHOICES]
        assert choice["versions"] == [[version, 0, len(choice["ids"])]]
        assert len(choice["ids"]) == len(choice["logprobs"]) <= 8
        [transition] = trajectory(rollout).transitions
        assert transition.policy_version == version
        letters = [letter for letter in rollout.attempts[-1].output if letter.isascii() and letter.isalpha()]
        assert transition.reward == len(letters) / 8
    records.close()


def test_metrics_tell_each_step_once(place: Place, finished: str, recipe: Recipe) -> None:
    lines = jsonl_sink.read(place.run.path)
    evaluations = [line for line in lines if "eval/accuracy" in line]
    assert [line["step"] for line in evaluations] == [0, FIRST_RL_STEP, LAST_STEP]
    logged = {key for line in lines for key in line} - {"step", "time"}
    assert unlisted(logged) == [] and missing((*STEP, *TIMES, *EVALUATION), logged) == {"eval/NAME"}
    steps = [line for line in lines if "optim/loss" in line]
    saved = [line["step"] for line in lines if "time/checkpoint" in line]
    assert len(evaluations) + len(steps) + len(saved) == len(lines)
    assert saved[-1] == LAST_STEP and set(saved) <= {1, 2, 3, 4, 5}
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    for line in steps:
        assert line["policy/version"] == line["step"]
        if line["step"] == WITH_A_MODEL:
            assert line["rollout/surprise"] == pytest.approx(line["policy/entropy"], rel=0.3)
        assert line["policy/entropy"] > 0 and line["optim/grad_norm"] > 0 and line["optim/lr"] == 1e-3
        phases = [line[f"time/{phase}"] for phase in ("weights", "rollouts", "update")]
        assert min(phases) > 0 and line["time/step"] == pytest.approx(sum(phases))
        assert line["perf/trained_tokens_per_s"] > 0
    records = Records(place.run.store_url)
    for line in steps[FIRST_RL_STEP:]:
        of_step = Query([Condition("batch", "=", f"step-{line['step'] - 1:06d}")])
        batch = records.find_rollouts(of_step, [SpanKind.REWARD]).items
        assert line["reward/mean"] == pytest.approx(sum(rewards(rollout)["reward"] for rollout in batch) / 4)
        assert (line["rollout/count"], line["rollout/failed"], line["off_policy/staleness_max"]) == (4, 0, 0)
        assert 0 < line["rollout/response_tokens"] <= 8 and line["rollout/prompt_tokens"] > 4
        assert line["policy/kl"] >= 0
        assert line["rollout/recorded"] or line["perf/generated_tokens_per_s"] > 0
    # What was sampled is what is trained: engine and learner give each token the same probability.
    assert line["step"] == WITH_A_MODEL and abs(line["off_policy/mismatch_kl"]) < 1e-6
    records.close()


def test_the_newest_checkpoints_are_kept_and_are_models(place: Place, finished: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert set(place.run.checkpoints()) >= {LAST_STEP - 2, LAST_STEP}
    first, last = (AutoModelForCausalLM.from_pretrained(place.run.checkpoint(step)) for step in (3, 5))
    moved = [not a.equal(b) for a, b in zip(first.parameters(), last.parameters(), strict=True)]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(place.run.checkpoint(LAST_STEP)).eos_token == "<|im_end|>"


def test_the_console_tells_the_whole_run(finished: str) -> None:
    """Evaluations of earlier lives are in the last one's summary."""
    summary = finished[finished.index("Evaluations") :]
    assert all(name in summary for name in ("untrained", "after supervised", "after grpo"))
    assert "checkpoints/step-000005" in summary and "progress.png" in summary


def test_rollouts_can_be_listed_and_read(place: Place, finished: str) -> None:
    code, listed = run_here(["rollouts", place.run.path, "--batch", "step-000004"], place.path)
    assert code == 0
    assert all(f"step-000004/{member}" in listed for member in ("0/0", "0/1", "1/0", "1/1"))
    code, shown = run_here(["rollouts", place.run.path, "eval/step-000005/1/0"], place.path)
    assert code == 0 and re.search(r"word \d", shown) and "reward" in shown


def test_a_checkpoint_is_evaluated_as_the_run_evaluated_it(
    place: Place, finished: str, joining: Mapping[str, str]
) -> None:
    """The same weights and tasks, greedily: the same answers. And the newest run stays the run."""
    code, output = run(["al_ray", "eval", place.run.checkpoint(LAST_STEP)], place.path, **joining)
    assert code == 0, output
    [folder] = (place.path / "out" / "evaluations" / "toy").iterdir()
    [line] = jsonl_sink.read(folder)
    ours = [line for line in jsonl_sink.read(place.run.path) if "eval/accuracy" in line][-1]
    assert line["eval/accuracy"] == pytest.approx(ours["eval/accuracy"])
    assert line["eval/tasks"] == 2
    assert RunFolder.resume(loading.load(place.path / "toy.yaml"), None) == place.run
