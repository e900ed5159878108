"""Several learners act as one."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from safetensors.torch import load_file
from torch import Tensor

from al_ray.actors.learner import group as learner_group
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.group import LearnerGroup
from al_ray.actors.learner.spec import LearnerSpec, Reference
from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.cross_entropy import CrossEntropy
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.algorithms.losses.token import TokenLosses
from al_ray.algorithms.passes import Passes
from al_ray.errors import CheckpointError, LearnerLostError
from al_ray.recipe import LoraSection
from al_ray.reports.names import LEARNERS
from al_ray.types import Row
from tests.conftest import write_tiny_model
from tests.support.machines.processes import wait_until_ended
from tests.support.models.learner_inputs import (
    POLICY_GRADIENT,
    PROBE,
    SECTION,
    WITH_CRITIC,
    WITH_REFERENCE,
    learner_spec,
    rows,
    settled,
)

POISON = 12345.0
PACKING = {"learner/micro_batches", "learner/computed_tokens", "learner/shared_tokens", "learner/peak_gib"}
"""They depend on which rows are together."""


@pytest.fixture(scope="module")
def pair(ray_cluster: None, tiny_model: Path) -> Iterator[LearnerGroup]:
    """Of all tests up to that of a death, which ends it."""
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 1}, {"num_cpus": 1}])
    group.start()
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
        assert found.metrics.keys() == {*(metric.key for metric in LEARNERS), "health/steps_refused"}
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
    np.testing.assert_allclose(seen.divergences[order], alone.divergences, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.features[order], alone.features, atol=1e-4)
    assert pair.fit_critic(seen.features, np.ones(len(batch)))["critic/loss"] == 1
    assert (pair.critic_values(seen.features) > 0).all()
    expected, found = one.update(passes(batch), POLICY_GRADIENT), pair.update(batch, POLICY_GRADIENT, passes)
    assert found.metrics["optim/steps"] == 4 and found.policy_version == expected.policy_version
    for key in expected.metrics.keys() - PACKING:
        assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-3, abs=1e-6), key
    assert pair.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-3)


def test_two_learners_of_which_one_alone_has_tokens_that_a_grammar_held_are_one(
    pair: LearnerGroup, tiny_model: Path, tmp_path: Path
) -> None:
    """Both then look at the batch first, and neither waits for the other."""
    one, loss = Learner(learner_spec(tiny_model)), PolicyGradient(Clipped(0.2, 0.2))
    pair.start_stage(SECTION)
    pair.save(str(tmp_path / "start"))
    one.load(str(tmp_path / "start"))
    batch = [replace(row, constrained=row.trained if i == 0 else None) for i, row in enumerate(rows())]
    expected, found = one.update(Passes(epochs=2)(batch), loss), pair.update(batch, loss, Passes(epochs=2))
    for key in expected.metrics.keys() - PACKING:
        assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-3, abs=1e-6), key


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


def test_a_learners_process_holds_nothing_that_transformers_takes_along_for_nobody(
    pair: LearnerGroup,
) -> None:
    for learner in pair._learners:
        loaded = set(ray.get(learner.__ray_call__.remote(lambda _: list(sys.modules))))
        assert "transformers" in loaded and not loaded & {"sklearn", "scipy", "pandas", "vllm"}


def test_what_is_published_is_what_the_learners_hold(pair: LearnerGroup, tmp_path: Path) -> None:
    pair.save(str(tmp_path / "step"))
    update = pair.publish(version=5)
    assert update.version == 5 and update.path is not None
    saved, published = load_file(tmp_path / "step" / "model.safetensors"), load_file(update.path)
    assert saved.keys() == published.keys()
    assert all(saved[name].equal(published[name]) for name in saved)


def test_learners_go_on_after_a_checkpoint_that_could_not_be_written(
    pair: LearnerGroup, tmp_path: Path
) -> None:
    """The run may: one for a node that is to go is only warned of."""
    pair.start_stage(SECTION)
    version = pair.policy_version()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"could not be written: .*Not a directory"):
        pair.save(str(tmp_path / "file" / "step"))
    assert pair.update(rows(0), CrossEntropy()).policy_version == version + 1
    pair.save(str(tmp_path / "step"))


@pytest.fixture
def renewed(pair: LearnerGroup, tiny_model: Path) -> Iterator[Callable[[LearnerSpec], LearnerGroup]]:
    """The pair's processes as learners of another spec, until the test's end: others would take seconds."""

    def again(learner: Any, spec: LearnerSpec, rank: int) -> None:
        learner.close()
        torch.distributed.destroy_process_group()
        learner.__init__(spec, rank, 2)

    def renew(spec: LearnerSpec) -> LearnerGroup:
        ray.get([each.__ray_call__.remote(again, spec, rank) for rank, each in enumerate(pair._learners)])
        pair._on_all("connect", *pair._on_first("open_rendezvous"))
        return pair

    yield renew
    renew(learner_spec(tiny_model))


@pytest.mark.parametrize(
    ("kind", "sharded", "lora"),
    [
        ("llama", True, None),
        ("mixtral", True, None),
        ("llama", True, LoraSection(rank=4)),
        ("llama", False, LoraSection(rank=4)),
    ],
)
def test_two_learners_of_an_adapter_or_of_shards_equal_one_and_resume_from_its_checkpoint(
    renewed: Callable[[LearnerSpec], LearnerGroup],
    tiny_model: Path,
    tmp_path: Path,
    kind: str,
    sharded: bool,
    lora: LoraSection | None,
) -> None:
    """Also where one has fewer rows or none, and the other must not wait; and each the other way round."""
    model = tiny_model
    if kind == "mixtral":
        write_tiny_model(model := tmp_path / "model", kind, num_local_experts=4)
    spec = replace(learner_spec(model), sharded=sharded, lora=lora, recompute=sharded)
    one, both = Learner(spec), renewed(spec)

    def equal(left: Mapping[str, float], right: Mapping[str, float]) -> None:
        for key in left.keys() - PACKING:
            assert right[key] == pytest.approx(left[key], rel=1e-3, abs=1e-6), key

    for each in (one, both):
        each.start_stage(replace(WITH_CRITIC, reference=Reference(every=2)))
    for batch in (rows(0), rows(1)[:1], rows(2)):
        equal(one.update([batch], POLICY_GRADIENT).metrics, both.update(batch, POLICY_GRADIENT).metrics)
    assert both.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-3)
    passes, batch = Passes(epochs=2, mini_batches=2), rows(3, groups=3)
    alone = one.observe(batch, POLICY_GRADIENT, "k1", features=True)
    seen = both.observe(batch, POLICY_GRADIENT, "k1", features=True)
    order = [seen.calls.index(call) for call in alone.calls]
    np.testing.assert_allclose(seen.divergences[order], alone.divergences, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(seen.features[order], alone.features, atol=1e-3)

    both.save(str(tmp_path / "both"))
    one.load(str(tmp_path / "both"))
    assert both.logprobs(PROBE) == pytest.approx(one.logprobs(PROBE), abs=1e-5)
    one.save(str(tmp_path / "one"))
    file = "model.safetensors" if lora is None else "adapter_model.safetensors"
    theirs, ours = load_file(tmp_path / "both" / file), load_file(tmp_path / "one" / file)
    assert theirs.keys() == ours.keys() and all(theirs[name].equal(ours[name]) for name in ours)
    published = both.publish(version=9)
    assert published.version == 9 and published.path is not None
    told = load_file(published.path)
    assert told.keys() == ours.keys() and all(told[name].equal(ours[name]) for name in ours)

    report = one.update(passes(batch), POLICY_GRADIENT)
    for folder in ("one", "both"):
        both.load(str(tmp_path / folder))
        again = both.update(batch, POLICY_GRADIENT, passes)
        assert again.policy_version == report.policy_version
        equal(report.metrics, again.metrics)


@pytest.mark.parametrize("sharded", [True, False])
def test_two_learners_of_several_policies_equal_one(
    renewed: Callable[[LearnerSpec], LearnerGroup], tiny_model: Path, tmp_path: Path, sharded: bool
) -> None:
    """Also where a policy has few rows or none, and neither rank must wait."""
    names = ("writer", "critic")
    spec = replace(
        learner_spec(tiny_model),
        sharded=sharded,
        recompute=sharded,
        lora=LoraSection(rank=4),
        policies=dict.fromkeys(names),
    )
    one, two = Learner(spec), renewed(spec)

    def batch(seed: int, **counts: int) -> list[Row]:
        return [
            replace(row, policy=name)
            for name, count in counts.items()
            for row in rows(seed + len(name))[:count]
        ]

    for each in (one, two):
        each.start_stage(WITH_REFERENCE)
    for given in (batch(0, writer=6, critic=5), batch(10, critic=1), batch(20, writer=2, critic=6)):
        expected = one.update([given], POLICY_GRADIENT).metrics
        found = two.update(given, POLICY_GRADIENT).metrics
        for key in expected.keys() - PACKING:
            assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key
    two.save(str(tmp_path / "two"))
    resumed = Learner(spec)
    resumed.load(str(tmp_path / "two"))
    for name in names:
        assert two.logprobs(PROBE, name) == pytest.approx(one.logprobs(PROBE, name), abs=1e-3)
        assert resumed.logprobs(PROBE, name) == pytest.approx(two.logprobs(PROBE, name), abs=1e-5)
    one.save(str(tmp_path / "one"))
    two.load(str(tmp_path / "one"))
    for name in names:
        assert two.logprobs(PROBE, name) == pytest.approx(one.logprobs(PROBE, name), abs=1e-5)


def test_sharded_learners_hold_a_part_each_of_weights_gradients_and_optimizer(
    renewed: Callable[[LearnerSpec], LearnerGroup], tiny_model: Path
) -> None:
    def held(learner: Any) -> Sequence[int]:
        """Numbers: of weights, gradients and what the optimizer remembers."""
        own = [parameter for _, parameter in learner._held.trained()]
        states = [learner._stages[""].optimizer.state[each]["exp_avg"] for each in own]
        kinds = own, [each.grad for each in own], states
        return [sum(each.to_local().numel() for each in kind) for kind in kinds]

    both = renewed(replace(learner_spec(tiny_model), sharded=True))
    both.start_stage(SECTION)
    both.update(rows(), CrossEntropy())
    first, second = ray.get([each.__ray_call__.remote(held) for each in both._learners])
    all_of_it = sum(value.numel() for value in load_file(tiny_model / "model.safetensors").values())
    assert [a + b for a, b in zip(first, second, strict=True)] == [all_of_it] * 3
    assert max(first) < 0.51 * all_of_it


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
    group.start()
    group.start_stage(SECTION)
    batch = sorted(rows(0), key=lambda row: row.group)
    batch[-1] = replace(batch[-1], advantages=np.full_like(batch[-1].advantages, POISON))
    begun = time.monotonic()
    with pytest.raises(ValueError, match="a row too much"):
        group.update(batch, Poisoned())
    assert_ended(group, begun)


def assert_ended(group: LearnerGroup, begun: float) -> None:
    group.close()
    assert time.monotonic() - begun < 200  # gloo itself would wait for half an hour
    for learner in group._learners:
        with pytest.raises(RayActorError):
            ray.get(learner.policy_version.remote(), timeout=60)


def test_a_group_whose_learner_hangs_can_be_closed(
    ray_cluster: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}, {"num_cpus": 0}])
    group.start()
    group.start_stage(SECTION)
    monkeypatch.setattr("al_ray.actors.learner.group._CLOSE_SECONDS", 1.0)
    # Alone, it waits for the other one's gradients for good.
    hanging = group._learners[0].update.remote([rows(0)], CrossEntropy())
    begun = time.monotonic()
    ray.wait([hanging], timeout=1.0)
    assert_ended(group, begun)


def test_after_a_death_new_learners_go_on_from_a_checkpoint_with_the_same_batch(
    pair: LearnerGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death is told as what it is, within seconds; the others do not wait for the dead. One that is only
    stopped is lost as well."""
    group = pair
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


