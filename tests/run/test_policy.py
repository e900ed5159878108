"""Which weights answer agents, and from when on. (With real engines and learners: ``test_driver``.)"""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from ray.exceptions import RaySystemError

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import LearnerLostError
from al_ray.machines.placement import SharedSeat
from al_ray.run.policy import Policy
from tests.support.models.engine_inputs import engine_spec


class Parts:
    """Engines, gateways and learners of a run that goes on at ``version``; notes what is asked of them."""

    adapts = False

    def __init__(self, version: int, pushes_weights: bool = False) -> None:
        self.version = version
        self.pushes_weights = pushes_weights
        self.asked: list[str] = []
        self.leaving: set[str] = set()
        self.joins = False
        """An engine is there that has no weights."""
        self.there = ["engine"]
        self.met: Any = ()

    def policy_version(self) -> int:
        return self.version

    def publish(self, version: int) -> str:
        return f"weights {version}"

    async def update(self, weights: str, send: Any = None, sent_to: Any = ()) -> None:
        self.joins = False
        self.asked.append(f"load {weights}")
        assert self.met == sent_to

    def engines(self) -> list[str]:
        return self.there

    def send_weights(self) -> None:
        """Asked by the engines' pool, when they are paused."""

    async def meet(self, connect: Any) -> list[str]:
        await connect(self.there, 1)
        return self.there

    def connect_engines(self, engines: list[str], width: int) -> None:
        self.met = list(engines)
        self.asked.append(f"meet {engines}")

    def failure(self) -> None:
        """They are kept alive."""

    def admitted(self) -> list[str]:
        return [] if self.leaving else ["engine"]

    def unserved(self) -> bool:
        return self.joins

    def spare(self, draining: dict[str, float]) -> None:
        self.leaving = set(draining)

    async def retire(self) -> None:
        if self.leaving:
            self.asked.append("retire")

    async def admit(self, engines: list[str]) -> None:
        self.asked.append(f"admit {engines}")


@pytest.mark.parametrize(
    ("version", "asked"), [(0, ["admit ['engine']"]), (3, ["load weights 3", "admit ['engine']"])]
)
async def test_engines_answer_no_call_before_they_have_the_weights_that_the_run_goes_on_with(
    version: int, asked: list[str]
) -> None:
    """Rollouts that a killed run had queued are claimed as soon as runners are there: their calls wait."""
    parts: Any = Parts(version)
    policy = Policy(parts, parts, parts)
    await policy.start()
    assert parts.asked == []
    await policy.serve()
    assert parts.asked == asked and policy.served_version == version
    await policy.serve()
    assert parts.asked == asked, "nothing has changed"
    parts.version += 1
    await policy.serve()
    assert parts.asked[len(asked) :] == [f"load weights {version + 1}", "admit ['engine']"]
    await policy.stop()


async def test_a_policy_that_does_not_learn_answers_with_what_its_engines_were_started_with() -> None:
    parts: Any = Parts(0)
    policy = Policy(parts, parts, None)
    await policy.start()
    await policy.serve()
    assert (parts.asked, policy.served_version) == (["admit ['engine']"], 0)
    await policy.stop()


async def test_learners_that_are_lost_as_they_give_the_first_adapters_are_followed_by_others() -> None:
    class Lost(Parts):
        adapts = True
        losses = 2

        def policy_version(self) -> int:
            if len(self.asked) < self.losses:
                raise LearnerLostError("a learner died")
            return super().policy_version()

        def restart(self) -> None:
            self.asked.append("restart")

    parts: Any = Lost(0)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.stop()
    assert parts.asked == ["restart", "restart", "load weights 0"]
    parts = Lost(0)
    parts.losses = 99
    with pytest.raises(LearnerLostError):
        await Policy(parts, parts, parts).start()


class Waiting:
    """Learners that wait for an engine that died, at one of their methods, until their processes end."""

    adapts, pushes_weights = False, True

    def __init__(self, at: str) -> None:
        self.version = 1
        self.at = at
        self.lost = threading.Event()

    def policy_version(self) -> int:
        return self.version

    def publish(self, version: int) -> WeightUpdate:
        return WeightUpdate(version)

    def connect_engines(self, engines: list[Any], width: int) -> None:
        self.wait("connect_engines")

    def send_weights(self) -> None:
        self.wait("send_weights")

    def observe(self, *_: Any, **__: Any) -> None:
        if self.lost.is_set():
            raise LearnerLostError("a learner died")

    def wait(self, at: str) -> None:
        if self.at == at:
            assert self.lost.wait(60)
            raise LearnerLostError("a learner died")

    def end(self) -> None:
        self.lost.set()

    def restart(self) -> None:
        self.at, self.version = "", 0


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> EnginePool:
    """Learners are waited for for a moment only; there is nobody whom they reach."""
    monkeypatch.setattr("al_ray.actors.engine.pool._MEETING_SECONDS", 0.1)
    monkeypatch.setattr("al_ray.run.policy._WATCH_SECONDS", 0.001)
    return EnginePool(engine_spec(Path("nowhere")), [], answer_seconds=0.1)


