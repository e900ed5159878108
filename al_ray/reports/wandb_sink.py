"""Weights & Biases: one run for a run folder, the same one again when it is resumed.

``WANDB_MODE`` wins over the recipe. Everything that W&B writes lies in the run folder.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import wandb

from al_ray.errors import Problem, UserError
from al_ray.machines.whole import whole_file_of_run
from al_ray.recipe import Recipe, loading
from al_ray.rollouts.reading.conversation import transcript
from al_ray.rollouts.rewards import rewards
from al_ray.types import Rollout, SpanKind

_ID_FILE: Final = "wandb-id"
_MAX_ROLLOUTS: Final = 8
"""Rows of the table a step: to be read, not to be counted."""
_COLUMNS: Final = ["step", "rollout", "status", "reward", "calls", "task", "messages"]


class WandbSink:
    """Raises ``UserError`` if the run cannot be started."""

    def __init__(self, run_name: str, folder: Path, recipe: Recipe) -> None:
        section = recipe.wandb
        self._dimension = recipe.transitions.reward
        mode: Any = os.environ.get("WANDB_MODE") or section.mode  # which ones there are, W&B knows
        try:
            self._run = wandb.init(
                project=section.project,
                entity=section.entity,
                name=run_name,
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                config=loading.shown(recipe),
                mode=mode,
                # The console belongs to al_ray: W&B neither writes to it nor copies it.
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.Error, ValueError) as error:
            cure = (
                f"W&B did not start ({error}); run `wandb login`, set WANDB_MODE=offline, "
                "or set wandb.enabled to false"
            )
            raise UserError(Problem("wandb", mode, cure)) from error
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        # One table that grows: a table logged anew each step shows only its last one.
        self._rollouts = wandb.Table(columns=_COLUMNS, log_mode="INCREMENTAL")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        for rollout in rollouts[:_MAX_ROLLOUTS]:
            self._rollouts.add_data(*_row(step, rollout, self._dimension))
        self._run.log({"step": step, "rollouts": self._rollouts})

    def rewind(self, step: int) -> None:
        """Nothing: W&B keeps its lines, and draws the later of two of the same step."""

    def close(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


def _run_id(folder: Path) -> str:
    """Fixed when the run folder is first logged from, so that a resumed run continues its W&B run."""
    path = folder / _ID_FILE
    if not path.exists():
        with whole_file_of_run(path) as file:
            file.write(secrets.token_hex(4).encode())
    return path.read_text(encoding="utf-8").strip()


def _row(step: int, rollout: Rollout, dimension: str) -> list[object]:
    calls = sum(span.kind is SpanKind.CALL for span in rollout.spans)
    task = orjson.dumps(rollout.request.task.data).decode()
    reward = rewards(rollout).get(dimension)
    return [step, rollout.id, str(rollout.status), reward, calls, task, transcript(rollout)]
