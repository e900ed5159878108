"""An evaluation with the real store, gateway and runners, of a model that is served elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean

import pytest

from al_ray.data.tasks import load_tasks
from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.errors import DataError, UserError
from al_ray.evaluation import report
from al_ray.evaluation.comparison import compared, task_scores
from al_ray.evaluation.evaluate import Evaluation, evaluate
from al_ray.evaluation.subject import Served, served, subject
from al_ray.recipe import Recipe, loading
from al_ray.reports import jsonl_sink
from al_ray.reports.console import Console
from al_ray.run.ended.evaluated import evaluated
from al_ray.run.folder import RunFolder
from al_ray.run.launch.preparation import Prepared
from al_ray.run.launch.start import started_for_evaluation
from al_ray.traces import semconv
from al_ray.types import Rollout, RolloutStatus, SpanKind
from tests.support.machines.processes import Command, run, run_here
from tests.support.runs import quiz


@dataclass(frozen=True)
class Done:
    """An evaluation that has ended."""

    server: quiz.Server
    folder: RunFolder
    recipe: Recipe
    found: Evaluation


@pytest.fixture(scope="module")
def done(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two samples of each of twelve tasks, over two runners."""
    path = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch, quiz.served() as server:
        patch.delenv("AL_RAY_DATA", raising=False)
        patch.setenv("QUIZ_KEY", "sk-quiz")
        file = quiz.write_recipe(path, quiz.recipe(path / "out", samples=2))
        loaded = loading.load(file, ["agent.runners=2"])
        chosen = subject(file, loaded, Served(server.url, "wise/wise:8b", "QUIZ_KEY"))
        folder = RunFolder.create(chosen, "a")
        found = asyncio.run(_evaluate(chosen, folder))
    return Done(server, folder, chosen, found)


async def _evaluate(recipe: Recipe, folder: RunFolder) -> Evaluation:
    tasks = load_tasks(recipe)
    async with started_for_evaluation(Prepared(recipe, folder, tasks, None), Console(StringIO())) as agents:
        return await evaluate(recipe, agents, tasks.held_out, 0, lambda done, total: None)


def test_the_served_model_answers_in_the_models_place_and_is_sampled_as_the_recipe_says(done: Done) -> None:
    """With its own name and key there, and under a name that a recipe may hold here."""
    assert {(body["model"], body["temperature"], body["top_p"], body["max_completion_tokens"])
            for body in done.server.bodies} == {("wise/wise:8b", 0.5, 0.9, 8)}  # fmt: skip
    assert done.server.keys == {"Bearer sk-quiz"}
    assert done.recipe.model.name == "wise-8b"
    assert done.folder.recipe() == done.recipe


def test_rollouts_are_recorded_with_their_calls_and_outputs(done: Done) -> None:
    records = Records(done.folder.store_url)
    found = [
        records.rollout(f"eval/step-000000/{task}/{sample}") for task in range(12) for sample in range(2)
    ]
    records.close()
    for rollout in found:
        assert rollout is not None and rollout.request.mode == "eval"
        if rollout.request.task.id == "t7":
            assert rollout.status is RolloutStatus.FAILED and len(rollout.attempts) == 2
            continue
        [call] = [span for span in rollout.spans if span.kind is SpanKind.CALL]
        assert call.attributes[semconv.HOSTED] and not call.attributes[semconv.PROMPT_IDS]
        said = call.attributes[semconv.OUTPUT_MESSAGES][0]["content"]
        assert rollout.attempts[-1].output == said and said in ("yes", "no")


def test_metrics_are_means_over_the_tasks_that_have_a_score(done: Done) -> None:
    """Of twelve tasks one fails; 3 divides four; of the others every second answer to an odd one is wrong."""
    found = done.found.scores
    assert list(found) == ["reward", "em", "f1", "avg@2", "pass@1", "pass@2"]
    shares = [1.0] * 4 + [0.5] * 3 + [0.0] * 4
    assert found["em"].tasks == 11 and found["em"].value == pytest.approx(fmean(shares))
    assert found["reward"].value == pytest.approx(0.9 * fmean(shares) + 0.1)
    assert found["pass@1"].value == found["em"].value
    assert (found["pass@2"].value, found["pass@2"].method) == (pytest.approx(7 / 11), "wilson")
    assert list(done.found.by) == ["hops"] and list(done.found.by["hops"]) == ["2", "3"]
    assert done.found.by["hops"]["2"]["em"].value == pytest.approx(4 / 6)
    assert done.found.by["hops"]["3"]["em"].tasks == 5


