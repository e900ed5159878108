"""One run through the stages that learn otherwise than by reinforcement, with the real parts: the best of
rollouts that a judge rewards are imitated, of two sources by a curriculum; then a teacher, another tiny model
at a vLLM server of its own, is come nearer to. What is trained is an adapter, by two learners together."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.data.tasks import load_tasks
from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.recipe.schedule import stage_spans
from al_ray.reports import jsonl_sink
from al_ray.reports.names import FURTHER
from al_ray.rollouts.rewards import rewards
from al_ray.run.folder import RunFolder
from al_ray.run.stages.stage import stage_of
from al_ray.types import RolloutStatus, SpanKind
from tests.support.machines.processes import run, run_here
from tests.support.runs import toy
from tests.support.runs.metric_keys import missing, unlisted

pytestmark = pytest.mark.slow

SAMPLED, DISTILLED = 3, 9
JUDGE = """
from toy_agent import client


async def judge(task, candidates, llm):
    \"\"\"The longest word is the best; of groups, the model is heard too.\"\"\"
    if len(candidates) > 1:
        async with client(llm) as asking:
            lengths = str([len(each.calls[0].answers[0]["content"]) for each in candidates])
            said = [{"role": "user", "content": lengths}]
            await asking.chat.completions.create(model=llm.model, messages=said)
    return [{"reward": len(each.output), "candidates": len(candidates)} for each in candidates]
"""


def content(model: Path, output: Path, teacher: str) -> dict[str, Any]:
    recipe = toy.recipe(model, output)
    recipe["data"]["sources"] = {"much": {"weight": 3}, "little": {"options": {"count": 3}}}
    recipe["agent"] |= {"judge": "toy_judge:judge", "sampling": {"max_tokens": 32}}
    recipe["upstreams"] = {"wise": {"base_url": teacher, "model": "teacher"}}
    recipe["engines"] |= {"max_running": 32}
    recipe["model"]["lora"] = {"alpha": 64}
    recipe["learners"] = {**recipe.get("learners", {}), "replicas": 2, "weights": "sharded"}
    common = {"steps": SAMPLED, "groups_per_step": 4, "group_size": 3, "curriculum": {"solved": 30}}
    recipe["stages"] = [
        {"algorithm": "rejection_sampling", **common, "optimizer": {"learning_rate": 1e-3}},
        {
            "algorithm": "on_policy_distillation",
            "teacher": "wise",
            "steps": DISTILLED,
            "groups_per_step": 32,
            "optimizer": {"learning_rate": 1e-2},
        },
    ]
    return recipe


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The base URL of a vLLM server, in processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "160", "--max-num-seqs", "32", "--dtype", "float32"]
    command += ["--distributed-executor-backend", "uni", "--enforce-eager"]
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **settings})
    try:
        deadline = time.monotonic() + 300
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, joining: Mapping[str, str]
) -> Iterator[RunFolder]:
    """The student has the teacher's tokenizer and weights of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path_factory.mktemp("stages")
    student = path / "student"
    shutil.copytree(tiny_model, student)
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model)).save_pretrained(student)
    toy.write_code(path)
    (path / "toy_judge.py").write_text(JUDGE)
    with served(tiny_model, path / "teacher.log") as url, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("AL_RAY_DATA", raising=False)
        toy.write_recipe(path, content(student, path / "out", url))
        code, told = run(["al_ray", "train", "toy.yaml", "--run", "a"], path, **joining)
        assert code == 0, told
        yield RunFolder(path / "out" / "toy" / "a")


def test_the_divergence_from_the_teacher_falls(finished: RunFolder) -> None:
    told = [line["teacher/kl"] for line in jsonl_sink.read(finished.path) if "teacher/kl" in line]
    assert len(told) == DISTILLED
    assert sum(told[-3:]) / 3 < sum(told[:2]) / 2 - 0.1, told


def test_each_step_tells_what_became_of_its_rollouts(finished: RunFolder) -> None:
    lines = jsonl_sink.read(finished.path)
    logged = {key for line in lines for key in line} - {"step", "time"}
    assert unlisted(logged) == []
    assert missing(FURTHER, logged) == {"eval/rewards/NAME", "eval/source/NAME"}
    assert {"eval/source/much", "eval/source/little"} <= logged, "which the table has under eval/NAME too"
    sampled = [line for line in lines if "imitation/groups" in line]
    assert [line["step"] for line in sampled] == [1, 2, 3]
    for line in sampled:
        assert (line["judge/groups"], line["judge/failed"], line["rollout/count"]) == (4, 0, 12)
        assert line["reward/mean"] <= line["imitation/reward"] and line["optim/grad_norm"] > 0
    assert sampled[0]["curriculum/tried"] == 0 < sampled[1]["curriculum/tried"]
    code, told = run_here(["audit", finished.path], finished.path)
    assert code == 0 and "rejected" in told and "a judge's" in told, told


def test_the_rewards_of_a_judge_are_in_the_store_with_its_calls(finished: RunFolder) -> None:
    records = Records(finished.store_url)
    found = records.find_rollouts(Query([Condition("batch", "prefix", "step-000001")]), tuple(SpanKind)).items
    records.close()
    judges = [each for each in found if each.request.mode == "judge"]
    judged = [each for each in found if each.request.mode == "train"]
    assert (len(judges), len(judged)) == (4, 12)
    for judge in judges:
        assert judge.status is RolloutStatus.SUCCEEDED
        assert [span.kind for span in judge.spans] == [SpanKind.CALL]
    for each in judged:
        assert rewards(each) == {"candidates": 3, "reward": len(each.attempts[-1].output)}


def test_the_adapter_alone_is_trained_kept_and_given_to_the_engine(finished: RunFolder) -> None:
    """Which samples with the probabilities that the learner computes."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, student = finished.checkpoint(SAMPLED + DISTILLED), Path(finished.recipe().model.path)
    assert not list(folder.glob("model*"))
    whole = AutoModelForCausalLM.from_pretrained(student)
    probe = torch.arange(3, 40)[None]
    untrained = whole(probe).logits.detach()
    trained = PeftModel.from_pretrained(whole, folder)(probe).logits
    assert not torch.allclose(trained, untrained, atol=0.1)
    lines = [line for line in jsonl_sink.read(finished.path) if "off_policy/mismatch_kl" in line]
    assert lines and all(abs(line["off_policy/mismatch_kl"]) < 1e-6 for line in lines)


async def test_a_resumed_run_would_ask_for_the_same(finished: RunFolder) -> None:
    """The curriculum's choice is made again from what the store has of the steps before."""
    recipe = finished.recipe()
    stage: Any = stage_of(recipe, stage_spans(recipe)[0], load_tasks(recipe).train)
    records = Records(finished.store_url)
    agents: Any = SimpleNamespace(records=records)
    for step in range(SAMPLED):
        batch = Query([Condition("batch", "=", f"step-{step:06d}")])
        asked = [each.request for each in records.find_rollouts(batch).items]
        assert asked == stage.requests(step, 0, await stage.tries(step, agents))
        assert {request.task.data["data_source"] for request in asked} <= {"much", "little"}
    records.close()
