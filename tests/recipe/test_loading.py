"""A recipe is right as a whole or every mistake in it is told: its place, its value and the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_ray.errors import RecipeError
from al_ray.recipe import Recipe, loading
from tests.support.runs import toy

ROOT = Path(__file__).resolve().parents[2]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model folder and the code of the toy recipe, which can be imported."""
    folder = tmp_path_factory.mktemp("recipe")
    toy.write_code(folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "broken_agent.py").write_text("import asyncio\n\nasync def solve(:\n")
    (folder / "needy_agent.py").write_text("import absent_package\n")
    (folder / "failing_agent.py").write_text("\nlimit = int('many')\n")
    (folder / "ending_agent.py").write_text("import sys\n\nsys.exit(print('done'))\n")
    parse = "import argparse\n\narguments = argparse.ArgumentParser().parse_args(['--absent'])\n"
    (folder / "parsing_agent.py").write_text(parse)
    return folder


@pytest.fixture(autouse=True)
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("AL_RAY_DATA", raising=False)


def content(folder: Path) -> dict[str, Any]:
    return toy.recipe(folder / "model", folder / "out")


def right_after(folder: Path, change: Change) -> Recipe:
    """The toy recipe, in which nothing is wrong after ``change``."""
    changed = content(folder)
    change(changed)
    return loading.load(toy.write_recipe(folder, changed))


def mistakes(folder: Path, change: Change = lambda _: None, overrides: list[str] | None = None) -> list[str]:
    """What is told of the toy recipe after ``change`` and ``overrides``."""
    changed = content(folder)
    change(changed)
    path = toy.write_recipe(folder, changed)
    with pytest.raises(RecipeError) as caught:
        loading.load(path, overrides or [])
    return [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_right_and_executable(path: Path) -> None:
    assert loading.load(path).name
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!/usr/bin/env -S python -m al_ray train\n")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_has_intermediate_rewards_ready_to_switch_on(
    path: Path,
) -> None:
    """By uncommenting a line."""
    assert not loading.load(path).transitions.intermediate
    switched = re.sub(r"# (transitions: \{|)(intermediate: )", r"\1\2", path.read_text())
    section = yaml.safe_load(switched)["transitions"]
    assert loading.load(path, [f"transitions={section}"]).transitions.intermediate


