"""What the newest checkpoint makes of tokens that earlier policies sampled: what has changed since.

Each row is computed as the learners compute it, by their own code, on this machine's processor. That takes
torch and the memory of the model, so it is done when somebody asks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from al_ray.algorithms.rows import build_rows
from al_ray.errors import Problem, UnreadableError, UserError
from al_ray.models import adapters, tensors
from al_ray.recipe import Recipe
from al_ray.rollouts.trajectory import trajectory
from al_ray.run.folder import RunFolder
from al_ray.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BYTES: Final = 4
"""Of a weight as it is computed with; a file has two or four."""
_lock = threading.Lock()


def logprobs_since(folder: RunFolder, recipe: Recipe, rollout: Rollout) -> Mapping[str, Sequence[float]]:
    """By ``CALL/INDEX``, the log-probability of each token of a trained call under the newest checkpoint, at
    the temperature it was sampled at. Raises ``UserError`` where there is none, or no memory for it."""
    mode, temperature = rollout.request.mode, recipe.agent.sampling.temperature
    if mode != "train" or temperature is None:
        cure = "tokens are compared of rollouts of mode train: others are sampled otherwise"
        raise UserError(Problem("rollout", f"{rollout.id} of mode {mode}", cure))
    if recipe.policies:
        cure = "tokens are compared where one policy answers: a checkpoint of several is no model"
        raise UserError(Problem("policies", ", ".join(recipe.policies), cure))
    steps = folder.checkpoints()
    if not steps:
        cure = "no checkpoint is kept yet: checkpoint.every says when one is written"
        raise UserError(Problem("run", str(folder.path), cure))
    from al_ray.actors.learner.computation import Computation  # with torch
    from al_ray.actors.learner.model import trained_logprobs
    from al_ray.algorithms.batching import in_order, pack

    try:
        made = trajectory(rollout, recipe.transitions)
    except (UnreadableError, ValueError) as error:
        raise UserError(Problem("rollout", rollout.id, f"cannot be compared: {error}")) from error
    rows = in_order(build_rows([made], [[0.0] * len(made.transitions)], "rollout_mean"))
    found: dict[str, list[float]] = {}
    with _lock:
        model, alone = _model(folder.checkpoint(steps[-1])), Computation("", keeps=False)
        for row, batch in zip(rows, pack(rows, alone.packed_tokens), strict=True):
            values, _ = trained_logprobs(model, batch, alone, temperature)
            for call, value in zip(row.calls[row.trained].tolist(), values.tolist(), strict=True):
                found.setdefault(made.transitions[call].id, []).append(value)
    return found


def _model(folder: Path) -> PreTrainedModel:
    """That of a checkpoint; the last one is kept."""
    with _reading(folder):
        base = adapters.base_of(folder) if adapters.is_adapter(folder) else None
        places = [folder] if base is None else [folder, base]
        found = {file: file.stat() for place in places for file in tensors.files(place)}
        key = tuple((file, stat.st_ino, stat.st_mtime_ns) for file, stat in found.items())
        if key not in _loaded:
            _require_memory(folder, sum(stat.st_size for stat in found.values()) * _BYTES // 2)
            import torch

            from al_ray.actors.learner.model import load_model

            _loaded.clear()
            model = load_model(str(base or folder), torch.device("cpu"))
            if base is not None:
                model = adapters.added(model, folder)
            _loaded[key] = model.requires_grad_(False)
        return _loaded[key]


_Key = tuple[tuple[Path, int, int], ...]
"""The files of its weights (of an adapter's, those of its base too), and which they are: a run that is made
anew writes to the same places."""
_loaded: dict[_Key, PreTrainedModel] = {}


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Raises ``UserError`` where the checkpoint is not what was written, or is no longer there."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        cure = f"cannot be loaded: {error}; where a newer one has taken its place, ask again"
        raise UserError(Problem("checkpoint", str(folder), cure)) from error


def _require_memory(folder: Path, needed: int) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        gib = f"{needed / 2**30:.1f} GiB of memory needed, {free / 2**30:.1f} free"
        raise UserError(Problem("checkpoint", str(folder), f"{gib}: look at the run on a larger machine"))
