"""MuSiQue's recipes are valid, and the CPU one's lengths fit its demonstrations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from al_ray.data.tasks import load_tasks
from al_ray.envs.musique.data import load
from al_ray.envs.musique.demonstrations import demonstrate
from al_ray.errors import DataError, RecipeError
from al_ray.models import folders
from al_ray.recipe import loading
from al_ray.run.launch.preparation import services

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("name", ["musique", "musique_cpu"])
def test_a_recipe_is_valid_and_asks_for_its_index(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything starts."""
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path))
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    loaded = loading.load(RECIPES / f"{name}.yaml")
    assert len(load_tasks(loaded).train) > 50
    with pytest.raises(DataError, match="make it with `al-ray index RECIPE`"):
        for service in services(loaded).values():
            service.check()


def test_a_mistaken_service_is_told_with_its_place() -> None:
    """A class that is not there; an option that it does not have."""
    path = RECIPES / "musique_cpu.yaml"
    with pytest.raises(RecipeError, match=r"services\.retrieval\.run.*has no 'Retriever'"):
        loading.load(path, ["services.retrieval.run=al_ray.actors.service.retrieval:Retriever"])
    with pytest.raises(RecipeError, match=r"services\.retrieval\.run.*depth"):
        loading.load(path, ["services.retrieval.options.depth=3"])


@pytest.mark.slow
def test_demonstrations_fit_the_cpu_recipe(rows_path: str | None) -> None:
    """Every message of the model in ``max_tokens``; and the whole in ``max_length``, though a real search
    shows two passages where a demonstration shows one."""
    loaded = loading.load(RECIPES / "musique_cpu.yaml")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folders.resolve(loaded.model.path))
    except RecipeError as error:
        pytest.skip(str(error))
    template = (RECIPES / "smollm2_tools.jinja").read_text(encoding="utf-8")
    for task in load(rows_path, "train", **loaded.data.options).tasks:
        shown = demonstrate(task.data)
        messages = json.loads(json.dumps(list(shown.messages)))
        for call in (call for message in messages for call in message.get("tool_calls", [])):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        (whole,), _ = render_jinja_template([messages], tools=shown.tools, chat_template=template)
        tools = [message["content"] for message in messages if message["role"] == "tool"]
        tokens = len(tokenizer(whole).input_ids) + sum(len(tokenizer(text).input_ids) for text in tools)
        assert tokens + 20 <= loaded.model.max_length
        assert len(tokenizer(messages[-1]["content"]).input_ids) < loaded.agent.sampling.max_tokens