def test_a_model_in_the_folder_of_the_shell_has_its_folders_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents could not ask for an empty one."""
    monkeypatch.chdir(folder / "model")
    recipe = right_after(folder, lambda content: content["model"].update(path="."))
    assert recipe.model.name == "model"


SET_MISTAKES = {
    "model.max_length": "--set: 'model.max_length': write it as path=value, for example model.max_length=512",
    "=3": "--set: '=3': write it as path=value, for example model.max_length=512",
    "model..path=x": "--set: 'model..path=x': write it as path=value, for example model.max_length=512",
    "model.max_lenght=512": "model.max_lenght: 512: no such key; did you mean 'max_length'?",
    "agnet.timeout=3": "agnet: {'timeout': 3}: no such key; did you mean 'agent'?",
    "zzz=1": "zzz: 1: no such key; there are agent, checkpoint, data, engines, evaluation, gateway, health,"
    " learners, model, name, output, placement, policies, seed, services, stages, store, traces, transitions,"
    " upstreams, wandb",
    "stages.1.group_sise=3": "stages.1.group_sise: 3: no such key; did you mean 'group_size'?",
    "stages.0.optimizer.warmup=3": "stages.0.optimizer.warmup: 3: no such key; did you mean 'warmup_steps'?",
    "stages.2.steps=3": "--set stages.2.steps: '2': what picks from this list is a number from 0 to 1",
    "stages.grpo.steps=3": "--set stages.grpo.steps: 'grpo': what picks from this list is a number",
    "model.path.x=3": "--set model.path.x: ",
    "model.path=[1": "--set model.path: '[1': not a YAML value: ",
    "placement.cluster=[{cpus: 4, gpu: 1}]": "placement.cluster.0.gpu: 1: no such key; did you mean 'gpus'?",
}


@pytest.mark.parametrize("override", SET_MISTAKES)
def test_a_mistake_in_set_is_told_with_the_cure(folder: Path, override: str) -> None:
    [told] = mistakes(folder, overrides=[override])
    assert told.startswith(SET_MISTAKES[override])


def set_in(path: str, value: object) -> Change:
    """Put ``value`` at ``path``."""

    def change(node: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[last] = value

    return change


VALUE_MISTAKES: list[tuple[str, object, str]] = [
    ("model.max_length", "long", "model.max_length: 'long': Input should be a valid integer"),
    ("model.dtype", "int8", "model.dtype: 'int8': Input should be 'auto', 'float32', 'bfloat16' or"),
    ("name", "a/b", "name: 'a/b': letters, digits and _.- are allowed"),
    ("seed", -1, "seed: -1: Input should be greater than or equal to 0"),
    ("agent.timeout", float("inf"), "agent.timeout: inf: Input should be a finite number"),
    ("agent.run", "toy_agent.solve", "agent.run: 'toy_agent.solve': write it as package.module:attribute"),
    (
        "agent.environment",
        ["FOO=1"],
        "agent.environment.0: 'FOO=1': a variable's name alone: its value is the one that is set",
    ),
    (
        "agent.sandbox",
        {"mounts": {"data": "/tmp"}},
        "agent.sandbox.mounts.data: 'data': write an absolute path, as it is seen within: /data",
    ),
    ("data.sources", {"a b": {}}, "data.sources.a b: 'a b': letters, digits and _.- are allowed, the first"),
    ("services", {"s": {"run": "x"}}, "services.s.run: 'x': write it as package.module:attribute"),
    (
        "services",
        {key: {"run": "toy_agent:load", "options": {"split": "train"}} for key in ("a.b", "A-b")},
        "services.A-b: 'A-b': an agent finds it in AL_RAY_SERVICE_A_B_URL, as it does 'a.b'; give one",
    ),
    ("policies", {"a.b": {"agents": ["x"]}}, "policies.a.b: 'a.b': a policy's name: letters, digits and _-"),
    ("stages", [], "stages: []: List should have at least 1 item"),
    ("stages.0.algorithm", "sft", "stages.0.algorithm: 'sft': one of supervised, grpo, dr_grpo, rloo"),
    ("stages.1.optimizer", {}, "stages.1.optimizer.learning_rate: 'absent': this key is required"),
    ("stages.1.optimizer.betas", [0.9, 1.0], "stages.1.optimizer.betas.1: 1.0: Input should be less than 1"),
    ("model.path", "missing", "model.path: 'missing': no such folder, and no hub name"),
    ("model.path", "../missing/model", "model.path: '../missing/model': no such folder"),
    ("model.path", ".", "model.path: '.': the folder holds no config.json"),
    ("model.chat_template", "no.jinja", "model.chat_template: "),
    ("data.load", "toy_agent:absent", "data.load: 'toy_agent:absent': toy_agent has no 'absent'"),
    ("data.options", {"cuont": 3}, "data.options.cuont: 3: no such key; did you mean 'count'?"),
    (
        "data",
        {"load": "toy_agent:load_long", "options": {"k": 1}},
        "data.options.k: 1: no such key; there is none here",
    ),
    ("agent.run", "toy_agent.py:solve", "agent.run: 'toy_agent.py:solve': a module is named without .py: wr"),
    ("name", False, "name: False: must be text: write it in quotes"),
    (
        "agent.environment",
        [date(2026, 1, 31)],
        "agent.environment.0: datetime.date(2026, 1, 31): must be text",
    ),
    ("model", "HuggingFaceTB/x", "model: 'HuggingFaceTB/x': must be a section: a mapping of its keys"),
    ("agent.run", "absent.module:solve", "agent.run: 'absent.module:solve': no module named 'absent'"),
    (
        "agent.run",
        "needy_agent:solve",
        "agent.run: 'needy_agent:solve': needy_agent imports 'absent_package'",
    ),
    (
        "agent.run",
        "broken_agent:solve",
        "agent.run: 'broken_agent:solve': broken_agent cannot be imported: Synt",
    ),
    (
        "agent.run",
        "failing_agent:solve",
        "agent.run: 'failing_agent:solve': failing_agent cannot be imported: V",
    ),
    ("agent.run", "toy_agent:number", "agent.run: 'toy_agent:number': is of type int; name a function"),
    (
        "agent.run",
        "toy_agent:not_async",
        "agent.run: 'toy_agent:not_async': is a plain function: set agent.isolation to thread or process, or",
    ),
    ("agent.isolation", "thread", "agent.run: 'toy_agent:solve': is async: set agent.isolation to async or"),
    ("agent.isolation", "fork", "agent.isolation: 'fork': Input should be 'async', 'thread', 'process' or"),
    ("agent.run", None, "agent.run: None: name the agent, or give isolation: command and a command"),
    ("agent.command", ["ls"], "agent.command: ['ls']: is only for isolation: command, not for async"),
    ("agent.task", "file", "agent.task: 'file': is only for isolation: command, not for async"),
    (
        "agent.environment",
        ["NO_SUCH_KEY"],
        "agent.environment.0: 'NO_SUCH_KEY': this variable is not set; set it, or do not name it",
    ),
    ("agent.requirements", ["x"], "agent.requirements: ['x']: is only for isolation: process"),
    ("agent.reward", "events", "agent.reward: 'events': leave it out: agent.evaluate gives the reward"),
    ("agent.before", "toy_agent:messages", "agent.before: 'toy_agent:messages': cannot be called with (req"),
    ("agent.run", "toy_agent:Agent", "agent.run: 'toy_agent:Agent': cannot be called with (task, llm)"),
    (
        "agent.evaluate",
        "toy_agent:messages",
        "agent.evaluate: 'toy_agent:messages': cannot be called with (task,",
    ),
    (
        "agent.judge",
        "toy_agent:score",
        "agent.judge: 'toy_agent:score': cannot be called with (task, candidates, llm)",
    ),
    (
        "stages.0.demonstrate",
        "toy_agent:score",
        "stages.0.demonstrate: 'toy_agent:score': cannot be called with",
    ),
    (
        "stages.0.optimizer.warmup_steps",
        2,
        "stages.0.optimizer.warmup_steps: 2: is less than the stage's steps, 2",
    ),
    (
        "agent.sampling.temperature",
        0,
        "agent.sampling.temperature: 0: above 0, or the rollouts of a group are all",
    ),
    (
        "agent.sampling.temperature",
        None,
        "agent.sampling.temperature: None: a number: the learner must know the distribution",
    ),
    (
        "upstreams",
        {"wise": {"base_url": "https://example.org/v1", "model": "w", "api_key_env": "NO_SUCH_KEY"}},
        "upstreams.wise.api_key_env: 'NO_SUCH_KEY': this variable is not set",
    ),
    (
        "upstreams",
        {"wise": {"base_url": "https://example.org/v1", "model": "w", "api_key_env": "BROKEN_KEY"}},
        "upstreams.wise.api_key_env: 'BROKEN_KEY': it holds what cannot stand in an HTTP header",
    ),
    *(
        (
            "upstreams",
            {"wise": {"base_url": url, "model": "w"}},
            f"upstreams.wise.base_url: {url!r}: write http://HOST:PORT/PATH or https://HOST/PATH",
        )
        for url in ("example.org", "ftp://example.org", "http://", "http://a:b/v1", "http://[a", "http://a b")
    ),
    *(
        ("store.url", url, f"store.url: {url!r}: write postgresql://USER@HOST/DATABASE or")
        for url in (
            "postgresql://",
            "postgresql://h",
            "postgresql://h/",
            "postgresql:///d",
            "postgresql://h:abc/d",
            "postgresql://h:99999/d",
            "postgresql://[h/d",
            "postgres://h/d",
        )
    ),
    *(
        ("store.url", url, f"store.url: {url!r}: recipes are copied and logged: leave the password to")
        for url in (
            "postgresql://me:word@h/d",
            "postgresql://me@h/d?password=word",
            "postgresql://me@/d?host=/run&sslpassword=word",
        )
    ),
    ("traces.export.endpoint", "example.org", "traces.export.endpoint: 'example.org': write http"),
    ("agent.limits.calls", 0, "agent.limits.calls: 0: "),
    (
        "agent.sampling.max_tokens",
        128,
        "agent.sampling.max_tokens: 128: leaves no room for a prompt: model.max_l",
    ),
    (
        "evaluation.sampling.max_tokens",
        999,
        "evaluation.sampling.max_tokens: 999: leaves no room for a prompt",
    ),
    (
        "transitions.intermediate",
        {"tool_errors": -0.1, "sql_errors": -0.1},
        "transitions.intermediate.sql_errors: -0.1: no such signal; there are tool_ok, empty_results, ",
    ),
    ("transitions.intermediate_limit", 0, "transitions.intermediate_limit: 0: "),
    (
        "agent.sampling.temperature",
        0.001,
        "agent.sampling.temperature: 0.001: at least 0.01, to which",
    ),
    (
        "agent.sampling.top_p",
        0.9,
        "agent.sampling.top_p: 0.9: 1: the learner computes the whole",
    ),
    ("agent.sampling.top_p", None, "agent.sampling.top_p: None: 1: the learner computes the whole"),
    (
        "agent.sampling.agents",
        {"judge*": {"temperature": 0.5}},
        "agent.sampling.agents.judge*.temperature: 0.5: 1.0, as agent.sampling.temperature, with which",
    ),
    ("stages.1.overlong_tokens", 9999, "stages.1.overlong_tokens: 9999: at most agent.sampling.max_tokens"),
    ("stages.1.credit", "toy_agent:absent", "stages.1.credit: 'toy_agent:absent': toy_agent has no 'absent'"),
    ("stages.1.credit", "fair", "stages.1.credit: 'fair': one of identical, final, reward"),
    ("stages.1.credit", ["identical"], "stages.1.credit: ['identical']: Input should be a valid string"),
    ("stages.1.credit", {}, "stages.1.credit: {}: Input should be a valid string"),
    (
        "stages.1.loss",
        ["clipped"],
        "stages.1.loss: ['clipped']: Input should be 'clipped', 'gspo' or 'cispo'",
    ),
    ("stages.1.discount", 0.9, "stages.1.discount: 0.9: has no effect on credit: identical; set credit to"),
    (
        "engines",
        {"replicas": 3, "max_replicas": 2},
        "engines.max_replicas: 2: is less than engines.replicas, 3",
    ),
    ("agent.max_runners", 4, "agent.max_runners: 4: runners on other nodes cannot reach gateways at 127.0."),
    ("learners.weights", "sharded", "learners.weights: 'sharded': has no effect with learners.replicas: 1"),
    ("evaluation.samples", 4, "evaluation.sampling.temperature: 0: above 0, or the 4 samples of a task are"),
    (
        "evaluation.predictions",
        "toy_agent:demonstrate",
        "evaluation.predictions: 'toy_agent:demonstrate': cannot be called with (results, folder)",
    ),
    (
        "upstreams",
        {"model": {"base_url": "https://example.org/v1", "model": "w"}},
        "upstreams.model: 'w': is what agents call the trained model; give the hosted one another name",
    ),
]


@pytest.mark.parametrize(
    "url", ["postgresql://me@h:5432/d", "postgresql://me@[::1]/d", "postgresql://me@/d?host=/run"]
)
def test_a_database_is_named_by_host_or_by_the_folder_of_its_socket(folder: Path, url: str) -> None:
    path = toy.write_recipe(folder, content(folder))
    assert loading.load(path, [f"store.url={url}"]).store.url == url


@pytest.mark.parametrize(("path", "value", "expected"), VALUE_MISTAKES)
def test_a_wrong_value_is_told_with_its_path_and_the_cure(
    folder: Path, path: str, value: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_KEY", "sk-1\n")
    [told] = mistakes(folder, set_in(path, value))
    assert told.startswith(expected)


def test_a_loss_that_is_no_word_is_told_where_tokens_may_be_old_too(folder: Path) -> None:
    """There the correction goes by the loss."""
    overrides = ["stages.1.staleness=1", "stages.1.loss=[clipped]"]
    (told,) = mistakes(folder, overrides=overrides)
    assert told.startswith("stages.1.loss: ['clipped']: Input should be 'clipped'")


def test_code_that_cannot_be_imported_is_told_with_its_line(folder: Path) -> None:
    """As the module's author would look for it."""
    [syntax] = mistakes(folder, set_in("agent.run", "broken_agent:solve"))
    assert syntax.endswith(f"({folder / 'broken_agent.py'}, line 3)")
    [failing] = mistakes(folder, set_in("agent.run", "failing_agent:solve"))
    assert failing.endswith(f"({folder / 'failing_agent.py'}, line 2)")


