"""What a teacher says of tokens moves the policy as the divergence from it would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from al_ray.algorithms.distillation import taught
from al_ray.algorithms.losses import PolicyGradient
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.rows import NO_CALL
from al_ray.types import Row

LOGITS = st.lists(st.floats(-3, 3), min_size=2, max_size=6)


def row(token: int, logprob: float, advantage: float = 0.0) -> Row:
    """One trained token after another."""
    return Row(
        rollout_id=str(token),
        group="g",
        tokens=np.array([0, token]),
        trained=np.array([False, True]),
        logprobs=np.array([0, logprob], np.float32),
        advantages=np.array([0, advantage], np.float32),
        weights=np.array([0, 1], np.float32),
        calls=np.array([NO_CALL, 0]),
    )


@given(LOGITS, st.data())
def test_the_expected_gradient_is_that_of_the_divergence_from_the_teacher(
    ours: list[float], data: st.DataObject
) -> None:
    """Over all tokens that the policy may draw, each as often as it draws it; whatever the baseline."""
    theirs = data.draw(st.lists(st.floats(-3, 3), min_size=len(ours), max_size=len(ours)))
    logits = torch.tensor(ours, dtype=torch.float64, requires_grad=True)
    policy, teacher = logits.log_softmax(-1), torch.tensor(theirs, dtype=torch.float64).log_softmax(-1)
    drawn = policy.detach()
    rows = [row(token, float(drawn[token])) for token in range(len(ours))]
    told = [np.array([0.0, float(teacher[token])], np.float32) for token in range(len(ours))]
    made, _ = taught(rows, told, 0.0)
    advantages = torch.tensor([float(each.advantages[1]) for each in made], dtype=torch.float64)
    (expected,) = torch.autograd.grad((policy.exp() * (policy - teacher)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad(-(drawn.exp() * advantages * policy).sum(), logits)
    assert torch.allclose(found, expected, atol=1e-5)


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-1, 1)), min_size=1, max_size=6))
def test_a_token_is_worth_what_the_teacher_thinks_of_it_beside_the_mean_and_the_reward(
    tokens: list[tuple[float, float, float]],
) -> None:
    rows = [row(i, ours, advantage) for i, (ours, _, advantage) in enumerate(tokens)]
    told = [np.array([9.0, theirs], np.float32) for _, theirs, _ in tokens]
    made, divergence = taught(rows, told, 2.0)
    mean = sum(ours - theirs for ours, theirs, _ in tokens) / len(tokens)
    assert divergence == pytest.approx(mean, abs=1e-5)
    for each, (ours, theirs, advantage) in zip(made, tokens, strict=True):
        assert each.advantages.tolist() == pytest.approx([0, theirs - ours + mean + 2 * advantage], abs=1e-5)


def test_a_token_that_a_grammar_held_is_worth_its_reward_alone_and_has_no_part_in_the_mean() -> None:
    """The teacher would have had other tokens to choose from."""
    free, held = row(1, -0.5, 0.25), replace(row(2, -3.0, 0.25), constrained=np.array([False, True]))
    told = [np.array([0.0, of_teacher], np.float32) for of_teacher in (-0.7, -9.0)]
    made, divergence = taught([free, held], told, 2.0)
    assert divergence == pytest.approx(0.2)
    assert [each.advantages[1] for each in made] == pytest.approx([0.5, 0.5])


def test_every_row_is_computed_also_where_the_teacher_agrees() -> None:
    """So that what was trained can be told without asking the teacher again."""
    made, divergence = taught([row(1, -0.5)], [np.array([0, -0.5], np.float32)], 0.0)
    assert divergence == 0 and not made[0].advantages.any()
    assert PolicyGradient(Clipped(0.2, 0.2), every_row=True).trains(made[0])
    assert taught([], [], 0.0) == ([], 0.0)
