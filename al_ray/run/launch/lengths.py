"""Whether what tasks tell has room in a prompt, as far as that can be known before an agent asks.

What an agent shows the model is its own affair, so this only warns: of texts that are longer, alone, than
prompt and response may be together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from al_ray.data.tasks import Tasks
from al_ray.recipe import Recipe
from al_ray.types import Task

_LOOKED_AT: Final = 200
"""Tasks of each split."""


def warnings_of_lengths(recipe: Recipe, model: Path, tasks: Tasks) -> list[str]:
    """``model`` is its folder, whose tokenizer counts; where that has no ``tokenizer.json``, none."""
    if not (model / "tokenizer.json").is_file():
        return []
    looked_at = [*tasks.train[:_LOOKED_AT], *tasks.held_out[:_LOOKED_AT]]
    longest = recipe.model.max_length
    # A token is a byte or more: few texts need be counted.
    long = {task.id: [(key, text) for key, text in _texts(task) if len(text.encode()) >= longest]
            for task in looked_at}  # fmt: skip
    if not any(long.values()):
        return []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    found = []
    for name, texts in long.items():
        counted = [(len(tokenizer.encode(text, add_special_tokens=False).ids), key) for key, text in texts]
        if counted and max(counted)[0] >= longest:
            found.append((name, *max(counted)))
    if not found:
        return []
    name, tokens, key = found[0]
    return [
        f"warning: {len(found)} of the first {len(looked_at)} tasks hold a text that no prompt has room for: "
        f"{key!r} of {name!r} has {tokens} tokens, model.max_length is {longest}. Calls that show it to the "
        "model are refused: raise model.max_length, or leave such tasks out (data.options)"
    ]


def _texts(task: Task) -> Iterator[tuple[str, str]]:
    """Those at the top, and in lists there."""
    for key, value in task.data.items():
        items = value if isinstance(value, list) else [value]
        yield from ((key, item) for item in items if isinstance(item, str))
