"""The command line: what a verb prints, writes and returns; the user's mistakes in one message each."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from al_ray.cli import app
from al_ray.database.backends import close_log
from al_ray.database.writer import Database
from al_ray.errors import UselessRunError
from al_ray.machines import devices
from al_ray.recipe import Recipe
from al_ray.run.folder import RunFolder
from al_ray.types import RolloutRequest, Task
from tests.support.machines.processes import ROOT, run
from tests.support.runs import toy
from tests.support.runs.recorded import record

Invoke = Callable[[str], tuple[int, str]]

WITH_IMPORTS_TOLD = """
import sys
from al_ray.cli.app import main
try:
    main()
finally:
    heavy = sorted({"torch", "ray", "vllm", "transformers", "matplotlib", "wandb"} & sys.modules.keys())
    print("imported:", heavy, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """With the toy recipe and its code, where commands are run."""
    toy.write_code(tmp_path)
    toy.write_recipe(tmp_path, toy.recipe(tiny_model, tmp_path / "out"))
    return tmp_path


@pytest.fixture
def invoke(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command in this process; returns its exit code and what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "toy_agent", raising=False)
    for variable in ("RAY_ADDRESS", "AL_RAY_DATA"):
        monkeypatch.delenv(variable, raising=False)

    def invoke(command: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["al-ray", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return invoke


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["try", "--help"],
        ["runs", "."],
        ["init", "mine"],
        ["validate", "toy.yaml"],
        ["train", "toy.yaml", "--dry-run"],
        ["train", "toy.yaml", "--set", "placement.device=gpu"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_what_starts_nothing_imports_nothing_heavy(folder: Path, arguments: list[str]) -> None:
    """So it answers at once. A recipe that cannot be placed is among it: Ray is not started for it."""
    command = [sys.executable, "-c", WITH_IMPORTS_TOLD, *arguments]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == (2 if "placement.device=gpu" in arguments else 0), done.stderr
    assert done.stderr.splitlines()[-1] == "imported: []"


def test_an_evaluation_imports_no_torch_of_its_own() -> None:
    """What answers may be a server; else torch is the engine's. It takes a second of computing."""
    evaluation = ("evaluation.evaluate", "evaluation.report")
    parts = ("cli.evaluating", *evaluation, "run.launch.start", "run.step_report")
    imports = f"import sys, {', '.join(f'al_ray.{part}' for part in parts)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", imports], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


def test_a_dry_run_prints_recipe_and_placement_and_leaves_nothing_behind(invoke: Invoke) -> None:
    code, output = invoke("train toy.yaml --dry-run --set seed=7")
    assert code == 0, output
    assert "seed: 7\n" in output and "clip_high: 0.2\n" in output
    assert "8 tasks to train on, 2 held out" in output
    assert "placement: cpu, colocated" in output and "engine 0, learner 0" in output
    assert not Path("out").exists()


def test_the_recipe_that_a_dry_run_prints_is_the_recipe(invoke: Invoke) -> None:
    """It can be kept and run."""
    _, output = invoke("train toy.yaml --dry-run")
    Path("printed.yaml").write_text(output[: output.index("8 tasks")])
    assert invoke("train printed.yaml --dry-run") == (0, output)


def test_a_dry_run_for_a_described_cluster_places_every_engine_and_learner(invoke: Invoke) -> None:
    code, output = invoke(
        "train toy.yaml --dry-run --set placement.device=gpu "
        "--set 'placement.cluster=[{count: 2, cpus: 64, gpus: 8}]' "
        "--set engines.replicas=5 --set engines.tensor_parallel=2 --set learners.replicas=6"
    )
    assert code == 0, output
    table = output[output.index("placement: gpu, disaggregated") :]
    rows = {" ".join(words[:2]): words[2:] for line in table.splitlines() if len(words := line.split()) == 5}
    assert rows == {
        **{f"engine {i}": [str(i // 4), "8", "2"] for i in range(5)},
        **{f"learner {i}": ["1", "8", "1"] for i in range(6)},
    }


def test_a_dry_run_shows_the_engines_that_may_come(invoke: Invoke) -> None:
    code, output = invoke("train toy.yaml --dry-run --set engines.max_replicas=2")
    assert code == 0 and "engine 0, learner 0" in output, output
    [line] = [line for line in output.splitlines() if line.strip().startswith("engine 1")]
    assert "any with room" in line


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_dry_runs(invoke: Invoke, path: Path) -> None:
    """On a described cluster, so that it does not matter what this machine is."""
    if path.stem == "node_agent" and shutil.which("node") is None:
        pytest.skip("there is no node here")
    code, output = invoke(f"train {path} --dry-run --set 'placement.cluster=[{{cpus: 16, gpus: 1}}]'")
    assert code == 0, output
    assert "engine 0, learner 0" in output


MISTAKES = {
    "train absent.yaml": "error: recipe: 'absent.yaml': cannot be read: No such file or directory",
    "train toy.yaml --set model.pth=x": "error: toy.yaml: model.pth: 'x': no such key; did you mean 'path'?",
    "train toy.yaml --seed -1": "error: toy.yaml: seed: -1: Input should be greater than or equal to 0",
    "train toy.yaml --run ../x": "error: --run: '../x': letters, digits and _.- are allowed",
    "train toy.yaml --resume": "error: --resume: '{folder}/out/toy/*': there is no such run",
    "train toy.yaml --resume --run a": "error: --resume: '{folder}/out/toy/a': there is no such run",
    "train toy.yaml --set placement.device=gpu": "error: placement: 'colocated on gpu: ",
    "train toy.yaml --set engines.replicas=99999": "error: placement: 'colocated on cpu: 1 x (engine + ",
    "train toy.yaml --set model.path=absent": "error: toy.yaml: model.path: 'absent': no such folder",
    "train toy.yaml --set data.options.count=0": "error: data.options: {{'count': 0}}: no train task is",
    "validate toy.yaml --set agent.run=toy_agent:number": "error: toy.yaml: agent.run: 'toy_agent:number'",
    "validate toy.yaml --set placement.device=gpu": "error: placement: 'colocated on gpu: 1 x (engine + ",
    "validate toy.yaml --set model.path=nobody/none": "error: model.path: 'nobody/none': no such folder, and",
    "validate toy.yaml --set model.max_length=99999": "error: model.max_length: 99999: is more than the mode",
    "validate toy.yaml --set data.load=json:dumps": "error: toy.yaml: data.load: 'json:dumps': cannot be cal",
    "eval .": "error: checkpoint: '.': no checkpoint of a run; give RUN/checkpoints/step-..., or a recipe",
    "rollouts out": "error: run: 'out': no run folder, nor is one in it: no recipe.yaml",
    "rollouts . --sort cost": "error: --sort: 'cost': one of asked, reward, seconds, attempts",
    "rollouts . --follow --limit 3": "error: --follow: '.': tells of rollouts as they end; --sort, --rev",
    "rollouts . --mode test": "error: --mode: 'test': one of train, eval",
    "rollouts . --status done": "error: --status: 'done': one of queued, running, succeeded, failed, canc",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2_before_anything_is_written(
    invoke: Invoke, folder: Path, command: str
) -> None:
    before = set(folder.iterdir())
    code, output = invoke(command)
    assert code == 2, output
    [line] = output.splitlines()
    assert line.startswith(MISTAKES[command].format(folder=folder))
    assert {path.name for path in set(folder.iterdir()) - before} <= {"__pycache__"}


def test_validate_tells_all_that_would_end_a_run_at_once(invoke: Invoke, folder: Path) -> None:
    """Loader, model and placement, each with its cure."""
    with (folder / "toy_agent.py").open("a") as code:
        code.write("\n\ndef load(path, split):\n    return [{}['absent']]\n")
    wrong = ["model.path=nobody/none", "placement.device=gpu"]
    code_, output = invoke("validate toy.yaml " + " ".join(f"--set {each}" for each in wrong))
    assert code_ == 2
    assert [line.split(":")[1].strip() for line in output.splitlines()] == [
        "data.load",
        "model.path",
        "placement",
    ]
    assert "failed on the split 'train': KeyError: 'absent'" in output and "toy_agent.py, line" in output


def test_a_recipe_for_a_described_cluster_is_valid_on_any_machine(invoke: Invoke) -> None:
    cluster = "--set placement.device=gpu --set 'placement.cluster=[{cpus: 16, gpus: 1}]'"
    code, output = invoke(f"validate toy.yaml --set model.dtype=auto {cluster}")
    valid, computing, memory = output.splitlines()
    assert (code, valid) == (0, "toy.yaml: valid; 8 tasks to train on, 2 held out")
    assert computing == "computing in bfloat16 on gpu, layers computed again in the backward pass"
    assert memory.startswith("memory, estimated: a learner 1.0 GiB (weights 0.0, ")


def test_what_a_run_will_hold_is_told_before_it_starts_and_refused_where_that_cannot_be(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = invoke("train toy.yaml --dry-run")
    assert code == 0 and "a learner 0.8 of " in output and "activations" in output
    monkeypatch.setattr(devices, "memory", lambda: 2**30)
    code, output = invoke("validate toy.yaml")
    assert code == 2 and "model.path: '0.8 GiB': is what a learner of this model holds at least" in output


def test_prompts_that_cannot_fit_are_warned_of(invoke: Invoke) -> None:
    short = [f"--set {section}.sampling.max_tokens=2" for section in ("agent", "evaluation")]
    changed = ["--set model.max_length=9", *short, "--set data.load=toy_agent:load_long"]
    code, output = invoke(f"validate toy.yaml {' '.join(changed)}")
    assert code == 0 and "valid; 8 tasks" in output, output
    assert (
        "warning: 10 of the first 10 tasks hold a text that no prompt has room for: 'word' of 'train-0' has "
        in output
    )
    assert "model.max_length is 9" in output


@pytest.fixture
def recorded(folder: Path, tiny_model: Path) -> Path:
    """A run folder whose store has rollouts of every kind, and a run that is under way."""
    recipe = Recipe.model_validate(toy.recipe(tiny_model, folder / "out"))
    run_folder = RunFolder.create(recipe, "a")
    database = Database(run_folder.store_url)
    record(database, 0, 9)
    database.close()
    return run_folder.path


def test_rollouts_are_listed_filtered_sorted_and_paged(invoke: Invoke, recorded: Path) -> None:
    code, output = invoke(f"rollouts {recorded} --sort reward --min-reward 0.1 --limit 2 --agent '*'")
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()] == ["rollout", "r7", "r6", "there"]
    assert output.splitlines()[-1] == "there are more after these: --page 2"
    code, output = invoke(f"rollouts {recorded.parent} --json --sort seconds --reverse --limit 2")
    assert [(row["rollout_id"], row["reward"]) for row in map(json.loads, output.splitlines())] == [
        ("r0", 0.0),
        ("r1", 0.1),
    ]
    code, output = invoke(f"rollouts {recorded} r5")
    assert code == 0 and "ValueError: 5" in output and "call 1 of odd: 1.00 s" in output
    code, output = invoke(f"rollouts {recorded} r7 --json")
    told = json.loads(output)
    assert [each["kind"] for each in told["story"]] == ["call", "reward"] and told["reward"] == 0.7
    assert told["story"][0]["answers"][0]["choice"]["response_ids"] == [7, 8]


def test_a_run_under_way_is_listed_as_it_is_at_that_moment(invoke: Invoke, recorded: Path) -> None:
    """Also in the middle of a write, whose rollouts are there once it is done."""
    database = Database(RunFolder(recorded).store_url)
    with database.begin() as connection:
        database.enqueue(connection, [RolloutRequest("late", "step-000009/x", "g", Task("t", {"q": "?"}))])
        code, output = invoke(f"rollouts {recorded}")
        assert (code, "r5" in output, "late" in output) == (0, True, False), output
    code, output = invoke(f"rollouts {recorded} --status queued")
    assert (code, "r5" in output, "late" in output) == (0, False, True), output
    database.close()


READERS = (
    "rollouts {run}",
    "rollouts {run} r5",
    "export {run} -o x.jsonl",
    "compare {run} {run}",
    "audit {run}",
    "replay {run} 3",
    "measure {run}",
)

LOGGED = '{"step": 3, "learner/trained_tokens": 8.0, "optim/loss": 0.5}\n'


@pytest.mark.parametrize("command", READERS)
def test_a_store_that_is_gone_or_damaged_is_told_and_nothing_is_written_in_its_place(
    invoke: Invoke, recorded: Path, folder: Path, command: str
) -> None:
    """Not a new one, either; and what was exported before stays."""
    (recorded / "metrics.jsonl").write_text(LOGGED)
    (folder / "x.jsonl").write_text("before")
    store = recorded / "store.sqlite"
    close_log(RunFolder(recorded).store_url)
    whole = store.read_bytes()
    for left, told in (
        (None, "'no such file': no run has written here; has it begun, or was the store removed?"),
        (whole[: len(whole) // 2], "'database disk image is malformed': no store can be read there"),
        (b"nothing of ours " * 512, "'file is not a database': no store can be read there"),
    ):
        store.unlink() if left is None else store.write_bytes(left)
        code, output = invoke(command.format(run=recorded))
        assert (code, output) == (2, f"error: store sqlite:///{store}: {told}\n")
        assert (folder / "x.jsonl").read_text() == "before"
        assert left == (store.read_bytes() if store.exists() else None)


@pytest.mark.parametrize("command", READERS[:3])
def test_what_a_run_recorded_is_read_where_nothing_may_be_written(
    invoke: Invoke, recorded: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """SQLite itself is kept from it, for a test may be run by who may write anywhere."""
    close_log(RunFolder(recorded).store_url)
    connect = sqlite3.connect

    def reading(address: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
        assert "mode=ro" in str(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", reading)
    before = {file: file.read_bytes() for file in recorded.iterdir()}
    code, output = invoke(command.format(run=recorded))
    assert code == 0, output
    assert {file: file.read_bytes() for file in recorded.iterdir()} == before


def test_rollouts_are_followed_from_before_there_is_a_store(
    invoke: Invoke, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = RunFolder(recorded).store_url
    (recorded / "store.sqlite").unlink()

    def pass_time() -> Iterator[None]:
        yield  # the driver is at work on other things
        with closing(Database(url)) as database:
            yield
            record(database, 0, 2)
            yield
        raise KeyboardInterrupt

    passing = pass_time()
    monkeypatch.setattr(time, "sleep", lambda seconds: next(passing))
    code, output = invoke(f"rollouts {recorded} --follow")
    assert code == 130
    told = [line.split()[0] for line in output.splitlines()]
    assert told == ["r0", "r1", "waiting:"], output


def test_a_run_is_exported(invoke: Invoke, recorded: Path, folder: Path) -> None:
    assert invoke(f"export {recorded} --what transitions --batch eval -o x.jsonl") == (
        0,
        "x.jsonl: 4 transitions\n",
    )
    assert len((folder / "x.jsonl").read_bytes().splitlines()) == 4
    code, output = invoke(f"export {recorded} -o x.csv --format csv")
    assert (code, output) == (2, "error: --format: 'csv': one of jsonl, parquet\n")
    code, output = invoke(f"export {recorded} -o x.parquet")
    assert code == 0 and (folder / "x.parquet").read_bytes().startswith(b"PAR1"), output
    code, output = invoke(f"export {recorded} -o x.csv")
    assert code == 2 and output.startswith("error: --output: 'x.csv': its suffix names no format"), output


def test_absent_data_is_the_users_mistake(invoke: Invoke) -> None:
    code, output = invoke(
        "train toy.yaml --set data.load=al_ray.envs.calc_x.data:load --set data.path=absent"
    )
    assert code == 2 and output.startswith("error: data.path: 'absent': no such folder")


def test_a_directory_of_data_is_checked(invoke: Invoke, folder: Path) -> None:
    """The exit code says whether it is sound."""
    (folder / "calc_x").mkdir()
    row = {"id": "a", "question": "1+1?", "chain": "", "result": "2", "source": "made"}
    (folder / "calc_x" / "validation.jsonl").write_text(json.dumps(row))
    assert invoke(f"data check {folder}")[0] == 0
    (folder / "calc_x" / "train.jsonl").write_text("{}\n")
    code, output = invoke(f"data check {folder}")
    assert code == 2 and "1 rows, 0 valid" in output
    assert "train.jsonl, row 1, id: None: the field is missing" in output
    assert invoke("data check")[0] == 2


def test_all_mistakes_are_told_at_once_a_line_each(invoke: Invoke) -> None:
    code, output = invoke("train toy.yaml --set model.pth=x --set agent.run=no_such:f --set stages.9.steps=1")
    assert code == 2
    lines = output.splitlines()
    assert lines[:2] == [
        "error: --set stages.9.steps: '9': what picks from this list is a number from 0 to 1",
        "error: toy.yaml: model.pth: 'x': no such key; did you mean 'path'?",
    ]
    assert lines[2].startswith("error: toy.yaml: agent.run: 'no_such:f': no module named 'no_such'")
    assert len(lines) == 3


@pytest.mark.parametrize("command", ["train", "no-such-verb", "train toy.yaml --no-such-option"])
def test_a_wrong_command_is_a_usage_error(invoke: Invoke, command: str) -> None:
    code, output = invoke(command)
    assert code == 2 and "Usage:" in output


@pytest.mark.parametrize("number", ["99999", "-5", "0"])
def test_a_port_that_there_cannot_be_is_a_usage_error(invoke: Invoke, number: str) -> None:
    code, output = invoke(f"serve absent --dry-run --port {number}")
    assert code == 2 and "Invalid value for '--port'" in output


@pytest.mark.parametrize("option", ["--page", "--limit"])
def test_a_page_that_nobody_can_count_to_is_a_usage_error(
    invoke: Invoke, recorded: Path, option: str
) -> None:
    code, output = invoke(f"rollouts {recorded} {option} 99999999999999999999")
    assert code == 2 and f"Invalid value for '{option}'" in output
    last = 2**31 - 1
    for order in ("asked", "seconds"):
        assert invoke(f"rollouts {recorded} --sort {order} --page {last} --limit {last}")[0] == 0


@pytest.mark.parametrize("option", ["--min-reward", "--max-reward"])
def test_a_bound_of_rewards_is_a_number(invoke: Invoke, recorded: Path, option: str) -> None:
    assert invoke(f"rollouts {recorded} {option} nan") == (
        2,
        f"error: {option}: nan: no reward is more or less\n",
    )


def test_a_fault_of_the_system_keeps_its_traceback_and_is_exit_code_1(folder: Path) -> None:
    (folder / "faulty.py").write_text(
        "from al_ray.cli import app, preparing\n"
        "def fault(*arguments):\n    raise RuntimeError('why')\n"
        "preparing.validate = fault\n"
        "app.main()\n"
    )
    exit_code, output = run(["faulty", "validate", "toy.yaml"], folder)
    assert exit_code == 1 and "Traceback" in output and "RuntimeError: why" in output


def test_the_error_that_ends_a_command_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may tell what an agent raised."""

    def useless() -> None:
        raise UselessRunError("all 4 rollouts failed:\n  ValueError: \x1b[2J")

    monkeypatch.setattr(app, "app", useless)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match="1"):
        app.main()
    assert capsys.readouterr().err == "error: all 4 rollouts failed:\n  ValueError: \\x1b[2J\n"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:8265", "somewhere"])
def test_an_address_without_a_cluster_is_the_users_mistake(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Told at once, where Ray would try for minutes."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, output = invoke("train toy.yaml")
    assert code == 2 and output.startswith(f"error: RAY_ADDRESS: '{address}': ")
    assert not Path("out").exists()


def test_a_port_at_which_another_listens_than_a_cluster_is_told_as_that(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web server, or one that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, output = invoke("train toy.yaml")
    assert code == 2 and f"error: RAY_ADDRESS: '{address}': " in output
    assert "is this its port?" in output
