"""What a model's folder holds beside its weights, in another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from al_ray.models import beside


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """One that renders calls with tools by a template of their own."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "plain", "tool_use": "with tools"}
    tokenizer.save_pretrained(folder)
    return folder


def test_all_templates_and_no_weights_are_copied(model: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (model / "adapter_config.json").touch()
    (model / ".lock").touch()
    (model / "README.md").touch()
    (model / "original").mkdir()
    (into / "README.md").write_text("its own")
    beside.copy(model, into)
    assert AutoTokenizer.from_pretrained(into).chat_template == {"default": "plain", "tool_use": "with tools"}
    assert (into / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert (into / "README.md").read_text() == "its own"
    left = {"model.safetensors", "adapter_config.json", ".lock", "original"}
    assert {path.name for path in model.iterdir()} - {path.name for path in into.iterdir()} == left


def test_a_template_that_is_set_renders_calls_with_tools_too(model: Path) -> None:
    """As engines that are given one do."""
    beside.set_template(model, "the recipe's")
    assert AutoTokenizer.from_pretrained(model).chat_template == "the recipe's"
