"""However a model's rows are computed, they come out as each row does alone, for every architecture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from al_ray.actors.learner import attention
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.computation import Computation, computation
from al_ray.actors.learner.head import HeadForm
from al_ray.actors.learner.model import caps_attention, load_model, trained_logprobs
from al_ray.algorithms.batching import pack
from al_ray.errors import RecipeError
from al_ray.models import limits
from al_ray.types import Row
from tests.support.models.architectures import ARCHITECTURES, NOT_BUILT, tiny_config, tiny_model
from tests.support.models.learner_inputs import POLICY_GRADIENT, WITH_REFERENCE, learner_spec
from tests.support.models.learner_inputs import rows as learner_rows

LONGEST: Final = 80
HIDDEN: Final = 48
"""A bound that rows pass and the probe's do not."""
BUDGET: Final = 400

KINDS: Final = (
    "bert", "bloom", "cohere", "deepseek_v32", "falcon_h1", "gemma2", "gemma3_text", "gpt2", "gpt_neo",
    "gpt_oss", "lfm2_moe", "llama", "llama4_text", "mamba2", "mistral", "modernbert-decoder", "olmo3", "phi3",
    "qwen3_moe", "qwen3_next", "roberta", "xlnet",
)  # fmt: skip
"""One architecture for each way in which tokens see each other."""
PACKED: Final = frozenset(KINDS) - {
    "bloom", "deepseek_v32", "falcon_h1", "gpt_neo", "lfm2_moe", "llama4_text", "mamba2",
    "modernbert-decoder", "qwen3_next", "roberta", "xlnet",
}  # fmt: skip
"""Those that must be packed, also where a bound is shorter than a row."""
ROUGH: Final = {"hrm_text": 5e-3}
"""Whose own rounding is larger: it goes round its layers a dozen times."""
REFUSED: Final = {
    **dict.fromkeys(("cpmant", "prophetnet", "xlm", "xlnet"), "see later ones"),
    "reformer": "draws at random",
}


@pytest.fixture(autouse=True, scope="module")
def _quiet_and_alone() -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="transformers")


def rows(sizes: Sequence[int] = (60, 37, 25), groups: int = 2) -> list[Row]:
    """Groups of answers to a prompt of 20 tokens; weights name the tokens."""
    draw = np.random.default_rng(7)
    made: list[Row] = []
    for group in range(groups):
        prompt = draw.integers(10, 90, 20)
        for size in sizes:
            tokens = np.concatenate([prompt, draw.integers(10, 90, size)])
            trained = np.arange(len(tokens)) >= 20
            names = (len(made) * 1000 + np.arange(len(tokens))).astype(np.float32)
            zeros = np.zeros(len(tokens), np.float32)
            made.append(
                Row(f"{len(made)}", f"{group}", tokens, trained, zeros, zeros, names * trained, trained - 1)
            )
    return made


def alone(model: PreTrainedModel, row: Row) -> Tensor:
    """By the plainest computation there is; nothing is predicted from the last token, and a sparse model
    of few heads, whose choice among equal scores falls as the length has it, would choose otherwise."""
    logits = model(input_ids=torch.from_numpy(row.tokens[:-1])[None], use_cache=False).logits[0].float()
    trained = np.flatnonzero(row.trained)
    return logits.log_softmax(-1)[trained - 1, row.tokens[trained]]


def difference(model: PreTrainedModel, how: Computation, told: Sequence[Row]) -> float:
    """The largest of a log-probability, as it is computed, from the row's alone."""
    expected, found = {}, {}
    for row in told:
        expected |= dict(zip(row.weights[row.trained].tolist(), alone(model, row).tolist(), strict=True))
    for batch in pack(told, how.packed_tokens):
        assert not how.packed or batch.computed <= how.packed_tokens
        logprobs, _ = trained_logprobs(model, batch, how, 1.0)
        found |= dict(zip(batch.weights.tolist(), logprobs.tolist(), strict=True))
    assert found.keys() == expected.keys()
    return max(abs(found[name] - expected[name]) for name in expected)


def built(architecture: str, **changes: Any) -> PreTrainedModel:
    config = tiny_config(architecture, **changes)
    return tiny_model(config, "eager" if caps_attention(config) else None)