def test_what_failed_is_told_by_reason(done: Done) -> None:
    assert done.found.failed == {"openai.InternalServerError": 2}
    said = StringIO()
    report.show(done.found, Console(said), done.folder.path)
    assert "2 of 24 rollouts have no score: 2 openai.InternalServerError" in said.getvalue()


def test_what_failed_is_told_with_its_message_and_the_agents_own_place(done: Done) -> None:
    """Once, though it happened twice; and how to see one of them."""
    said = StringIO()
    report.show(done.found, Console(said), done.folder.path)
    [line] = [line for line in said.getvalue().splitlines() if line.startswith("  2 x ")]
    assert "openai.InternalServerError: Error code: 500" in line and "the server has no idea" in line
    place = re.search(r"\((\S+), line (\d+), in solve\): al-ray rollouts (\S+) (\S+)$", line)
    assert place is not None
    code = Path(place[1]).read_text().splitlines()[int(place[2]) - 1]
    assert place[1].endswith("tests/support/runs/quiz.py") and "client.chat.completions.create" in code
    assert place[3] == str(done.folder.path) and place[4].startswith("eval/step-000000/")


def test_the_table_and_the_file_tell_the_same(done: Done) -> None:
    said = StringIO()
    report.show(done.found, Console(said), done.folder.path)
    [em] = [line.split() for line in said.getvalue().splitlines() if line.startswith("em ")]
    told = json.loads(report.write(done.found, done.recipe, done.folder.path).read_bytes())
    value = told["metrics"]["em"]
    assert em == ["em", f"{value['value']:.4f}", f"{value['low']:.4f}", "to", f"{value['high']:.4f}",
                  "bootstrap", "11"]  # fmt: skip
    assert (told["samples"], told["rollouts"], told["upstream"]) == (2, 24, done.server.url)
    assert told["by"]["hops"]["3"]["em"]["tasks"] == 5
    assert [len(task["rewards"]) for task in sorted(told["tasks"], key=lambda task: task["id"])].count(
        2
    ) == 11
    assert "By hops" in said.getvalue()


def test_predictions_are_the_first_samples_outputs_of_the_tasks_that_have_one(done: Done) -> None:
    path = report.write_predictions(done.found, done.recipe, done.folder.path)
    assert path == done.folder.path / "predictions.json"
    records = Records(done.folder.store_url)
    expected = {}
    for position in range(12):
        rollout = records.rollout(f"eval/step-000000/{position}/0")
        assert rollout is not None
        if rollout.status is RolloutStatus.SUCCEEDED:
            expected[rollout.request.task.data["question"]] = rollout.attempts[-1].output
    records.close()
    assert json.loads(path.read_text()) == expected and len(expected) == 11


def test_a_key_that_no_task_has_is_told_with_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    loaded = loading.load(quiz.write_recipe(tmp_path, quiz.recipe(tmp_path, by=["hardness"])))
    with pytest.raises(DataError, match="'hardness': no held-out task has it; there are hops, question"):
        load_tasks(loaded)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((None, "wise", None), "--model: 'wise': is for a served model: give its --url too"),
        ((None, None, "KEY"), "--api-key-env: 'KEY': is for a served model: give its --url too"),
        (("localhost:8000", "wise", None), "--url: 'localhost:8000': an OpenAI-compatible server's: write"),
        (
            ("http://a:b/v1", "wise", None),
            "--url: 'http://a:b/v1': an OpenAI-compatible server's: write",
        ),
        (("http://localhost:8000/v1", None, None), "give --model too: what the server calls the model"),
        (("http://localhost:8000/v1", "wise", "NO_SUCH_KEY"), "--api-key-env: 'NO_SUCH_KEY': this variable"),
    ],
)
def test_options_that_name_no_served_model_are_told_with_the_cure(
    options: tuple[str | None, str | None, str | None], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        served(*options)


def test_a_checkpoint_is_evaluated_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the folder says which one it was, and a resume with another one is refused."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    loaded = loading.load(quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out")))
    one, two = (tmp_path / "checkpoints" / f"step-{step:06d}" for step in (1, 2))
    for folder in (one, two):
        folder.mkdir(parents=True)
    chosen = subject(one, loaded, None)
    assert chosen.model.path == str(one)
    RunFolder.create(chosen, "a")
    with pytest.raises(UserError, match="the run was started with"):
        RunFolder.resume(subject(two, loaded, None), "a")
    assert RunFolder.resume(chosen, "a").recipe() == chosen


