"""Checkpoints: a Hugging Face model folder with ``resume/`` beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_RESUME_STATE = Path("resume", "state.pt")
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")


def write_model(model: PreTrainedModel, source: Path, chat_template: str | None, folder: Path) -> None:
    """The weights as they are, and everything else byte for byte from ``source``, the model's folder:
    a tokenizer that was loaded and saved again might not be the same tokenizer."""
    model.save_pretrained(folder)
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHT_FILES) and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def write_resume(state: Mapping[str, Any], folder: Path) -> None:
    path = folder / _RESUME_STATE
    path.parent.mkdir()
    torch.save(dict(state), path)


def read_resume(folder: Path, device: torch.device) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / _RESUME_STATE, map_location=device, weights_only=True)
    return state