def bounded(architecture: str, tokens: int) -> PreTrainedModel | None:
    """With all bounds of its config at so many tokens, or one of them; None if it has none."""
    text = tiny_config(architecture).get_text_config(decoder=True).to_dict()
    names = {bound.key for bound in limits.bounds(text) if bound.key in text and bound.tokens > 8}
    for some in (sorted(names), *([name] for name in sorted(names))):
        try:
            model = built(architecture, **dict.fromkeys(some, tokens))
            with torch.no_grad():
                alone(model, rows()[0])
        except Exception:
            continue  # No such model is possible.
        if some:
            return model
    return None


@torch.no_grad()
def assert_equal_alone(architecture: str) -> None:
    tolerance = ROUGH.get(architecture, 2e-4)
    for bound in (None, HIDDEN, LONGEST + 10):
        model = built(architecture) if bound is None else bounded(architecture, bound)
        if model is None:
            continue
        if architecture in REFUSED:
            with pytest.raises(RecipeError, match=REFUSED[architecture]):
                computation(model, LONGEST, BUDGET)
            continue
        how = computation(model, LONGEST, BUDGET)
        assert difference(model, how, rows()) < tolerance, (bound, how.told)
        if architecture in PACKED:
            assert how.packed, (bound, how.told)


def assert_torchs_attention_is_transformers_own(architecture: str) -> None:
    """Where it is chosen."""
    model = built(architecture)
    with torch.no_grad():
        found = alone(model, rows()[0])
        model.set_attn_implementation("eager")
        assert float((alone(model, rows()[0]) - found).abs().max()) < ROUGH.get(architecture, 2e-4)


@pytest.mark.parametrize("architecture", KINDS)
def test_rows_come_out_as_alone_whatever_tokens_see(architecture: str) -> None:
    assert_equal_alone(architecture)
    assert_torchs_attention_is_transformers_own(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in KINDS])
def test_rows_of_every_architecture_come_out_as_alone(architecture: str) -> None:
    assert_equal_alone(architecture)
    assert_torchs_attention_is_transformers_own(architecture)


def test_every_architecture_of_transformers_is_tried_or_left_out_for_a_reason() -> None:
    assert len(ARCHITECTURES) + len(NOT_BUILT) == len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(NOT_BUILT) == 5


@pytest.mark.parametrize(
    ("architecture", "changes", "packed"),
    [
        ("falcon", {"alibi": True}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": HIDDEN, "max_window_layers": 1}, True),
        ("olmo3", {"sliding_window": HIDDEN, "layer_types": ["full_attention"] * 2}, True),
        ("llama", {"max_position_embeddings": LONGEST}, True),
        ("gpt_neo", {"max_position_embeddings": LONGEST, "window_size": LONGEST}, True),
        ("gemma2", {"attn_logit_softcapping": 0.5, "sliding_window": HIDDEN}, True),
    ],
)
def test_what_a_config_says_beside_its_kind_is_minded(
    architecture: str, changes: dict[str, Any], packed: bool
) -> None:
    model = built(architecture, **changes)
    how = computation(model, LONGEST, BUDGET)
    assert how.packed == packed, how.told
    with torch.no_grad():
        assert difference(model, how, rows()) < 2e-4


@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear", "longrope", "dynamic"])
def test_a_rope_is_let_in_unless_it_turns_with_the_length_of_a_row(kind: str) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8} if kind == "longrope" else {}
    frequencies = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    original = {"original_max_position_embeddings": HIDDEN} if kind != "linear" else {}
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **original, **factors, **frequencies}
    changes = {
        "rope_parameters": rope,
        "max_position_embeddings": HIDDEN if kind == "dynamic" else 4 * HIDDEN,
    }
    model = built("llama", **changes)
    if kind in ("longrope", "dynamic"):
        with pytest.raises(RecipeError, match=f"at most {HIDDEN}: beyond that its {kind} rope turns"):
            computation(model, HIDDEN + 1, BUDGET)
        how, told = computation(model, HIDDEN, BUDGET), rows(sizes=(28, 20, 9))
    else:
        how, told = computation(model, LONGEST, BUDGET), rows()
    assert how.packed
    with torch.no_grad():
        assert difference(model, how, told) < 2e-4


