"""Checkpoints: a Hugging Face model folder, or an adapter's, with ``resume/`` beside the weights. Of several
policies each has its adapter's folder within."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from al_ray.actors.learner.holding import adapter
from al_ray.actors.learner.holding.held import Held
from al_ray.actors.learner.model import load_model
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.errors import CheckpointError
from al_ray.models import adapters, beside

_RESUME_STATE = Path("resume", "state.pt")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises ``CheckpointError`` where the disk does not take it: each library says so in its own way."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(_nearest(folder)).free
        told = f"{folder}: the checkpoint could not be written: {error}"
        raise CheckpointError(f"{told} ({free / 2**30:.2f} GiB are free there)") from error


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Raises ``CheckpointError`` where it is not what was written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, UnpicklingError, EOFError, KeyError) as error:
        cure = "remove the folder, to go on from the checkpoint before it"
        raise CheckpointError(f"{folder}: the checkpoint is damaged: {error}; {cure}") from error


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest around it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def write_model(
    held: Held, values: Mapping[str, Mapping[str, Tensor]], spec: LearnerSpec, folder: Path
) -> None:
    """The trained ``values``, by policy and name, and everything else byte for byte from the model's
    folder."""
    if spec.lora is None:
        parameters = dict(held.model.named_parameters(remove_duplicate=False))
        others = {name: each for name, each in held.model.state_dict().items() if name not in parameters}
        (of_model,) = values.values()
        held.model.save_pretrained(folder, state_dict={**others, **of_model})
    else:
        for policy, own in values.items():
            place = adapters.place_of(folder, policy)
            place.mkdir(parents=True, exist_ok=True)
            public = {adapter.public_name(policy, name): value for name, value in own.items()}
            adapter.write(place, public, spec.lora, spec.model)
    beside.copy(Path(spec.model), folder)
    if spec.chat_template is not None:
        beside.set_template(folder, spec.chat_template)


def read_model(held: Held, spec: LearnerSpec, folder: Path) -> None:
    """What is trained becomes what ``write_model`` wrote."""
    if spec.lora is None:
        found = dict(load_model(str(folder), torch.device("cpu")).named_parameters())
        held.set(found)
    else:
        for policy in held.policies:
            held.use(policy)
            read_adapter(held, policy, adapters.place_of(folder, policy))


def read_adapter(held: Held, policy: str, folder: Path) -> None:
    """The policy, which is in use, becomes the adapter in that folder."""
    saved = adapter.read(folder)
    held.set({name: saved[adapter.public_name(policy, name)] for name, _ in held.trained()})


def write_resume(state: Mapping[str, Any], folder: Path) -> None:
    path = folder / _RESUME_STATE
    path.parent.mkdir()
    torch.save(dict(state), path)


def read_resume(folder: Path, *, in_parts: bool) -> dict[str, Any]:
    """In main memory; what is used ``in_parts`` is read from the disk when it is."""
    path = folder / _RESUME_STATE
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=in_parts)
    return state