def test_packages_that_an_environment_of_ours_lacks_are_told_by_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it imports, the package may be called otherwise."""
    monkeypatch.setitem(sys.modules, "agents", None)
    monkeypatch.delitem(sys.modules, "al_ray.envs.musique.agent", raising=False)
    [told] = mistakes(folder, set_in("agent.run", "al_ray.envs.musique.agent:solve"))
    assert told.endswith("imports 'agents', which is not installed: pip install 'al_ray[musique]'")


@pytest.mark.parametrize("agent", ["ending_agent", "parsing_agent"])
def test_code_that_ends_the_program_as_it_is_imported_is_told_with_its_line(folder: Path, agent: str) -> None:
    """Else the command would end with it, and with its exit code: 0, as if all had gone well."""
    (told,) = mistakes(folder, overrides=[f"agent.run={agent}:solve"])
    assert told.startswith(f"agent.run: '{agent}:solve': {agent} ends the program when it is imported: put ")
    assert told.endswith(f"/{agent}.py, line 3)")


def test_an_object_whose_call_is_async_is_an_agent(folder: Path) -> None:
    path = toy.write_recipe(folder, content(folder))
    assert loading.load(path, ["agent.run=toy_agent:agent"]).agent.run == "toy_agent:agent"


def test_there_may_be_no_fewer_runners_than_a_run_begins_with(folder: Path) -> None:
    path = toy.write_recipe(folder, content(folder))
    with pytest.raises(RecipeError, match=r"agent\.max_runners: 2: is less than agent.runners, 3; raise it"):
        loading.load(path, ["agent.runners=3", "agent.max_runners=2"])
    with pytest.raises(RecipeError, match="cannot reach gateways at localhost: set gateway"):
        loading.load(path, ["agent.max_runners=3", "gateway.host=localhost"])
    elastic = loading.load(path, ["agent.max_runners=3", "gateway.host=0.0.0.0"]).agent
    assert elastic.more_runners == 2


SHORT = {"sampling": {"max_tokens": 8}}
COMMAND = {"isolation": "command", "command": ["node"], "evaluate": "toy_agent:score"}
OTHER_AGENTS: list[tuple[dict[str, Any], str]] = [
    (COMMAND | {"command": ["no-such-program"]}, "agent.command.0: 'no-such-program': no such program is on"),
    (
        COMMAND | {"command": ["./toy_agent.py"]},
        "agent.command.0: './toy_agent.py': may not be executed",
    ),
    (COMMAND | {"command": ["./absent"]}, "agent.command.0: './absent': no such program"),
    (COMMAND | {"command": []}, "agent.command: []: List should have at least 1 item"),
    (COMMAND | {"command": ["ls"], "folder": "absent"}, "agent.folder: "),
    (
        COMMAND | {"command": ["ls"], "run": "toy_agent:solve"},
        "agent.run: 'toy_agent:solve': is not for",
    ),
    ({"isolation": "command"}, "agent.command: None: give the program and its arguments, as a list"),
    ({"isolation": "process", "run": "toy_agent:load", "python": "absent"}, "agent.python: "),
    (
        {"isolation": "process", "run": "toy_agent:agent", "requirements": "absent"},
        "agent.requirements: ",
    ),
]


@pytest.mark.parametrize(("agent", "expected"), OTHER_AGENTS)
def test_what_is_wrong_with_a_program_or_an_interpreter_is_told(
    folder: Path, agent: dict[str, Any], expected: str
) -> None:
    [told] = mistakes(folder, lambda recipe: recipe.update(agent=agent | SHORT))
    assert told.startswith(expected)


def test_programs_files_and_interpreters_lie_beside_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wherever one stands; and the link that makes an interpreter that of an environment stays one."""
    changed = content(folder)
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (folder / "python").unlink(missing_ok=True)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    changed["agent"] = {"isolation": "command", "command": ["./program"]} | SHORT
    assert loading.load(toy.write_recipe(folder, changed)).agent.folder == str(folder)
    changed["agent"] = {"isolation": "process", "run": "elsewhere:act", "python": "./python"} | SHORT
    assert loading.load(toy.write_recipe(folder, changed)).agent.python == str(folder / "python")


