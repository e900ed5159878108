"""Which files of a model's folder are its weights, and whether they are all there."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from al_ray.errors import RecipeError
from al_ray.models import folders, memory, tensors
from al_ray.recipe import ModelSection
from tests.support.models.weights import write_weights

SHARDS = {"model-00001-of-00002.safetensors": "a.weight", "model-00002-of-00002.safetensors": "b.weight"}
SHAPE = (8, 4)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model's folder with an index and its two files of weights."""
    config = {
        "hidden_size": 4,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    for file, name in SHARDS.items():
        write_weights(tmp_path / file, {name: SHAPE})
    index = {"metadata": {}, "weight_map": {name: file for file, name in SHARDS.items()}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_weights_that_a_folder_holds_twice_count_once(sharded: Path) -> None:
    """As Mistral's models have them, with an index and without. A run is refused: engines would load others
    than learners."""
    write_weights(sharded / "consolidated.safetensors", {"wa": SHAPE, "wb": SHAPE})
    for _ in range(2):
        assert [name for name, _ in tensors.shapes(sharded)] == list(SHARDS.values())
        sizes = memory.sizes_of(sharded)
        assert sizes is not None and sizes.parameters == 2 * math.prod(SHAPE)
        (sharded / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(RecipeError, match=r"consolidated\.safetensors': holds the weights a second time"):
        folders.require_whole(sharded, ModelSection(path=str(sharded)))
    for file in SHARDS:
        (sharded / file).unlink()
    with pytest.raises(RecipeError, match="holds no weights: no file"):
        folders.require_whole(sharded, ModelSection(path=str(sharded)))


@pytest.mark.parametrize("lacking", SHARDS)
def test_a_model_that_lacks_a_file_of_its_index_is_not_whole(sharded: Path, lacking: str) -> None:
    section = ModelSection(path=str(sharded))
    folders.require_whole(sharded, section)
    (sharded / lacking).unlink()
    for look in (lambda: folders.require_whole(sharded, section), lambda: memory.sizes_of(sharded)):
        told = re.escape(f"model.path: '{sharded / lacking}': is not there, though model.safetensors.index.j")
        with pytest.raises(RecipeError, match=f"^{told}.*was the download cut off"):
            look()


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_m'])
def test_an_index_that_names_no_files_is_told(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RecipeError, match=r"model\.safetensors\.index\.json': .*was the download cut off"):
        tensors.files(sharded)
