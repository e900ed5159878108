"""One learner: its steps, its refusals, its checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import Reference, StageSpec
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.correction import Correction
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.algorithms.losses.token import Loss, TokenLosses
from al_ray.algorithms.passes import Passes
from al_ray.errors import CheckpointError
from al_ray.recipe import OptimizerSection
from tests.support.machines.processes import files_up_to
from tests.support.models.learner_inputs import (
    OPTIMIZER,
    POLICY_GRADIENT,
    PROBE,
    SECTION,
    WITH_CRITIC,
    WITH_REFERENCE,
    learner_spec,
    probe_logprobs,
    rows,
    settled,
)


def started(model: Path, keep_reference: bool = False) -> Learner:
    learner = Learner(learner_spec(model))
    learner.start_stage(WITH_REFERENCE if keep_reference else SECTION)
    return learner


def weights(learner: Learner) -> Mapping[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.named_tensors()}


def assert_equal(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_step_is_adamws_on_the_clipped_gradient_of_the_weighted_sum(tiny_model: Path) -> None:
    learner = started(tiny_model)
    metrics = learner.update([rows()], CrossEntropy()).metrics

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    total = torch.zeros(())
    for row in rows():
        logprobs = model(input_ids=torch.from_numpy(row.tokens)[None]).logits[0].log_softmax(-1)
        trained = np.flatnonzero(row.trained)
        total -= (logprobs[trained - 1, row.tokens[trained]] * torch.from_numpy(row.weights[trained])).sum()
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_grad_norm)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=OPTIMIZER.betas,
    ).step()
    assert metrics["optim/loss"] == pytest.approx(total.item(), rel=1e-5)
    assert metrics["optim/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    # Where a gradient is nearly zero, Adam's first step is its sign: a few weights may differ by more.
    for name, tensor in learner.named_tensors():
        close = (tensor - model.get_parameter(name)).abs() < 1e-5
        assert float(close.float().mean()) > 0.995, name


def test_the_update_does_not_depend_on_the_size_of_micro_batches(tiny_model: Path) -> None:
    gradients = []
    for tokens in (1, 10_000):
        learner = Learner(replace(learner_spec(tiny_model), micro_batch_tokens=tokens))
        learner.start_stage(WITH_REFERENCE)
        metrics = learner.update([rows()], POLICY_GRADIENT).metrics
        assert (metrics["learner/micro_batches"] > 1) == (tokens == 1)
        gradients.append(learner._held.gradient.vector.clone())
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert float(difference) < 1e-5


def test_the_update_does_not_depend_on_whether_layers_are_computed_again(tiny_model: Path) -> None:
    """Neither does the reference, which is a copy of the model that does."""
    told = []
    for recompute in (False, True):
        learner = Learner(replace(learner_spec(tiny_model), recompute=recompute))
        learner.start_stage(WITH_REFERENCE)
        learner.update([rows()], POLICY_GRADIENT)
        metrics = learner.update([rows(1)], POLICY_GRADIENT).metrics
        told.append((metrics["optim/loss"], metrics["policy/kl"], learner._held.gradient.vector.clone()))
    (loss, kl, plain), (loss_again, kl_again, again) = told
    assert loss_again == pytest.approx(loss, rel=1e-4) and kl_again == pytest.approx(kl, rel=1e-3)
    assert float((again - plain).norm() / plain.norm()) < 1e-3


def test_bfloat16_is_computed_in_and_master_weights_and_optimizer_are_float32(tiny_model: Path) -> None:
    gradients = []
    for dtype in ("float32", "bfloat16"):
        learner = Learner(replace(learner_spec(tiny_model), dtype=dtype))
        learner.start_stage(SECTION)
        metrics = learner.update([rows()], CrossEntropy()).metrics
        assert metrics["optim/steps_refused"] == 0
        gradients.append(learner._held.gradient.vector.clone())
        assert {parameter.dtype for parameter in learner._held.model.parameters()} == {torch.float32}
        assert {tensor.dtype for _, tensor in learner.named_tensors()} == {getattr(torch, dtype)}
        state = next(iter(learner._stages[""].optimizer.state.values()))
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert float(similarity) > 0.99 and not torch.equal(*gradients)


def test_what_a_learner_held_at_most_is_told_beside_what_was_reckoned(tiny_model: Path) -> None:
    learner = Learner(replace(learner_spec(tiny_model), estimated=2**30))
    learner.start_stage(SECTION)
    metrics = learner.update([rows()], CrossEntropy()).metrics
    assert 0.05 < metrics["learner/peak_gib"] < 64
    assert metrics["learner/estimated_gib"] == 1


def test_gradients_that_are_not_finite_are_refused_and_counted_and_the_next_step_is_sound(
    tiny_model: Path,
) -> None:
    learner = started(tiny_model, keep_reference=True)
    before = weights(learner)
    poisoned = [replace(row, advantages=row.advantages * np.float32("nan")) for row in rows()]
    report = learner.update([poisoned], POLICY_GRADIENT)
    assert report.metrics["optim/steps_refused"] == 1 and report.policy_version == 0
    assert_equal(before, weights(learner))
    report = learner.update([rows(), poisoned], POLICY_GRADIENT)
    assert report.metrics["optim/steps_refused"] == 1 and report.policy_version == 1
    assert report.metrics["health/steps_refused"] == 0.5, "of several steps, what health warns of is a share"
    assert all(tensor.isfinite().all() for tensor in weights(learner).values())


def test_a_batch_in_which_no_token_has_a_gradient_moves_nothing_after_steps_that_did(
    tiny_model: Path,
) -> None:
    """AdamW remembers those steps, and would go on in their direction."""
    learner = started(tiny_model)
    learner.update([rows()], CrossEntropy())
    before = weights(learner)
    idle = [replace(row, advantages=row.advantages * 0) for row in rows()]
    for batch in (idle, []):
        report = learner.update([batch], PolicyGradient(Clipped(0.2, 0.2)))
        assert report.policy_version == 1
        assert report.metrics["optim/steps_empty"] == 1 and report.metrics["optim/steps_refused"] == 0
        assert_equal(before, weights(learner))
    assert learner.update([rows()], CrossEntropy()).metrics["optim/steps_empty"] == 0


def test_the_kl_is_zero_against_the_weights_of_the_stages_start_and_grows_with_steps(
    tiny_model: Path,
) -> None:
    learner = started(tiny_model, keep_reference=True)
    first = learner.update([rows()], POLICY_GRADIENT).metrics
    second = learner.update([rows()], POLICY_GRADIENT).metrics
    assert first["policy/kl"] == 0
    assert second["policy/kl"] > 1e-6


def test_a_reference_that_the_loss_does_not_ask_is_not_computed(tiny_model: Path) -> None:
    """With ``kl_in: reward`` it was asked before credit was given."""
    learner = started(tiny_model, keep_reference=True)
    (stage,) = learner._stages.values()
    assert stage.reference is not None
    stage.reference.in_place = None  # type: ignore[assignment, method-assign]
    metrics = learner.update([rows()], PolicyGradient(Clipped(0.2, 0.2))).metrics
    assert metrics["optim/steps"] == 1 and "policy/kl" not in metrics


def test_a_kl_without_a_reference_to_measure_it_from_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="reference"):
        started(tiny_model).update([rows()], POLICY_GRADIENT)


@pytest.mark.parametrize("loss", [CrossEntropy(), POLICY_GRADIENT])
def test_a_loaded_learner_continues_bit_for_bit(tiny_model: Path, tmp_path: Path, loss: Loss) -> None:
    learner = Learner(learner_spec(tiny_model))
    learner.start_stage(WITH_CRITIC)
    features = learner.observe(rows(0), loss, None, features=True).features
    learner.fit_critic(features, np.ones(len(features)))
    learner.update([rows(0)], loss)
    learner.save(str(tmp_path / "step_1"))
    resumed = Learner(learner_spec(tiny_model))
    resumed.load(str(tmp_path / "step_1"))
    assert resumed.policy_version() == 1
    expected, found = (each.update([rows(1)], loss) for each in (learner, resumed))
    assert expected.policy_version == 2
    assert settled(expected) == settled(found)
    assert_equal(weights(learner), weights(resumed))
    assert (learner.critic_values(features) == resumed.critic_values(features)).all()
    assert learner.critic_values(features).any()


def test_a_checkpoint_is_a_model_folder_with_the_models_own_tokenizer_files(
    tiny_model: Path, tmp_path: Path
) -> None:
    learner = Learner(replace(learner_spec(tiny_model), chat_template="{{ messages }}"))
    folder = tmp_path / "step_1"
    learner.save(str(folder))
    assert (folder / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages }}"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert learner.logprobs(PROBE) == pytest.approx(probe_logprobs(model), abs=1e-6)


def test_a_checkpoint_renders_calls_with_tools_as_the_model_does(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = {"default": "plain", "tool_use": "with tools"}
    tokenizer.save_pretrained(model)
    Learner(learner_spec(model)).save(str(tmp_path / "step_1"))
    assert AutoTokenizer.from_pretrained(tmp_path / "step_1").chat_template == tokenizer.chat_template


@pytest.mark.parametrize("room", [1_000, 500_000], ids=["in the weights", "in the resume state"])
def test_a_disk_that_is_full_is_told_with_its_folder_and_the_checkpoint_before_stays(
    tiny_model: Path, tmp_path: Path, room: int
) -> None:
    """Each of the libraries that write tells it in its own way; nothing stays of what was written."""
    learner, folder = started(tiny_model), tmp_path / "step_1"
    learner.update([rows(0)], CrossEntropy())
    learner.save(str(folder))
    before = json.dumps(sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*")))
    sizes = [(folder / name).stat().st_size for name in ("model.safetensors", "resume/state.pt")]
    assert sizes[0] < 500_000 < sizes[1]
    told = r"step_1: .*could not be written: .* GiB are free there"
    with files_up_to(room), pytest.raises(CheckpointError, match=told):
        learner.save(str(folder))
    assert json.dumps(sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*"))) == before
    learner.save(str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


@pytest.mark.parametrize("file", ["model.safetensors", "resume/state.pt"])
def test_a_checkpoint_that_was_cut_is_told_with_the_cure(tiny_model: Path, tmp_path: Path, file: str) -> None:
    learner = started(tiny_model)
    learner.save(str(tmp_path / "step_1"))
    path = tmp_path / "step_1" / file
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"step_1: the checkpoint is damaged: .*; remove the folder"):
        learner.load(str(tmp_path / "step_1"))


def test_published_weights_have_checkpoint_names_the_published_dtype_and_no_tied_duplicate(
    tiny_model: Path,
) -> None:
    learner = Learner(replace(learner_spec(tiny_model), dtype="bfloat16"))
    published = dict(learner.named_tensors())
    assert published.keys() == load_file(tiny_model / "model.safetensors").keys()
    assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}
    update = learner.publish(version=7)
    assert update.version == 7 and update.path is not None
    assert_equal(load_file(update.path), published)
    learner.close()


def test_steps_too_small_for_bfloat16_still_add_up(tiny_model: Path) -> None:
    """A bfloat16 weight of 0.2 cannot move by 1e-5; a learner that computes in bfloat16 can."""
    learner = Learner(replace(learner_spec(tiny_model), dtype="bfloat16"))
    learner.start_stage(StageSpec(OptimizerSection(learning_rate=1e-5), 40))
    before = learner.update([rows()], CrossEntropy()).metrics["optim/loss"]
    for _ in range(20):
        after = learner.update([rows()], CrossEntropy()).metrics["optim/loss"]
    start = AutoModelForCausalLM.from_pretrained(tiny_model).get_input_embeddings().weight.detach()
    moved = (dict(learner._held.model.named_parameters())["model.embed_tokens.weight"].detach() - start).abs()
    assert float(moved.max()) > 5e-5
    assert after < before


def test_each_mini_batch_of_each_epoch_is_a_step_and_an_update_one_version(tiny_model: Path) -> None:
    """The same steps, one after the other, by a learner that is asked for each."""
    parts = Passes(2, 2)(rows())
    together, one_by_one = started(tiny_model), Learner(learner_spec(tiny_model))
    constant = replace(SECTION, optimizer=OptimizerSection(learning_rate=1e-3))
    for learner in (together, one_by_one):
        learner.start_stage(constant)
    report = together.update(parts, CrossEntropy())
    reports = [one_by_one.update([part], CrossEntropy()) for part in parts]
    assert report.policy_version == 1 and reports[-1].policy_version == 4
    assert report.metrics["optim/steps"] == 4
    for name in ("optim/loss", "optim/grad_norm"):
        assert report.metrics[name] == pytest.approx(np.mean([each.metrics[name] for each in reports]))
    assert report.metrics["learner/trained_tokens"] == 2 * sum(int(row.trained.sum()) for row in rows())
    assert_equal(weights(together), weights(one_by_one))


def test_a_corrected_loss_measures_later_steps_against_the_policy_that_the_update_began_with(
    tiny_model: Path,
) -> None:
    """The first step moves the policy; the second's ratio is to what it was before the first."""
    learner = started(tiny_model)
    seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    class Watched(PolicyGradient):
        def __call__(
            self, logprobs: torch.Tensor, reference: torch.Tensor | None, batch: MicroBatch
        ) -> TokenLosses:
            seen.append((logprobs.detach(), batch.proximal))
            return super().__call__(logprobs, reference, batch)

    loss = Watched(Clipped(0.2, 0.2), correction=Correction("token", "truncate", 2.0))
    learner.update(Passes(epochs=2)(rows()), loss)
    half = len(seen) // 2
    for (begun, first), (later, second) in zip(seen[:half], seen[half:], strict=True):
        assert first is not None and second is not None
        torch.testing.assert_close(first, begun, atol=1e-5, rtol=0)
        assert torch.equal(first, second) and not torch.allclose(later, begun, atol=1e-4)