@pytest.mark.parametrize("ranks", [1, 2])
def test_learners_that_are_lost_as_they_load_their_model_are_followed_by_others(
    ray_cluster: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """Also the first of a run, and whichever of them it is; one is killed, and of the next one is stopped."""
    lost_twice = fleeting(tmp_path / "begun", signal.SIGKILL, signal.SIGSTOP)
    monkeypatch.setattr(learner_group, "Learner", lost_twice)
    monkeypatch.setattr(learner_group, "_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(learner_group, "_LOADING_SECONDS", 20.0)
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}] * ranks)
    assert "packs" in group.start()
    assert (tmp_path / "begun").read_text() == "xx"
    group.start_stage(SECTION)
    assert group.update(rows(0), CrossEntropy()).policy_version == 1
    group.close()


def test_a_learner_that_is_stopped_before_it_can_tell_anything_is_followed_by_another(
    ray_cluster: None,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And one that waits for a node, which cannot either, is waited for."""
    begun = tmp_path / "begun"
    begun.mkdir()

    class Silent:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            (begun / f"{os.getpid()}").touch()
            if len([*begun.iterdir()]) == 1:
                os.kill(os.getpid(), signal.SIGSTOP)

        def alive(self) -> None: ...

        def start(self) -> None: ...

        def computes(self) -> str:
            return "packs"

        def close(self) -> None: ...

    monkeypatch.setattr(learner_group, "Learner", Silent)
    monkeypatch.setattr(learner_group, "_LOOK_SECONDS", 0.5)
    monkeypatch.setattr(learner_group, "_LOADING_SECONDS", 10.0)
    taken = placement_group([{"memory": ray.available_resources()["memory"]}])  # nobody else asks for any
    assert taken.wait(60)
    with ThreadPoolExecutor() as threads:
        group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0, "memory": 2**20}])
        starting = threads.submit(group.start)
        with pytest.raises(TimeoutError):
            starting.result(15)
        assert not [*begun.iterdir()]
        assert caplog.messages == ["learners wait for Ray to start them: it may be that no node has room"]
        remove_placement_group(taken)
        assert starting.result(120) == "packs"
    first, second = (
        int(path.name) for path in sorted(begun.iterdir(), key=lambda each: each.stat().st_mtime)
    )
    wait_until_ended(first)
    group.close()
    wait_until_ended(second)


def test_learners_that_die_each_time_are_told_of_and_a_model_that_cannot_be_loaded_at_once(
    ray_cluster: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_group, "MAX_LOST", 1)
    lost_each_time = fleeting(tmp_path / "begun", *[signal.SIGKILL] * 9, of=without_a_model())
    monkeypatch.setattr(learner_group, "Learner", lost_each_time)
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}])
    with pytest.raises(LearnerLostError, match="a learner died"):
        group.start()
    assert (tmp_path / "begun").read_text() == "xx"
    group.close()
    monkeypatch.setattr(learner_group, "Learner", Learner)
    (tmp_path / "empty").mkdir()
    group = LearnerGroup(learner_spec(tmp_path / "empty"), [{"num_cpus": 0}])
    with pytest.raises(RayTaskError, match="empty"):
        group.start()
    group.close()


def test_whoever_waits_for_learners_that_are_ended_is_told_that_they_are_lost(
    ray_cluster: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel of NCCL that waits for a dead engine, they answer that they live, and nothing else ends it.
    Others may be started in their place."""
    idle = without_a_model()

    class Waiting(idle):
        def send_weights(self) -> None:
            time.sleep(600)

    monkeypatch.setattr(learner_group, "Learner", Waiting)
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}])
    group.start()
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(group.send_weights)
        with pytest.raises(TimeoutError):
            sending.result(0.5)
        group.end()
        with pytest.raises(LearnerLostError, match="a learner died"):
            sending.result(60)
    group.restart()
    assert group.computes() == "packs"
    group.close()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_group_that_is_closed_as_it_starts_starts_no_others(
    ray_cluster: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    monkeypatch.setattr(learner_group, "_CLOSE_SECONDS", 1.0)
    stopped = fleeting(tmp_path / "begun", signal.SIGSTOP, of=without_a_model())
    monkeypatch.setattr(learner_group, "Learner", stopped)
    group = LearnerGroup(learner_spec(tiny_model), [{"num_cpus": 0}] * ranks)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(group.start)
        while not (tmp_path / "begun").exists():
            time.sleep(0.1)
        group.close()
        with pytest.raises(LearnerLostError):
            starting.result(60)
    assert (tmp_path / "begun").read_text() == "x"


def without_a_model() -> Any:
    """A learner's class, for tests in which none comes to load its model. Made here, it is sent to Ray's
    workers as it is: as this module's, it would have each of them import torch."""

    class Idle:
        def __init__(self, *arguments: Any, **named: Any) -> None: ...

        def alive(self) -> str:
            return "a node"

        def start(self) -> None: ...

        def open_rendezvous(self) -> tuple[str, int]:
            return "localhost", 1

        def connect(self, host: str, port: int) -> None: ...

        def computes(self) -> str:
            return "packs"

        def close(self) -> None: ...

    return Idle


def fleeting(begun: Path, *numbers: int, of: Any = Learner) -> Any:
    """A learner's class of whose first processes one after the other is sent a signal as it loads the model,
    when it is known that it is there; those that were started beside it are not."""

    class Fleeting(of):
        asked = False

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.before = begun.stat().st_size if begun.exists() else 0
            super().__init__(*arguments, **named)

        def alive(self) -> str:
            self.asked = True
            return str(super().alive())

        def start(self) -> None:
            while not self.asked:
                time.sleep(0.1)
            time.sleep(2)
            with begun.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self.before == file.tell() < len(numbers):
                    file.write("x")
                    file.flush()
                    os.kill(os.getpid(), numbers[self.before])
            super().start()

    return Fleeting


def signal_last(group: LearnerGroup, number: int) -> int:
    """Send the process of the last learner a signal; returns its id."""
    pid: int = ray.get(group._learners[-1].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, number)
    return pid