def test_an_unknown_key_may_be_called_as_the_algorithm_of_its_stage(folder: Path) -> None:
    [told] = mistakes(folder, overrides=["stages.1.grpo.epochs=2"])
    assert told.startswith("stages.1.grpo: {'epochs': 2}: no such key; ")


def test_all_mistakes_of_a_recipe_are_told_together(folder: Path) -> None:
    """Those of overrides, keys, types, values, files and code; each once."""

    def change(recipe: dict[str, Any]) -> None:
        recipe["model"] |= {"path": "missing", "lenght": 3}
        recipe["agent"] |= {"run": "absent:solve"}
        recipe["stages"][1]["group_size"] = 1
        recipe["enginse"] = {}
        del recipe["data"]["load"]

    told = mistakes(folder, change, ["stages.7.steps=1", "nothing"])
    assert [problem.split(": ")[0] for problem in told] == [
        "--set stages.7.steps",
        "--set",
        "model.lenght",
        "stages.1.group_size",
        "enginse",
        "model.path",
        "data.load",
        "agent.run",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2", "{path}, line 2, column 2: 'not YAML': expected ',' or ']'"),
        ("seed: 1\nname: x\nseed: 2", "{path}, line 3, column 1: 'not YAML': 'seed' stands twice"),
        (
            "seed: 1\nname: {{ run_name }}",
            "{path}, line 2, column 8: 'not YAML': a key must be a word; text with braces or brackets is",
        ),
        (
            "wandb: &w {project: *w}",
            "{path}, line 1, column 21: 'not YAML': *w stands inside &w, the very thing that it names",
        ),
        ("a: " + 2000 * "[", "{path}: 'not a recipe': it is nested too deeply"),
        ("- 1", "{path}: [1]: a recipe is a mapping of sections"),
        ("", "{path}: None: a recipe is a mapping of sections"),
        ("a: \x00", "{path}: 'not YAML': unacceptable character"),
        (b"\xff\xfe", "recipe: '{path}': is not text in UTF-8"),
        (None, "recipe: '{path}': cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_where_it_is_wrong(
    tmp_path: Path, text: str | bytes | None, expected: str
) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        loading.load(path)
    assert str(caught.value).startswith(expected.format(path=path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2024-13-45", "'2024-13-45' is no timestamp; where text is meant, write it in quotes"),
        ("0b_", "'0b_' is no int"),
        ("7" * 5000, f"'{'7' * 80}' is no int"),
        ("!!int abc", "'abc' is no int"),
        ("!!float abc", "'abc' is no float"),
        ("!!bool abc", "'abc' is no bool"),
        ("!!timestamp abc", "'abc' is no timestamp"),
    ],
)
def test_what_looks_like_a_value_and_is_none_is_told(folder: Path, text: str, told: str) -> None:
    """In the file, by its place, and in an override."""
    path = toy.write_recipe(folder, content(folder))
    with pytest.raises(RecipeError) as caught:
        loading.load(path, [f"name={text}"])
    assert str(caught.value).startswith(f"--set name: '{text}': not a YAML value: {told}")
    path.write_text(f"model: x\nname: {text}\n")
    with pytest.raises(RecipeError) as caught:
        loading.load(path)
    assert str(caught.value).startswith(f"{path}, line 2, column 7: 'not YAML': {told}")


@pytest.mark.parametrize(("text", "read"), [("010", 8), ("-0400", -256), ("1:30", 90), ("1:30.5", 90.5)])
def test_a_number_that_yaml_reads_otherwise_than_it_looks_is_refused(
    folder: Path, text: str, read: float
) -> None:
    """As text, in quotes, it is let in."""
    path = toy.write_recipe(folder, content(folder))
    with pytest.raises(RecipeError, match=f"--set seed: '{text}': not a YAML value: .*read as {read}: write"):
        loading.load(path, [f"seed={text}"])
    assert loading.load(path, [f"data.options.count='{text}'"]).data.options["count"] == text


def test_a_number_that_looks_as_it_is_read_is_taken(folder: Path) -> None:
    """Whichever way it is written."""
    path = toy.write_recipe(folder, content(folder))
    for text, read in (
        ("07", 7),
        ("1_000", 1000),
        ("0x10", 16),
        ("0b11", 3),
        ("'5'", 5),
        ("+8", 8),
        ("0", 0),
    ):
        assert loading.load(path, [f"seed={text}"]).seed == read
    rate = loading.load(path, ["stages.1.optimizer.learning_rate=1e-5"]).stages[1].optimizer.learning_rate
    assert rate == 1e-5


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("seed", "yes", "seed: 'true'"),
        ("stages.0.steps", "no", "stages.0.steps: 'false'"),
        ("stages.1.optimizer.learning_rate", "on", "stages.1.optimizer.learning_rate: 'true'"),
        ("stages.1.optimizer.betas", "[0.9, off]", "stages.1.optimizer.betas.1: 'false'"),
        ("agent.limits.calls", "true", "agent.limits.calls: 'true'"),
        ("transitions.intermediate", "{tool_ok: yes}", "transitions.intermediate.tool_ok: 'true'"),
    ],
)
def test_a_boolean_is_no_number(folder: Path, key: str, value: str, place: str) -> None:
    [told] = mistakes(folder, overrides=[f"{key}={value}"])
    assert told.startswith(f"{place}: Input should be a valid ")
    path = toy.write_recipe(folder, content(folder))
    assert loading.load(path, ["placement.dashboard=no"]).placement.dashboard is False
    assert loading.load(path, ["data.options.count=yes"]).data.options["count"] is True


