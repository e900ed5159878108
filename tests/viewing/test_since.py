"""What the newest checkpoint makes of tokens that were sampled before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from al_ray.database.listing import Listing
from al_ray.errors import UserError
from al_ray.models import adapters
from al_ray.recipe import LoraSection, PolicySection
from al_ray.traces import call_span
from al_ray.types import SpanKind
from al_ray.viewing.since import logprobs_since
from tests.conftest import write_tiny_model
from tests.support.runs.viewed import write_run


def test_each_token_has_the_log_probability_that_the_newest_checkpoint_gives_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As transformers computes each call alone; of every call, whichever row it stands in."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_run(tiny_model, tmp_path / "out")
    recipe, listing = folder.recipe(), Listing(folder.store_url)
    rollout, held_out = (listing.rollout(id) for id in ("step-000003/0/1", "eval/step-000000/0/0"))
    assert rollout is not None and held_out is not None
    with pytest.raises(UserError, match=r"no checkpoint is kept yet: checkpoint\.every"):
        logprobs_since(folder, recipe, rollout)
    shutil.copytree(tiny_model, folder.checkpoint(5))
    weights = folder.checkpoint(5) / "model.safetensors"
    weights.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"step-000005': cannot be loaded: .*; where a newer one has taken"):
        logprobs_since(folder, recipe, rollout)
    (tmp_path / "away").rename(weights)
    with pytest.raises(UserError, match="of mode eval': tokens are compared of rollouts of mode train"):
        logprobs_since(folder, recipe, held_out)
    found = logprobs_since(folder, recipe, rollout)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    calls = [span for span in rollout.spans if span.kind is SpanKind.CALL]
    assert sorted(found) == [f"{call.id}/0" for call in calls] and len(calls) == 3
    for call in calls:
        prompt, response = [*call_span.prompt_ids(call)], [*call_span.choices(call)[0].response_ids]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        alone = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        assert found[f"{call.id}/0"] == pytest.approx(alone.tolist(), abs=1e-4)
    write_tiny_model(folder.checkpoint(5), initializer_range=0.4)
    anew = logprobs_since(folder, recipe, rollout)
    assert anew.keys() == found.keys() and anew != found, "a run that goes on from before writes it anew"


def test_an_adapters_checkpoint_is_computed_with_as_its_base_with_the_adapter_added(
    tiny_model: Path, tmp_path: Path
) -> None:
    """``alpha / rank * B A`` of a matrix, whose model is the next checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    from al_ray.actors.learner.holding import adapter

    folder = write_run(tiny_model, tmp_path / "out")
    recipe, rollout = folder.recipe(), Listing(folder.store_url).rollout("step-000003/0/1")
    assert rollout is not None
    shutil.copytree(tiny_model, folder.checkpoint(5), ignore=shutil.ignore_patterns("*.safetensors"))
    section, layer = LoraSection(rank=4, targets=["q_proj"]), "model.layers.0.self_attn.q_proj"
    a, b = torch.randn(4, 64), torch.randn(64, 4)
    named = {f"base_model.model.{layer}.lora_{name}.weight": value for name, value in (("A", a), ("B", b))}
    adapter.write(folder.checkpoint(5), named, section, str(tiny_model))
    found = logprobs_since(folder, recipe, rollout)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.get_submodule(layer).weight.data += section.alpha / section.rank * b @ a
    model.save_pretrained(folder.checkpoint(6))
    expected = logprobs_since(folder, recipe, rollout)
    assert found == {call: pytest.approx(values, abs=1e-4) for call, values in expected.items()}


def test_a_checkpoint_that_cannot_be_computed_with_is_said_to_be_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several policies, and of an adapter whose base is larger than the memory."""
    folder = write_run(tiny_model, tmp_path / "out")
    recipe, rollout = folder.recipe(), Listing(folder.store_url).rollout("step-000003/0/1")
    assert rollout is not None
    checkpoint = folder.checkpoint(5)
    checkpoint.mkdir(parents=True)
    (checkpoint / adapters.WEIGHTS).write_bytes(b"0" * 10)
    (checkpoint / adapters.CONFIG).write_text(json.dumps(adapters.config(LoraSection(), str(tiny_model))))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(UserError, match=r"checkpoint: .* GiB of memory needed, 0\.0 free"):
        logprobs_since(folder, recipe, rollout)
    several = recipe.model_copy(update={"policies": {name: PolicySection(agents=[name]) for name in "ab"}})
    with pytest.raises(UserError, match="policies: 'a, b': tokens are compared where one policy answers"):
        logprobs_since(folder, several, rollout)
