"""What is made of runs and their checkpoints: a line each, a server, a model for others."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from al_ray.cli.comparing import list_runs
from al_ray.cli.publishing import export, serve
from al_ray.errors import UserError
from al_ray.machines import devices
from al_ray.models import adapters
from al_ray.recipe import LoraSection, loading
from al_ray.run.ended import model_folder, serving
from al_ray.run.ended.listing import listing
from al_ray.run.ended.serving import server
from al_ray.run.folder import RunFolder
from tests.support.models.weights import write_weights
from tests.support.runs import quiz

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """A run as it is left behind, with a checkpoint of step 1; returns its folder."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    file = quiz.write_recipe(tmp_path, quiz.recipe(tmp_path / "out"))

    def make(name: str, *overrides: str, begun: float = 1000.0) -> Path:
        run = RunFolder.create(loading.load(file, overrides), name)
        lines = [
            {"step": 0, "eval/accuracy": 0.25, "eval/stderr": None, "eval/tasks": 12, "eval/failed": 2},
            {"step": 1, "rollout/failed": 3, "optim/loss": 0.5},
            {"step": 1, "eval/accuracy": 0.75, "eval/stderr": 0.125, "eval/tasks": 12, "eval/failed": 0},
        ]
        (run.path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        checkpoint = run.checkpoint(1)
        (checkpoint / "resume").mkdir(parents=True)
        for path in ("config.json", "resume/state.pt", "model.safetensors"):
            (checkpoint / path).write_text("{}", encoding="utf-8")
        known = {"eos_token_id": 2, "temperature": 0.6}
        (checkpoint / "generation_config.json").write_text(json.dumps(known), encoding="utf-8")
        os.utime(run.recipe_file, (begun, begun))
        return run.path

    return make


def test_a_run_is_told_in_a_line(tmp_path: Path, make_run: MakeRun) -> None:
    """Those of evaluations too; the newest last. A recipe that is no run's is none."""
    second, first = make_run("b", begun=2000.0), make_run("a")
    (first / "recipe.yaml").write_text("nothing: known\n", encoding="utf-8")
    os.utime(first / "recipe.yaml", (1000.0, 1000.0))
    (tmp_path / "out" / "recipe.yaml").write_text("name: x\n", encoding="utf-8")
    one, two = listing(tmp_path / "out")
    assert (one.path, one.wanted, two.path) == (first, None, second)
    assert (two.begun, two.steps, two.wanted) == (2000.0, 1, 1)
    assert (two.first, two.last, two.failed) == (0.25, 0.75, 5)
    assert two.bytes == sum(file.stat().st_size for file in second.rglob("*") if file.is_file())


def test_files_may_go_while_the_runs_are_listed(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a store's log and what of a checkpoint is removed do while a run is under way."""
    run = make_run("a")
    whole = listing(run)[0].bytes
    (run / "store.sqlite-wal").write_text("gone as soon as it is seen")

    def look(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("-wal") and not options:
            found = stat(path)
            os.unlink(path)
            return found
        return stat(path, *arguments, **options)

    stat = os.stat
    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(os, "lstat", lambda path: (look(path), stat(path, follow_symlinks=False))[1])
    assert listing(run)[0].bytes == whole


def test_files_that_nobody_here_may_look_at_are_not_counted(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As below a folder of somebody else's; the run is listed."""
    run = make_run("a")
    whole, look = listing(run)[0].bytes, os.lstat
    (run / "theirs").write_text("whatever")

    def refused(path: Any) -> os.stat_result:
        if str(path).endswith("theirs"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path)

    monkeypatch.setattr(os, "lstat", refused)
    assert listing(run)[0].bytes == whole


def test_a_run_that_is_removed_while_runs_are_listed_is_left_out(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, left = make_run("going"), make_run("left")
    found = RunFolder.all_in(tmp_path / "out")
    monkeypatch.setattr(RunFolder, "all_in", lambda folder: found)
    shutil.rmtree(going)
    assert [line.path for line in listing(tmp_path / "out")] == [left]


def test_a_run_whose_metrics_cannot_be_read_is_listed_beside_the_others_with_the_reason(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("whole", begun=2000.0)
    with (make_run("damaged") / "metrics.jsonl").open("a") as file:
        file.write("half a li\n")
    damaged, whole = listing(tmp_path / "out")
    assert (whole.steps, whole.last, whole.unread) == (1, 0.75, "")
    assert (damaged.steps, damaged.failed, damaged.wanted, damaged.last) == (None, None, 1, None)
    list_runs(tmp_path / "out")
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in told[1:3]] == ["?/1", "1/1"]
    assert told[3].startswith("warning: ") and "damaged/metrics.jsonl, line 4: 'half a li': " in told[3]


def test_a_folder_of_runs_means_the_newest(tmp_path: Path, make_run: MakeRun) -> None:
    """Of a recipe's or of all recipes' runs; never an evaluation, which lies deeper."""
    new, old = make_run("new", begun=2000.0), make_run("old")
    make_run("c", f"output={tmp_path}/out/evaluations", begun=3000.0)
    for path in (new, new.parent, new.parent.parent):
        assert RunFolder.newest(path).path == new
    assert RunFolder.newest(old).path == old
    with pytest.raises(UserError, match="no run folder, nor is one in it"):
        RunFolder.newest(tmp_path / "nowhere")


def test_a_checkpoint_is_served_as_its_run_served_it(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Template, parsers, length, sampling and the name that agents know; on a GPU over as many devices."""
    (tmp_path / "t.jinja").write_text("{{ messages }}", encoding="utf-8")
    template = f"model.chat_template={tmp_path}/t.jinja"
    parsers = ("model.tool_parser=hermes", "model.reasoning_parser=qwen3")
    run = RunFolder(make_run("a", template, *parsers, "engines.tensor_parallel=2"))
    checkpoint = run.checkpoint(1)
    monkeypatch.setattr(serving, "nvidia_gpus", lambda: 2)
    line = server(checkpoint, run.recipe(), "0.0.0.0", 8001).line
    for part in (
        f"vllm serve {checkpoint} --served-model-name none --host 0.0.0.0 --port 8001 --max-model-len 128",
        """--override-generation-config '{"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 8}'""",
        f"--chat-template {checkpoint}/chat_template.jinja",
        "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        "--tensor-parallel-size 2",
    ):
        assert part in line, line
    monkeypatch.setattr(serving, "nvidia_gpus", lambda: 0)
    assert "--enforce-eager" in server(checkpoint, run.recipe(), "0.0.0.0", 8001).options
    assert devices.nvidia_gpus is not serving.nvidia_gpus


def test_an_exported_model_tells_how_it_was_trained(tmp_path: Path, make_run: MakeRun) -> None:
    """And leaves behind what only a resumed run needs. Its defaults are those of the evaluations."""
    output = tmp_path / "model"
    told = export(RunFolder(make_run("a")).checkpoint(1), output, None)
    assert told == f"{output}: the model after step-000001, with a model card"
    found = {file.name for file in output.iterdir()}
    assert found == {"config.json", "model.safetensors", "generation_config.json", "README.md"}
    config = json.loads((output / "generation_config.json").read_bytes())
    assert config == {"eos_token_id": 2, "do_sample": True, "temperature": 0.5, "top_p": 0.9}
    card = (output / "README.md").read_text(encoding="utf-8")
    front, recipe = yaml.safe_load(card.split("---\n")[1]), card.split("```yaml\n")[1].split("```")[0]
    assert front["base_model"] == "nobody/none"
    assert yaml.safe_load(recipe)["agent"]["run"] == "tests.support.runs.quiz:solve"
    assert "# quiz, after 1 steps" in card and "| 0 | grpo | 1 of 1 | 0.001 |" in card
    assert "| untrained | 0.2500 | - | 12 |\n| after grpo | 0.7500 | 0.1250 | 12 |" in card


@pytest.mark.parametrize("merged_before", [False, True])
def test_an_adapters_checkpoint_is_served_and_exported_as_the_model_that_it_makes(
    tmp_path: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    merged_before: bool,
) -> None:
    """Merged with its base, once; nothing of the adapter is exported, nor what merging leaves there."""
    made: list[Path] = []

    def merge(base: Path, adapter: Path, into: Path) -> None:
        made.append(adapter)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (into / name).write_text("{}", encoding="utf-8")

    monkeypatch.setattr(adapters, "_merge", merge)
    checkpoint = RunFolder(make_run("a", "model.lora={}")).checkpoint(1)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}", encoding="utf-8")
    (checkpoint / "model.safetensors").unlink()
    write_weights(checkpoint / adapters.WEIGHTS, {"a": [1]})
    (checkpoint / adapters.CONFIG).write_text(json.dumps(adapters.config(LoraSection(), str(base))))
    if merged_before:
        adapters.merged(checkpoint, print)
    capsys.readouterr()
    serve(checkpoint, "127.0.0.1", 8000, dry_run=True)
    assert capsys.readouterr().out.startswith(f"vllm serve {checkpoint}/merged --served-model-name none ")
    told = export(checkpoint, tmp_path / "model", None)
    assert told == f"{tmp_path}/model: the model after step-000001, with a model card"
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "README.md",
    }
    assert made == [checkpoint]


def test_a_checkpoint_may_be_named_by_a_link_and_from_within(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = RunFolder(make_run("a")).checkpoint(1)
    (checkpoint / ".hidden").touch()
    (checkpoint.parent / "best").symlink_to(checkpoint.name)
    monkeypatch.chdir(checkpoint)
    for name, named in (("linked", checkpoint.parent / "best"), ("within", Path())):
        told = export(named, tmp_path / name, None)
        assert told == f"{tmp_path / name}: the model after step-000001, with a model card"
        assert not (tmp_path / name / "resume").exists() and not (tmp_path / name / ".hidden").exists()


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("~/model", None),
        ("./model", None),
        ("models/mine", None),
        ("a/b/c", None),
        ("/gone/model", None),
        ("owner/model", "owner/model"),
    ],
)
def test_a_model_card_names_a_base_of_the_hub_alone(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, path: str, base: str | None
) -> None:
    """A folder of somebody's machine tells others nothing, also where it is no longer there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").touch()
    run = RunFolder(make_run("a"))
    recipe = run.recipe()
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": path})})
    told = model_folder.card(run.checkpoint(1), recipe)
    assert yaml.safe_load(told.split("---\n")[1]).get("base_model") == base


def test_a_place_where_no_model_can_be_written_is_told(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output: '.*/file/model': cannot be written: .*Not a directory"):
        export(RunFolder(make_run("a")).checkpoint(1), tmp_path / "file" / "model", None)


def test_what_is_of_a_runs_records_is_refused_for_a_model(tmp_path: Path, make_run: MakeRun) -> None:
    checkpoint = RunFolder(make_run("a")).checkpoint(1)
    with pytest.raises(UserError, match=re.escape("--format: 'parquet': is for the records of a run")):
        export(checkpoint, tmp_path / "model", None, what=None, format="parquet")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already; name a new folder"):
        export(checkpoint, tmp_path / "there", None)
