"""The evaluations of a run: made, logged, shown, and each compared with the one before it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from al_ray.evaluation.evaluate import Evaluation, evaluate
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import evaluation_name
from al_ray.reports import jsonl_sink
from al_ray.reports.console import Console
from al_ray.reports.sinks import Sinks
from al_ray.run.agents import Agents
from al_ray.run.folder import RunFolder
from al_ray.run.step_report import evaluation_values
from al_ray.types import Task

_GAIN: Final = ("eval/gain", "eval/gain_low", "eval/gain_high")


@dataclass(slots=True)
class Evaluations:
    """Of the held-out ``tasks``, each after a number of global steps."""

    recipe: Recipe
    folder: RunFolder
    agents: Agents
    metrics: Sinks
    console: Console
    tasks: Sequence[Task]
    _last: tuple[int, Mapping[str, float]] | None = None
    """After how many steps this process made one last, and the mean of each task in it."""

    def made(self) -> Mapping[int, Mapping[str, float]]:
        """What was logged of those so far, by steps; one without a score is none. What could not be told, as
        an interval of one task, is a null in the file."""
        return {
            int(line["step"]): {key: math.nan if value is None else value for key, value in line.items()}
            for line in jsonl_sink.read(self.folder.path)
            if line.get("eval/accuracy") is not None
        }

    async def make(self, step: int, started: float) -> Evaluation:
        """That of the policy that is served. Its time counts from ``started``, by ``time.perf_counter``."""
        phase = f"evaluation, {evaluation_name(self.recipe, step)}"
        found = await evaluate(
            self.recipe,
            self.agents,
            self.tasks,
            step,
            lambda done, total: self.console.phase(phase, done, total),
        )
        taken = time.perf_counter() - started
        values = evaluation_values(found, taken, await self._means_before(step))
        self._last = step, found.by_task
        self.metrics.log(step, values)
        self.show(step, values)
        return found

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """On the console; ``values`` as they are logged."""
        self.console.evaluation(
            evaluation_name(self.recipe, step),
            values["eval/accuracy"],
            values["eval/stderr"],
            int(values["eval/tasks"]),
            values["time/evaluation"],
            [values[key] for key in _GAIN if key in values],
        )

    async def _means_before(self, step: int) -> Mapping[str, float] | None:
        """Of each task in the evaluation before. One that this process has not made is asked for once more,
        which is to read it."""
        earlier = max((each for each in self.made() if each < step), default=None)
        if earlier is None:
            return None
        if self._last is not None and self._last[0] == earlier:
            return self._last[1]
        found = await evaluate(self.recipe, self.agents, self.tasks, earlier, lambda done, total: None)
        return found.by_task
