"""Where a run's numbers go: ``metrics.jsonl`` always, W&B if the recipe asks, Ray's metrics under Ray.

Keys are those of the table in ``names``; a step is the global step, counted over all stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from al_ray.recipe import Recipe
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.types import Rollout


class Sink(Protocol):
    """One place that they go to."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None: ...

    def rewind(self, step: int) -> None:
        """What was logged after ``step`` is going to be logged again."""

    def close(self, ok: bool) -> None: ...


class Sinks:
    """All of them as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.log(step, values)

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        for sink in self._sinks:
            sink.log_rollouts(step, rollouts)

    def rewind(self, step: int) -> None:
        for sink in self._sinks:
            sink.rewind(step)

    def close(self, ok: bool) -> None:
        """``ok`` is whether the run reached its end. One that cannot be closed keeps no other from it."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):  # the last one is called first
                stack.callback(sink.close, ok)


def open_sinks(run_name: str, folder: Path, recipe: Recipe, resume_from: int | None) -> Sinks:
    """The sinks of the run in ``folder``. ``resume_from`` is the step it goes on from, None at its start.

    Raises ``UserError`` if the recipe asks for W&B and it cannot be started.
    """
    # Ray and W&B take seconds to import: only a run pays for them, and only for those it uses.
    import ray

    sinks: list[Sink] = [JsonlSink(folder, resume_from)]
    if recipe.wandb.enabled:
        from al_ray.reports.wandb_sink import WandbSink

        sinks.append(WandbSink(run_name, folder, recipe))
    if ray.is_initialized():
        from al_ray.reports.ray_sink import RaySink

        sinks.append(RaySink(recipe.name, run_name))
    return Sinks(sinks)
