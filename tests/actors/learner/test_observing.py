"""What learners measure of calls, against the model asked for each call alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.observing import Observations
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.types import Row
from tests.support.models.learner_inputs import (
    POLICY_GRADIENT,
    WITH_CRITIC,
    WITH_REFERENCE,
    learner_spec,
    rows,
)


def of_two_calls(row: Row) -> Row:
    """Its response as two calls of one conversation, the second after three tokens that nobody sampled."""
    trained = np.arange(len(row.tokens)) >= 12
    calls = np.where(trained, 0, -1)
    if trained.sum() > 6:
        trained[14:17] = False
        calls = np.where(trained, np.where(np.arange(len(row.tokens)) < 14, 0, 1), -1)
    return replace(row, trained=trained, calls=calls, logprobs=row.logprobs * trained)


BATCH = [of_two_calls(row) for row in rows(groups=3, size=3)]


@pytest.mark.parametrize("micro_batch_tokens", [1, 10_000])
def test_each_calls_divergence_and_the_state_before_its_first_token_are_those_of_its_row_alone(
    tiny_model: Path, micro_batch_tokens: int
) -> None:
    """The divergence of the policy as it is now, whatever it was when a token was sampled."""
    learner = Learner(replace(learner_spec(tiny_model), micro_batch_tokens=micro_batch_tokens))
    learner.start_stage(WITH_CRITIC)
    reference = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    same = learner.observe(BATCH, POLICY_GRADIENT, "k1", features=False)
    assert np.abs(same.divergences).max() < 1e-4
    learner.update([rows()], CrossEntropy())
    seen = learner.observe(BATCH, POLICY_GRADIENT, "k1", features=True)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    policy.load_state_dict(dict(learner.named_tensors()), strict=False)
    expected = {}
    for row in BATCH:
        with torch.no_grad():
            told = [
                model(input_ids=torch.from_numpy(row.tokens)[None], output_hidden_states=True)
                for model in (policy, reference)
            ]
        ours, others = (each.logits[0].log_softmax(-1) for each in told)
        for call in np.unique(row.calls[row.trained]):
            places = np.flatnonzero(row.calls == call)
            tokens = places - 1, row.tokens[places]
            divergence = float((ours[tokens] - others[tokens]).sum())
            state = told[0].hidden_states[-1][0, places[0] - 1].numpy()
            expected[row.rollout_id, int(call)] = divergence, state
    assert max(abs(divergence) for divergence, _ in expected.values()) > 0.1
    assert sorted(seen.calls) == sorted(expected) and len(expected) > len(BATCH)
    for call, divergence, state in zip(seen.calls, seen.divergences, seen.features, strict=True):
        assert divergence == pytest.approx(expected[call][0], abs=1e-3)
        np.testing.assert_allclose(state, expected[call][1], atol=1e-4)


def test_what_is_not_asked_for_is_not_measured(tiny_model: Path) -> None:
    learner = Learner(learner_spec(tiny_model))
    learner.start_stage(WITH_REFERENCE)
    seen = learner.observe(BATCH, POLICY_GRADIENT, "k3", features=False)
    assert len(seen.divergences) == len(seen.calls) and seen.features.size == 0
    nothing = learner.observe([], POLICY_GRADIENT, "k3", features=False)
    assert not nothing.calls
    both = Observations.joined([nothing, seen])
    assert both.calls == seen.calls and (both.divergences == seen.divergences).all()


def test_a_divergence_leaves_out_the_tokens_that_a_grammar_held(tiny_model: Path) -> None:
    """Of a call that one held nothing is left, and those of others are what they are without."""
    learner = Learner(learner_spec(tiny_model))
    learner.start_stage(WITH_REFERENCE)
    of_second = [replace(row, constrained=row.calls == 1) for row in BATCH]
    free = learner.observe(BATCH, POLICY_GRADIENT, "k1", features=False)
    held = learner.observe(of_second, POLICY_GRADIENT, "k1", features=False)
    assert free.calls == held.calls and {call for _, call in held.calls} == {0, 1}
    expected = [d * (call == 0) for (_, call), d in zip(free.calls, free.divergences, strict=True)]
    assert held.divergences.tolist() == pytest.approx(expected)