def test_a_merge_that_is_merged_elsewhere_has_no_key_twice() -> None:
    """YAML puts what is merged beside a mapping's own keys."""
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\nd: *b"
    read = yaml.load(text, loading._Loader)
    assert read == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "d": {"x": 2}}


def test_an_override_changes_one_place_even_where_an_alias_made_it_the_same_as_another(folder: Path) -> None:
    sampling = {"max_tokens": 8}
    path = toy.write_recipe(folder, content(folder))
    shared = yaml.safe_load(path.read_text()) | {"evaluation": {"sampling": sampling}}
    shared["agent"]["sampling"] = sampling
    path.write_text(yaml.safe_dump(shared))
    assert "&id001" in path.read_text()
    recipe = loading.load(path, ["agent.sampling.max_tokens=9"])
    assert (recipe.agent.sampling.max_tokens, recipe.evaluation.sampling.max_tokens) == (9, 8)


def test_data_comes_from_the_variable_where_the_recipe_names_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy.write_recipe(folder, content(folder))
    monkeypatch.setenv("AL_RAY_DATA", "/data")
    assert loading.load(path).data.path == "/data"
    assert loading.load(path, ["data.path=/mine"]).data.path == "/mine"
    assert loading.reload(path).data.path is None


def test_a_template_lies_beside_the_recipe_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = toy.write_recipe(folder, content(folder))
    (folder / "x.jinja").write_text("")
    monkeypatch.chdir(tmp_path)
    assert loading.load(path, ["model.chat_template=x.jinja"]).model.chat_template == str(folder / "x.jinja")