@pytest.mark.parametrize(
    "architecture",
    ["bert", "cohere", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "lfm2_moe", "mistral", "phi", "qwen3_moe"],
)
def test_gradients_are_those_of_rows_alone(architecture: str) -> None:
    model = bounded(architecture, HIDDEN) or built(architecture)
    how = computation(model, LONGEST, BUDGET)
    told = [replace(row, weights=row.weights / 1e4) for row in rows()]
    for row in told:
        (alone(model, row) * torch.from_numpy(row.weights[row.trained])).sum().backward()
    expected = gradient(model)
    for batch in pack(told, how.packed_tokens):
        logprobs, _ = trained_logprobs(model, batch, how, 1.0)
        (logprobs * batch.weights).sum().backward()
    assert float((gradient(model) - expected).norm() / expected.norm()) < 1e-4, how.told


@pytest.mark.parametrize(
    ("architecture", "changes", "form"),
    [
        ("llama", {}, HeadForm()),
        ("phi", {}, HeadForm()),
        ("cohere", {"logit_scale": 0.0625}, HeadForm(0.0625)),
        ("granite", {"logits_scaling": 4.0}, HeadForm(0.25)),
        ("gemma2", {"final_logit_softcapping": 2.0}, HeadForm(cap=2.0)),
        ("bert", {}, None),
    ],
)
def test_how_logits_come_of_hidden_states_is_found_by_trying(
    architecture: str, changes: dict[str, Any], form: HeadForm | None
) -> None:
    """A head that learns more than a matrix and a bias computes its own logits."""
    found = computation(built(architecture, **changes), LONGEST, BUDGET).head
    if form is None:
        assert found is None
    else:
        assert found is not None and found.cap == form.cap
        assert found.scale == pytest.approx(form.scale, rel=1e-6)


@pytest.mark.parametrize(
    ("architecture", "by_runs"), [("llama", True), ("qwen3_moe", True), ("gemma2", False), ("gpt_oss", False)]
)
def test_a_model_that_takes_attention_by_runs_is_given_no_mask_of_all_pairs(
    architecture: str, by_runs: bool
) -> None:
    """Soft caps and sinks are of transformers' own attention, which stays."""
    model = built(architecture)
    how = computation(model, LONGEST, BUDGET)
    (batch,) = pack(rows(groups=1), BUDGET)
    masks = how.masks(batch, how.window, torch.float32)
    assert (masks is not None and getattr(masks, "dtype", None) == torch.int64) == by_runs
    assert (model.config._attn_implementation == attention.NAME) == by_runs


def gradient(model: PreTrainedModel) -> Tensor:
    vector = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector


def test_a_soft_cap_is_kept_which_torchs_own_attention_leaves_out(tmp_path: Path) -> None:
    config = tiny_config("gemma2", attn_logit_softcapping=0.5)
    tiny_model(config, "eager").save_pretrained(tmp_path)
    right, wrong = (
        alone(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name).eval(), rows()[0])
        for name in ("eager", "sdpa")
    )
    found = alone(load_model(str(tmp_path), torch.device("cpu")), rows()[0])
    assert torch.allclose(found, right, atol=1e-5)
    assert not torch.allclose(found, wrong, atol=1e-1)


def test_a_model_whose_tokens_see_later_ones_is_refused_by_name() -> None:
    config = tiny_config("bert")
    config.is_decoder = False
    with pytest.raises(
        RecipeError, match=r"model\.path: 'bert': cannot be trained: its tokens see later ones"
    ):
        computation(tiny_model(config), LONGEST, BUDGET)


def test_a_learner_tells_why_it_computes_rows_one_by_one_and_shares_nothing(tmp_path: Path) -> None:
    tiny_model(tiny_config("lfm2", vocab_size=256)).save_pretrained(tmp_path)
    learner = Learner(learner_spec(tmp_path))
    assert learner.computes() == (
        "computes rows of lfm2 one by one: packed, they come out otherwise than alone"
    )
    learner.start_stage(WITH_REFERENCE)
    metrics = learner.update([learner_rows()], POLICY_GRADIENT).metrics
    assert metrics["learner/micro_batches"] == len(learner_rows())
    assert metrics["learner/shared_tokens"] == 0
    assert metrics["policy/kl"] == 0
