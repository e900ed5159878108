"""What a model's folder holds beside its weights: config, tokenizer, chat templates, licence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

_TEMPLATE: Final = "chat_template.jinja"
_TEMPLATES: Final = "additional_chat_templates"
"""The folder in which transformers looks for others: ``tool_use.jinja`` is for calls with tools."""
_OF_WEIGHTS: Final = (
    ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", "adapter_config.json"
)  # fmt: skip
"""How names of weights end, and of what describes these."""


def copy(source: Path, into: Path) -> None:
    """Byte for byte: a tokenizer that was loaded and saved again might not be the same tokenizer. What is
    there already stays; hidden files are left out."""
    for path in source.iterdir():
        known = path.name.endswith(_OF_WEIGHTS) or path.name.startswith(".") or (into / path.name).exists()
        if path.is_file() and not known:
            shutil.copyfile(path, into / path.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, into / _TEMPLATES)


def set_template(folder: Path, template: str) -> None:
    """All that is said to the model in that folder is rendered by it."""
    (folder / _TEMPLATE).write_text(template, encoding="utf-8")
    shutil.rmtree(folder / _TEMPLATES, ignore_errors=True)
