"""Several learners act as one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError
from safetensors.torch import load_file
from torch import Tensor

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.group import LearnerGroup
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.algorithms.losses.token import TokenLosses
from al_ray.algorithms.passes import Passes
from al_ray.errors import LearnerLostError
from al_ray.reports.names import LEARNERS
from al_ray.types import Row
from tests.actors.learner_inputs import (
    POLICY_GRADIENT,
    PROBE,
    SECTION,
    WITH_CRITIC,
    WITH_REFERENCE,
    learner_spec,
    rows,
    settled,
)
from tests.processes import wait_until_ended

POISON = 12345.0
PACKING = {"learner/micro_batches", "learner/computed_tokens", "learner/shared_tokens", "learner/peak_gib"}
"""They depend on which rows are together."""


@pytest.fixture(scope="module")
def pair(ray_cluster: None, tiny_model: Path) -> Iterator[LearnerGroup]:
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 1}, {"num_cpus": 1}])
    yield group
    group.close()


def test_two_learners_equal_one_step_for_step_even_when_one_of_them_has_no_rows(
    pair: LearnerGroup, tiny_model: Path, tmp_path: Path
) -> None:
    one = Learner(learner_spec(tiny_model))
    one.start_stage(WITH_REFERENCE)
    pair.start_stage(WITH_REFERENCE)
    batches = [rows(0), rows(1)[:1], rows(2)]
    for batch in batches:
        expected, found = one.update([batch], POLICY_GRADIENT), pair.update(batch, POLICY_GRADIENT)
        assert found.policy_version == expected.policy_version
        for key in expected.metrics.keys() - PACKING:
            assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-3, abs=1e-6), key
        assert found.metrics.keys() == {metric.key for metric in LEARNERS}
    assert pair.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-3)

    pair.save(str(tmp_path / "step_3"))
    one.load(str(tmp_path / "step_3"))
    assert one.policy_version() == pair.policy_version() == 3
    assert pair.logprobs(PROBE) == one.logprobs(PROBE)


def test_mini_batches_and_measurements_of_two_learners_are_those_of_one(
    pair: LearnerGroup, tiny_model: Path, tmp_path: Path
) -> None:
    one = Learner(learner_spec(tiny_model))
    pair.start_stage(WITH_CRITIC)
    pair.save(str(tmp_path / "start"))
    one.load(str(tmp_path / "start"))
    passes, batch = Passes(epochs=2, mini_batches=2), rows(0, groups=3)
    alone = one.observe(batch, POLICY_GRADIENT, "k1", features=True)
    seen = pair.observe(batch, POLICY_GRADIENT, "k1", features=True)
    order = [seen.calls.index(call) for call in alone.calls]
    np.testing.assert_allclose(seen.divergences[order], alone.divergences, rtol=1e-4)
    np.testing.assert_allclose(seen.features[order], alone.features, atol=1e-4)
    assert pair.fit_critic(seen.features, np.ones(len(batch)))["critic/loss"] == 1
    assert (pair.critic_values(seen.features) > 0).all()
    expected, found = one.update(passes(batch), POLICY_GRADIENT), pair.update(batch, POLICY_GRADIENT, passes)
    assert found.metrics["optim/steps"] == 4 and found.policy_version == expected.policy_version
    for key in expected.metrics.keys() - PACKING:
        assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-3, abs=1e-6), key
    assert pair.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-3)


def test_all_learners_hold_the_same_weights_and_resume_together(pair: LearnerGroup, tmp_path: Path) -> None:
    pair.start_stage(WITH_REFERENCE)
    pair.update(rows(0), POLICY_GRADIENT)
    pair.save(str(tmp_path / "step"))
    first = pair.update(rows(1), POLICY_GRADIENT)
    probes = pair._on_all("logprobs", PROBE)
    assert probes[0] == probes[1]
    pair.load(str(tmp_path / "step"))
    again = pair.update(rows(1), POLICY_GRADIENT)
    assert settled(first) == settled(again)
    assert pair._on_all("logprobs", PROBE) == probes


def test_rows_without_advantage_are_neither_computed_nor_felt(pair: LearnerGroup, tmp_path: Path) -> None:
    loss = PolicyGradient(Clipped(0.2, 0.2))
    pair.start_stage(SECTION)
    pair.save(str(tmp_path / "start"))
    batch = rows(0)
    idle = [replace(row, rollout_id="idle", advantages=row.advantages * 0) for row in rows(3)]
    alone = pair.update(batch, loss)
    expected = pair.logprobs(PROBE)
    pair.load(str(tmp_path / "start"))
    beside = pair.update([*batch, *idle], loss)
    assert beside.metrics["learner/rows_without_advantage"] == len(idle)
    assert beside.metrics["learner/trained_tokens"] == alone.metrics["learner/trained_tokens"]
    assert pair.logprobs(PROBE) == expected
    # A batch of nothing but idle rows moves nothing, with metrics that can be logged.
    nothing = pair.update(idle, loss)
    assert nothing.metrics["learner/trained_tokens"] == 0 and nothing.metrics["optim/grad_norm"] == 0
    assert nothing.metrics["optim/steps_empty"] == 1 and nothing.metrics["optim/steps_refused"] == 0
    assert nothing.policy_version == beside.policy_version and pair.logprobs(PROBE) == expected


def test_what_is_published_is_what_the_learners_hold(pair: LearnerGroup, tmp_path: Path) -> None:
    pair.save(str(tmp_path / "step"))
    update = pair.publish(version=5)
    assert update.version == 5 and update.path is not None
    saved, published = load_file(tmp_path / "step" / "model.safetensors"), load_file(update.path)
    assert saved.keys() == published.keys()
    assert all(saved[name].equal(published[name]) for name in saved)


@dataclass(frozen=True)
class Poisoned:
    """A loss that one row is too much for."""

    temperature: float = 1.0
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    needs_proximal: bool = False

    def trains(self, row: Row) -> bool:
        return True

    def __call__(self, logprobs: Tensor, reference: Tensor | None, batch: MicroBatch) -> TokenLosses:
        if bool((batch.advantages == POISON).any()):
            raise ValueError("a row too much")
        return TokenLosses(-logprobs, {})


def test_an_error_of_one_rank_ends_the_call_as_itself_and_does_not_leave_the_others_waiting(
    ray_cluster: None, tiny_model: Path
) -> None:
    """The first rank waits for the sum of gradients, to which the last never comes."""
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}, {"num_cpus": 0}])
    group.start_stage(SECTION)
    batch = sorted(rows(0), key=lambda row: row.group)
    batch[-1] = replace(batch[-1], advantages=np.full_like(batch[-1].advantages, POISON))
    begun = time.monotonic()
    with pytest.raises(ValueError, match="a row too much"):
        group.update(batch, Poisoned())
    assert_ended(group, begun)


def assert_ended(group: LearnerGroup, begun: float) -> None:
    group.close()
    assert time.monotonic() - begun < 20
    for learner in group._learners:
        with pytest.raises(RayActorError):
            ray.get(learner.policy_version.remote(), timeout=10)


def test_a_group_whose_learner_hangs_can_be_closed(
    ray_cluster: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}, {"num_cpus": 0}])
    group.start_stage(SECTION)
    monkeypatch.setattr("al_ray.actors.learner.group._CLOSE_SECONDS", 1.0)
    # Alone, it waits for the other one's gradients for good.
    hanging = group._learners[0].update.remote([rows(0)], CrossEntropy())
    begun = time.monotonic()
    ray.wait([hanging], timeout=1.0)
    assert_ended(group, begun)


def test_after_a_death_new_learners_go_on_from_a_checkpoint_with_the_same_batch(
    ray_cluster: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death is told as what it is, within seconds; the others do not wait for the dead. One that is only
    stopped is lost as well."""
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}, {"num_cpus": 0}])
    group.start_stage(SECTION)
    group.update(rows(0), CrossEntropy())
    group.save(str(tmp_path / "step_1"))
    expected = group.update(rows(1), CrossEntropy())
    probe = group.logprobs(PROBE)
    signal_last(group, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(LearnerLostError, match="a learner died"):
        group.update(rows(2), CrossEntropy())
    assert time.monotonic() - begun < 30
    group.restart()
    group.load(str(tmp_path / "step_1"))
    assert settled(group.update(rows(1), CrossEntropy())) == settled(expected)
    assert group.logprobs(PROBE) == probe
    monkeypatch.setattr("al_ray.actors.learner.group._LOOK_SECONDS", 1.0)
    monkeypatch.setattr("al_ray.actors.learner.group._ANSWER_SECONDS", 3.0)
    stopped = signal_last(group, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(LearnerLostError, match="a learner did not answer for 3 s"):
        group.update(rows(2), CrossEntropy())
    assert_ended(group, begun)
    wait_until_ended(stopped)


def signal_last(group: LearnerGroup, number: int) -> int:
    """Send the process of the last learner a signal; returns its id."""
    pid: int = ray.get(group._learners[-1].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, number)
    return pid
