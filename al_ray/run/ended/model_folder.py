"""A checkpoint as a model for others: the Hugging Face folder without what only a resumed run needs, and a
model card that tells how it was trained."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from al_ray import __version__
from al_ray.errors import Problem, UserError
from al_ray.machines.whole import whole_folder
from al_ray.recipe import Recipe, loading, model_name
from al_ray.recipe.schedule import evaluation_name, stage_spans
from al_ray.reports import jsonl_sink
from al_ray.run.ended.over_seeds import ACCURACY
from al_ray.run.ended.serving import sampling
from al_ray.run.folder import step_of

_CARD: Final = "README.md"
_GENERATION: Final = "generation_config.json"
_RESUME: Final = "resume"


def write(checkpoint: Path, model: Path, recipe: Recipe, output: Path) -> None:
    """``model`` is the folder of the checkpoint's model: itself, or what an adapter was merged to. ``output``
    is whole or not there. Raises ``UserError`` if it is there already, or cannot be written."""
    try:
        _write(checkpoint, model, recipe, output)
    except OSError as error:
        raise UserError(Problem("--output", str(output), f"cannot be written: {error}")) from error


def _write(checkpoint: Path, model: Path, recipe: Recipe, output: Path) -> None:
    if output.exists():
        raise UserError(Problem("--output", str(output), "is there already; name a new folder"))
    with whole_folder(output) as folder:
        shutil.copytree(
            model, folder, dirs_exist_ok=True, ignore=lambda path, names: _left(model, path, names)
        )
        config = folder / _GENERATION
        known = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        told = sampling(recipe)
        greedy = told.get("temperature") == 0
        if greedy:  # transformers knows it by another name
            told.pop("temperature")
            told.pop("top_p", None)
        # A length would bind whoever uses the model for something else.
        told.pop("max_new_tokens")
        for name in ("temperature", "top_p", "top_k") if greedy else ():
            known.pop(name, None)
        config.write_text(json.dumps(known | {"do_sample": not greedy} | told, indent=2), encoding="utf-8")
        (folder / _CARD).write_text(card(checkpoint, recipe), encoding="utf-8")


def _left(model: Path, path: str, names: list[str]) -> set[str]:
    """What is of no model: also what was hidden beside it."""
    return (
        {name for name in names if name == _RESUME or name.startswith(".")} if Path(path) == model else set()
    )


def card(checkpoint: Path, recipe: Recipe) -> str:
    """The model card, in Markdown."""
    place = checkpoint.resolve()
    step, run = step_of(place), place.parent.parent
    assert step is not None, "it is a run's checkpoint"
    return "\n".join([*_front(recipe), *_text(recipe, run, step)]) + "\n"


def _front(recipe: Recipe) -> Iterator[str]:
    about: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "agents", "al_ray"],
    }
    if not _is_folder(recipe):
        about["base_model"] = recipe.model.path
    yield f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"


def _text(recipe: Recipe, run: Path, step: int) -> Iterator[str]:
    base = recipe.model.name if _is_folder(recipe) else recipe.model.path
    yield f"# {recipe.name}, after {step} steps\n"
    yield f"{base}, trained by al_ray {__version__} inside the agent"
    yield f"`{recipe.agent.run or shlex.join(recipe.agent.command or ())}`. The licence is that of {base}.\n"
    yield "## Training\n"
    yield "| stage | algorithm | steps | learning rate |\n|---|---|---|---|"
    for span in stage_spans(recipe):
        done = min(max(step - span.begin, 0), span.end - span.begin)
        rate = f"{span.stage.optimizer.learning_rate:g}"
        yield f"| {span.index} | {span.stage.algorithm} | {done} of {span.end - span.begin} | {rate} |"
    loaders = ", ".join(f"`{data.load}`" for data in recipe.data.each.values())
    yield f"\nTasks: {loaders}. Reward: `{recipe.agent.evaluate or recipe.agent.judge or 'the agent'}`."
    evaluations = [line for line in jsonl_sink.read(run) if ACCURACY in line and line["step"] <= step]
    if evaluations:
        yield "\n## Evaluation\n"
        yield "Mean reward of held-out tasks, with its standard error over tasks.\n"
        yield "| model | accuracy | standard error | tasks |\n|---|---|---|---|"
        yield from (_evaluation(recipe, line) for line in evaluations)
    yield "\n## Use\n"
    length = recipe.model.max_length
    yield f"Trained with calls of at most {length} tokens, prompt and answer together, and evaluated with"
    told = ", ".join(f"{name} {value:g}" for name, value in sampling(recipe).items())
    yield f"{told}.{_parsers(recipe)}\n"
    yield f"## Recipe\n\n```yaml\n{loading.as_yaml(loading.shown(recipe))}```"


def _is_folder(recipe: Recipe) -> bool:
    """Whether the recipe's model is a folder of somebody's machine, which tells others nothing."""
    path = recipe.model.path
    return model_name.is_folder(path) or model_name.problem(path) is not None


def _evaluation(recipe: Recipe, line: Mapping[str, Any]) -> str:
    name = evaluation_name(recipe, int(line["step"]))
    numbers = (line[ACCURACY], line.get("eval/stderr"))
    cells = ("-" if number is None else f"{number:.4f}" for number in numbers)
    return f"| {name} | {' | '.join(cells)} | {line.get('eval/tasks', '-')} |"


def _parsers(recipe: Recipe) -> str:
    parsers = {
        "--tool-call-parser": recipe.model.tool_parser,
        "--reasoning-parser": recipe.model.reasoning_parser,
    }
    options = [f"{option} {name}" for option, name in parsers.items() if name is not None]
    return f" vLLM serves it as it was trained with `{' '.join(options)}`." if options else ""