@pytest.mark.parametrize("at", ["connect_engines", "send_weights"])
async def test_learners_that_wait_for_an_engine_for_good_are_ended_and_started_anew(
    engines: EnginePool, at: str
) -> None:
    """Whoever asked them keeps their turn until then."""
    learners: Any = Waiting(at)
    policy = Policy(engines, cast(Any, Parts(0)), learners)
    async with asyncio.timeout(60):
        with pytest.raises(LearnerLostError, match=r"a learner or an engine, .*, did not answer for 0.1 s"):
            await policy.serve()
        await policy.restart_learners()
    assert learners.version == 0


@pytest.mark.parametrize("at", ["connect_engines", "send_weights"])
async def test_whoever_waits_for_learners_that_wait_for_an_engine_that_joined_is_told_that_they_are_lost(
    engines: EnginePool, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """They would be at the next update, say."""
    monkeypatch.setattr(engines, "unserved", lambda: True)
    learners, nothing = Waiting(at), cast(Any, None)
    policy = Policy(engines, cast(Any, Parts(0)), cast(Any, learners))
    await policy.start()
    async with asyncio.timeout(60):
        while not policy._turn.locked():
            await asyncio.sleep(0.001)
        with pytest.raises(LearnerLostError):
            await policy.observe([], nothing, None, features=False)
    await policy.stop()
    assert isinstance(policy.failure(), LearnerLostError)


async def test_after_learners_were_lost_engines_are_given_what_the_next_ones_make_by_a_number() -> None:
    """Steps that are repeated on another machine, or on a GPU, do not make the same weights again."""

    class Repeated(Parts):
        life = "first"

        def publish(self, version: int) -> str:
            return f"weights {version} of the {self.life} life"

        def restart(self) -> None:
            self.version, self.life = 0, "second"

    parts: Any = Repeated(4)
    policy = Policy(parts, parts, parts)
    await policy.serve()
    await policy.restart_learners()
    parts.version = 4
    await policy.serve()
    loaded = [each for each in parts.asked if each.startswith("load")]
    assert loaded == ["load weights 4 of the first life", "load weights 4 of the second life"]


@pytest.mark.parametrize("asked", ["observe", "publish"])
async def test_learners_are_asked_nothing_else_before_they_have_answered_whoever_was_cancelled(
    asked: str,
) -> None:
    """Ctrl-C ends the wait, not the thread; the checkpoint that follows comes after it, or never."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Parts):
        def slowly(self, *_: Any, **__: Any) -> str:
            begun.set()
            assert go_on.wait(60)
            self.asked.append(asked)
            return ""

        def save(self, folder: str) -> None:
            self.asked.append("save")

    parts: Any = Slow(1)
    setattr(parts, asked, parts.slowly)
    policy, nothing = Policy(parts, parts, parts), cast(Any, None)
    waits = policy.serve() if asked == "publish" else policy.observe([], nothing, None, features=False)
    waiting = asyncio.create_task(waits)
    assert await asyncio.to_thread(begun.wait, 60)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(policy.save(Path("never")), 0.1)
    saving = asyncio.create_task(policy.save(Path("step")))
    await asyncio.sleep(0.1)
    assert parts.asked == []
    go_on.set()
    await saving
    assert parts.asked == [asked, "save"]


@pytest.mark.parametrize("at", ["connect_engines", "send_weights"])
async def test_engines_that_learners_wait_for_are_ended_after_them_where_whoever_asked_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Ctrl-C is followed by a checkpoint, which learners could not write that waited for an engine."""
    ended, begun, go_on = list[Any](), threading.Event(), threading.Event()

    class Slow(Waiting):
        def wait(self, at: str) -> None:
            if self.at == at:
                begun.set()
                assert go_on.wait(60)
                ended.append("learners")

        def save(self, folder: str) -> None:
            ended.append("checkpoint")

    async def done() -> None:
        """Whatever the engine is asked."""

    monkeypatch.setattr("al_ray.actors.engine.slot.ray.kill", ended.append)
    pool, engine = EnginePool(engine_spec(Path("nowhere")), [SharedSeat({})]), Mock()
    for method in (engine.pause, engine.admit, engine.resume):
        method.remote = done
    pool._slots[0].engine = engine
    policy = Policy(pool, cast(Any, Parts(0)), cast(Any, Slow(at)))
    serving = asyncio.create_task(policy.serve())
    assert await asyncio.to_thread(begun.wait, 60)
    serving.cancel()
    await asyncio.wait({serving}, timeout=0.1)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await serving
    async with asyncio.timeout(60):
        await policy.save(Path("step"))
    assert ended == ["learners", engine, "checkpoint"]


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The nodes that Ray is said to take away. They are looked at all the time."""
    nodes: dict[str, float] = {}
    monkeypatch.setattr("al_ray.run.policy.draining", lambda: nodes)
    monkeypatch.setattr("al_ray.run.policy._WATCH_SECONDS", 0.001)
    return nodes


async def asked_of(parts: Parts, what: str) -> None:
    async with asyncio.timeout(60):
        while what not in parts.asked:
            await asyncio.sleep(0.001)


async def test_gateways_know_that_an_engine_leaves_before_it_is_ended(draining: dict[str, float]) -> None:
    """Or calls would go to one that is ended for having none."""
    parts: Any = Parts(0)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.serve()
    draining["node"] = math.inf
    await asked_of(parts, "retire")
    assert parts.asked[parts.asked.index("retire") - 1] == "admit []"
    await policy.stop()


async def test_weights_that_are_gone_with_a_learner_are_given_anew_under_the_same_number(
    draining: dict[str, float],
) -> None:
    """By the one that took its place, from the checkpoint that had them; and by no other."""
    parts: Any = Parts(3)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.serve()
    policy._settled = False
    parts.joins = True
    await asyncio.sleep(0.05)
    assert parts.asked.count("load weights 3") == 1
    policy._settled = True
    async with asyncio.timeout(20):
        while parts.asked.count("load weights 3") < 2:
            await asyncio.sleep(0.001)
    await policy.stop()
    parts.joins = True
    await policy.serve()
    assert parts.asked.count("load weights 3") == 3 and policy.served_version == 3


async def test_an_engine_that_joins_is_sent_what_the_learners_hold_under_its_number(
    draining: dict[str, float],
) -> None:
    """Not under the number of what was served last: the learners may have gone on since. And not while they
    are at it. They meet those that there are, also when one is gone, whom they would wait for."""
    parts: Any = Parts(3, pushes_weights=True)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.serve()
    assert policy.served_version == 3
    parts.version, parts.joins = 4, True
    await asked_of(parts, "load weights 4")
    assert policy.served_version == 4
    async with policy._turn:
        parts.version, parts.joins = 5, True
        await asyncio.sleep(0.05)
        assert "load weights 5" not in parts.asked
    await asked_of(parts, "load weights 5")
    assert [each for each in parts.asked if each.startswith("meet")] == ["meet ['engine']"]
    await policy.stop()  # what looks all the time may admit them too, between any two of these
    for there in (["engine", "another"], ["another"]):
        parts.there, parts.version = there, parts.version + 1
        await policy.serve()
        assert parts.asked[-3:] == [f"meet {there}", f"load weights {parts.version}", "admit ['engine']"]


async def test_an_engine_leaves_its_node_though_one_that_joined_waits_for_learners_at_their_work(
    draining: dict[str, float],
) -> None:
    parts: Any = Parts(3, pushes_weights=True)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.serve()
    async with policy._turn:
        parts.version, parts.joins = 4, True
        async with asyncio.timeout(20):
            while not policy._transferring.locked():
                await asyncio.sleep(0.001)
        draining["node"] = math.inf
        await asked_of(parts, "retire")
        assert "load weights 4" not in parts.asked
    await policy.stop()
    assert policy.failure() is None


async def test_what_ray_does_not_tell_for_a_while_is_as_it_was_told_last(
    draining: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GCS may be restarted: that ends no run, and what is to go has not come back."""
    parts: Any = Parts(0)
    policy = Policy(parts, parts, parts)
    await policy.start()
    await policy.serve()
    draining["node"] = math.inf
    await asked_of(parts, "retire")
    refused = 0

    def away() -> dict[str, float]:
        nonlocal refused
        refused += 1
        raise RaySystemError("Ray's GCS does not answer")

    monkeypatch.setattr("al_ray.run.policy.draining", away)
    async with asyncio.timeout(20):
        while refused < 3:
            await asyncio.sleep(0.001)
    assert policy.failure() is None and dict(policy.going) == {"node": math.inf}
    monkeypatch.setattr("al_ray.run.policy.draining", dict)
    async with asyncio.timeout(20):
        while policy.going:
            await asyncio.sleep(0.001)
    await policy.stop()