VALUES = {
    "name": st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z"),
    "seed": st.integers(0, 2**32 - 1),
    "output": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    "agent.timeout": st.floats(1e-3, 1e9),
    "agent.sampling.temperature": st.floats(0.01, 2),
    "agent.evaluate": st.sampled_from(["toy_agent:score", None]),
    "stages.1.optimizer.learning_rate": st.floats(1e-12, 1),
    "stages.1.optimizer.betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
    "stages.1.scale": st.sampled_from(["none", "group", "batch"]),
    "data.options": st.dictionaries(st.just("count"), st.integers() | st.none() | st.text("a1:#-'é ")),
    "placement.cluster": st.none() | st.just([{"count": 2, "cpus": 64, "gpus": 8}]),
}


@pytest.mark.parametrize(
    ("train", "pattern", "fits"),
    [
        (["*"], "judge", False),
        (["writer"], "judge", True),
        (["writer"], "w*", False),
        (["w*"], "judge", True),
        (["w*"], "*r", False),
    ],
)
def test_another_temperature_is_for_agents_that_are_not_trained(
    folder: Path, train: list[str], pattern: str, fits: bool
) -> None:
    def change(recipe: dict[str, Any]) -> None:
        recipe["transitions"] = {"train": train}
        recipe["agent"].setdefault("sampling", {})["agents"] = {pattern: {"temperature": 0.25}}

    if fits:
        assert right_after(folder, change).transitions.train == train
        return
    (told,) = mistakes(folder, change)
    assert told.startswith(f"agent.sampling.agents.{pattern}.temperature: 0.25: ")


