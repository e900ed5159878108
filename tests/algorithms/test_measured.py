"""What learners measured of calls, told to the trajectories that credit sees."""

from __future__ import annotations

import pytest

from al_ray.algorithms.measured import Measured
from tests.algorithms.forests import call, of


def test_a_divergence_costs_its_own_call_and_the_episode_and_values_stand_beside() -> None:
    seen = of([call("0", 1.0), call("1", 2.0), call("2", trained=False)], rollout="r")
    measured = Measured({("r", 0): 3.0, ("r", 1): -1.0, ("other", 0): 9.0}, {("r", 1): 0.5})
    told = measured.noted_in(seen, kl_coefficient=0.1)
    assert [t.reward for t in told.transitions] == pytest.approx([0.7, 2.1, 0.0])
    assert told.reward == pytest.approx(2.8)
    assert [t.value for t in told.transitions] == [0, 0.5, 0]