def test_what_is_recorded_of_an_evaluation_is_compared_as_it_was_scored(done: Done) -> None:
    """With itself: by the same tasks and means, and without a difference."""
    with evaluated(done.folder.path) as side:
        rollouts = side.records.find_rollouts(Query(), tuple(SpanKind)).items
    scored = task_scores(rollouts, "reward")
    found = compared(scored, scored, "reward")
    assert list(found.metrics) == ["reward", "em", "f1"]
    for name, moved in found.metrics.items():
        assert moved.first.value == pytest.approx(done.found.scores[name].value)
        assert (moved.difference.value, moved.difference.tasks) == (0.0, 11)
    assert found.left_out == {"without a score in one of them": 1}


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_without_the_rollouts_that_had_ended(
    tmp_path: Path, joining: Mapping[str, str]
) -> None:
    """Killed with all its processes' parents at once; then asked for again, and once more when it is done."""
    content = quiz.recipe(tmp_path / "out", samples=2)
    content["agent"] |= {"run": "tests.support.runs.quiz:solve_slowly", "concurrency": 2}
    quiz.write_recipe(tmp_path, content)
    with quiz.served() as server:
        served_by = ["--url", server.url, "--model", "wise"]
        evaluating = ["al_ray", "eval", "quiz.yaml", *served_by, "--run", "a"]
        with Command(evaluating, tmp_path) as command:
            command.wait_until(lambda: sum(server.asked.values()) > 8)
            command.kill()
            command.wait()
            command.wait_until_nothing_is_left()
        folder = RunFolder(tmp_path / "out" / "evaluations" / "quiz" / "a")
        before = {rollout.id: rollout for rollout in _rollouts(folder) if rollout.status.ended}
        calls = sum(server.asked.values())
        code, output = run([*evaluating, "--resume"], tmp_path, **joining)
        assert code == 0, output
        after = {rollout.id: rollout for rollout in _rollouts(folder)}
        assert 4 < len(before) < 24 == len(after)
        assert before == {name: after[name] for name in before}
        # Question 7 is tried twice; what was under way when it was killed, again.
        assert sum(server.asked.values()) - calls <= 24 - len(before) + 2
        calls = sum(server.asked.values())
        code, again = run([*evaluating, "--resume"], tmp_path, **joining)
        assert sum(server.asked.values()) == calls
        other, refused = run_here([*evaluating[1:], "--resume", "--samples", "3"], tmp_path)
    assert (code, other) == (0, 2), again + refused
    assert "evaluation.samples: 3: the run was started with 2" in refused
    assert _metrics(again) == _metrics(output) and "pass@2" in output
    told = json.loads((folder.path / "evaluation.json").read_bytes())
    assert told["failed"] == {"openai.InternalServerError": 2}
    [line] = jsonl_sink.read(folder.path)
    assert line["eval/em"] == told["metrics"]["em"]["value"] and line["eval/failed"] == 2
    assert line["eval/accuracy"] == told["metrics"]["reward"]["value"]
    assert re.search(r"predictions \S+/predictions\.json", output)


def _rollouts(folder: RunFolder) -> list[Rollout]:
    records = Records(folder.store_url)
    found = records.find_rollouts(Query()).items
    records.close()
    return found


def _metrics(output: str) -> str:
    return output[output.index("Metrics") : output.index("results")]