@pytest.mark.parametrize(
    ("train", "own", "overlong", "fits"),
    [
        (["*"], {"max_tokens": 64}, 8, False),
        (["*"], {"max_tokens": 64}, 0, True),
        (["*"], {"max_tokens": 16}, 8, True),
        (["*"], {"temperature": 1.0}, 8, True),
        (["writer"], {"max_tokens": 64}, 8, True),
    ],
)
def test_where_length_costs_responses_of_all_trained_agents_may_be_as_long(
    folder: Path, train: list[str], own: dict[str, Any], overlong: int, fits: bool
) -> None:
    """What one of another length would cost begins too early for it, or never."""

    def change(recipe: dict[str, Any]) -> None:
        recipe["transitions"] = {"train": train}
        recipe["agent"]["sampling"] = {"max_tokens": 16, "agents": {"brief*": own}}
        recipe["stages"][1]["overlong_tokens"] = overlong

    if fits:
        assert right_after(folder, change).transitions.train == train
        return
    (told,) = mistakes(folder, change)
    where = "agent.sampling.agents.brief*.max_tokens: 64: 16, as agent.sampling.max_tokens, "
    assert told.startswith(f"{where}below which stages.1.overlong_tokens cost, for transitions.train")


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dumped_recipe_is_loaded_as_the_same_recipe(folder: Path, values: dict[str, Any]) -> None:
    """With every default written out."""
    changed = content(folder)
    for path, value in values.items():
        set_in(path, value)(changed)
    recipe = Recipe.model_validate(changed)
    dumped = folder / "dumped.yaml"
    dumped.write_text(loading.dump(recipe), encoding="utf-8")
    assert loading.load(dumped) == recipe == loading.reload(dumped)
    assert loading.differences(recipe, loading.reload(dumped)) == []
    written = yaml.safe_load(dumped.read_text(encoding="utf-8"))
    assert written.keys() == Recipe.model_fields.keys()
    assert written["stages"][1]["clip_high"] == recipe.stages[1].clip_high  # type: ignore[union-attr]