@pytest.mark.parametrize(("mix", "left"), [(1.0, 0.0), (0.25, 0.75)])
def test_a_reference_that_moves_follows_the_weights_when_it_is_time(
    tiny_model: Path, mix: float, left: float
) -> None:
    learner = Learner(learner_spec(tiny_model))
    learner.start_stage(replace(SECTION, reference=Reference(every=2, mix=mix)))
    name = "model.norm.weight"

    def of_reference() -> torch.Tensor:
        assert learner._stages[""].reference is not None
        with learner._stages[""].reference.in_place():
            return weights(learner)[name]

    before = weights(learner)[name]
    for _ in range(2):
        assert torch.equal(of_reference(), before)
        learner.update([rows()], CrossEntropy())
    after = weights(learner)[name]
    assert not torch.equal(before, after)
    torch.testing.assert_close(of_reference(), left * before + (1 - left) * after)


def test_tokens_that_a_grammar_held_are_measured_against_the_policy_that_the_update_began_with(
    tiny_model: Path,
) -> None:
    """Also by a loss that measures others against their sampler, and in later steps of the update."""
    learner = started(tiny_model)
    batch = rows()
    held = [replace(row, constrained=row.trained if row is batch[0] else None) for row in batch]
    proximal: list[torch.Tensor | None] = []

    class Watched(PolicyGradient):
        def __call__(
            self, logprobs: torch.Tensor, reference: torch.Tensor | None, batch: MicroBatch
        ) -> TokenLosses:
            proximal.append(batch.proximal)
            return super().__call__(logprobs, reference, batch)

    loss = Watched(Clipped(0.2, 0.2))
    assert not loss.needs_proximal
    metrics = learner.update(Passes(epochs=2)(held), loss).metrics
    assert proximal and all(each is not None for each in proximal)
    share = batch[0].trained.sum() / sum(row.trained.sum() for row in batch)
    assert metrics["off_policy/constrained"] == pytest.approx(share)
    assert metrics["off_policy/constrained_kl"] != 0
    proximal.clear()
    learner.update([held], loss)
    learner.update(Passes(epochs=2)(batch), loss)
    assert not any(each is not None for each in proximal)
