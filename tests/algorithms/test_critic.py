"""The critic learns what its features foretell, and goes on from its saved state as if it never stopped."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from al_ray.algorithms.critic import Critic
from al_ray.recipe import CriticSection


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of 16, of which one foretells most of the return."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(64, 16)).astype(np.float32)
    return features, np.tanh(features[:, 3]) + 0.1 * draw.normal(size=64)


def test_it_expects_nothing_at_first_and_then_what_was_foretold_of_calls_it_never_saw() -> None:
    critic = Critic(16, CriticSection())
    features, _ = batch(0)
    assert not critic.values(features).any()
    explained = [critic.fit(*batch(seed))["critic/explained_variance"] for seed in range(20)]
    assert explained[0] == 0 and explained[-1] > 0.7, explained
    unseen, wanted = batch(99)
    assert np.corrcoef(critic.values(unseen), wanted)[0, 1] > 0.8


def test_a_loaded_critic_goes_on_bit_for_bit_and_every_fresh_one_is_the_same() -> None:
    torch.manual_seed(5)
    one, other = Critic(16, CriticSection()), Critic(16, CriticSection())
    one.fit(*batch(0))
    other.load(deepcopy(one.state()))
    assert one.fit(*batch(1)) == other.fit(*batch(1))
    assert (one.values(batch(2)[0]) == other.values(batch(2)[0])).all()
    torch.manual_seed(6)
    fresh = Critic(16, CriticSection())
    fresh.fit(*batch(0))
    again = Critic(16, CriticSection())
    again.fit(*batch(0))
    assert (fresh.values(batch(2)[0]) == again.values(batch(2)[0])).all()


def test_returns_that_do_not_differ_have_no_variance_to_explain() -> None:
    features, _ = batch(0)
    assert Critic(16, CriticSection()).fit(features, np.ones(64))["critic/explained_variance"] == 0