def test_in_a_changed_recipe_of_a_run_its_algorithm_chooses_anew(folder: Path) -> None:
    """Though every choice of the old one is written there. What was chosen otherwise stays."""
    changed = content(folder)
    changed["stages"][1] |= {"clip_high": 0.3, "credit": "identical"}
    dumped = folder / "dumped.yaml"
    dumped.write_text(loading.dump(Recipe.model_validate(changed)), encoding="utf-8")
    assert loading.load_changed(dumped, []) == loading.load(dumped)
    for own in (
        {"algorithm": "rloo"},
        {"algorithm": "gspo", "mini_batches": 2},
        {"credit": "reward_to_go"},
        {"staleness": 1, "epochs": 2},
        {"algorithm": "reinforce_pp_baseline", "kl_in": "reward"},
    ):
        found = loading.load_changed(dumped, [f"stages.1.{key}={value}" for key, value in own.items()])
        expected = Recipe.model_validate(
            {**changed, "stages": [changed["stages"][0], changed["stages"][1] | own]}
        )
        assert found.stages[1] == expected.stages[1] and found.stages[1].clip_high == 0.3  # type: ignore[union-attr]


def test_what_an_agents_sampling_leaves_out_is_as_for_the_others_in_a_dumped_recipe_too(folder: Path) -> None:
    """A run that goes on reads the recipe that it wrote: its agents are sampled as they were before."""
    changed = content(folder)
    changed["agent"]["sampling"] = {
        "temperature": 0.5,
        "max_tokens": 16,
        "agents": {"brief*": {"top_p": 0.5}},
    }
    recipe = Recipe.model_validate(changed)
    (folder / "dumped.yaml").write_text(loading.dump(recipe), encoding="utf-8")
    again = loading.reload(folder / "dumped.yaml").agent.sampling
    assert again.agents["brief*"].model_fields_set == {"top_p"}
    assert again == recipe.agent.sampling and list(again.agents) == ["brief*"]


def test_recipes_differ_where_they_ask_for_another_run_and_not_in_where_it_runs(folder: Path) -> None:
    path = toy.write_recipe(folder, content(folder))
    ours = loading.load(
        path, ["seed=2", "stages.1.group_size=4", "engines.gpu_memory=0.3", "wandb.enabled=true"]
    )
    told = [str(problem) for problem in loading.differences(ours, loading.load(path))]
    assert told == [
        "seed: 2: the run was started with 0; give that, or start a new run",
        "stages.1.group_size: 4: the run was started with 2; give that, or start a new run",
    ]


def test_what_is_secret_in_a_recipe_is_not_shown_and_not_compared(folder: Path) -> None:
    """Headers of an export, and the user in a URL; the run's own file keeps them: it needs them."""
    headers = {"authorization": "Bearer hush"}
    endpoint = "https://me:hush@collector:4318/path"
    export = {"endpoint": endpoint, "headers": headers}
    path = toy.write_recipe(folder, content(folder) | {"traces": {"export": export}})
    recipe = loading.load(path)
    text = loading.as_yaml(loading.shown(recipe))
    assert "hush" not in text and "authorization: '***'" in text and "https://***@collector:4318/path" in text
    assert "Bearer hush" in loading.dump(recipe)
    assert loading.differences(recipe, loading.load(path, ["traces.export.headers.authorization=x"])) == []
