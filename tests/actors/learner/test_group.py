"""Several learners act as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.group import LearnerGroup
from al_ray.algorithms.losses.clipped import ClippedPolicyGradient
from al_ray.reports.names import LEARNERS
from tests.actors.learner_inputs import POLICY_GRADIENT, PROBE, SECTION, learner_spec, rows

PACKING = {"learner/micro_batches", "learner/computed_tokens", "learner/shared_tokens"}
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
    one.start_stage(SECTION, 6, keep_reference=True)
    pair.start_stage(SECTION, 6, keep_reference=True)
    batches = [rows(0), rows(1)[:1], rows(2)]
    for batch in batches:
        expected, found = one.update(batch, POLICY_GRADIENT), pair.update(batch, POLICY_GRADIENT)
        assert found.policy_version == expected.policy_version
        for key in expected.metrics.keys() - PACKING:
            assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-3, abs=1e-6), key
        assert found.metrics.keys() == {metric.key for metric in LEARNERS}
    assert pair.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-3)

    pair.save(str(tmp_path / "step_3"))
    one.load(str(tmp_path / "step_3"))
    assert one.policy_version() == pair.policy_version() == 3
    assert pair.logprobs(PROBE) == one.logprobs(PROBE)


def test_all_learners_hold_the_same_weights_and_resume_together(pair: LearnerGroup, tmp_path: Path) -> None:
    pair.start_stage(SECTION, 6, keep_reference=True)
    pair.update(rows(0), POLICY_GRADIENT)
    pair.save(str(tmp_path / "step"))
    first = pair.update(rows(1), POLICY_GRADIENT)
    probes = pair._on_all("logprobs", PROBE)
    assert probes[0] == probes[1]
    pair.load(str(tmp_path / "step"))
    again = pair.update(rows(1), POLICY_GRADIENT)
    assert first == again
    assert pair._on_all("logprobs", PROBE) == probes


def test_rows_without_advantage_are_neither_computed_nor_felt(pair: LearnerGroup, tmp_path: Path) -> None:
    loss = ClippedPolicyGradient(0.2, 0.2)
    pair.start_stage(SECTION, 6, keep_reference=False)
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
    # A batch of nothing but idle rows is a step of zero gradient, with metrics that can be logged.
    nothing = pair.update(idle, loss)
    assert nothing.metrics["learner/trained_tokens"] == 0 and nothing.metrics["optim/grad_norm"] == 0


def test_what_is_published_is_what_the_learners_hold(pair: LearnerGroup, tmp_path: Path) -> None:
    pair.save(str(tmp_path / "step"))
    update = pair.publish(version=5)
    assert update.version == 5 and update.path is not None
    saved, published = load_file(tmp_path / "step" / "model.safetensors"), load_file(update.path)
    assert saved.keys() == published.keys()
    assert all(saved[name].equal(published[name]) for name in saved)
