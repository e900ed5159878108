"""``python -m tests.support.runs.turnstiles FOLDER ...`` is ``al-ray ...`` whose parts wait, at the moments
of a run, where a test says so: what is done to a part then is done at that very moment.

A moment is a turnstile in the folder. Whoever comes to one of which there is a file ``NAME.closed`` makes it
``NAME.held``, with its process's id, and waits until that is gone; whoever comes later passes. A part's
process leaves a file ``PART-ID``. Engines are those without a model, unless ``$AL_RAY_TEST_VLLM`` is set.
What does not answer is given up after ``$AL_RAY_TEST_ANSWER_SECONDS``, if that is set, and not after as long
as in earnest.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import cloudpickle

from al_ray.actors.engine import actor as engine_actor
from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.gateway import actor as gateway_actor
from al_ray.actors.gateway import door
from al_ray.actors.gateway import pool as gateway_pool
from al_ray.actors.learner import actor as learner_actor
from al_ray.actors.learner import checkpoint
from al_ray.actors.learner import group as learner_group
from al_ray.actors.runner import actor as runner_actor
from al_ray.actors.runner import pool as runner_pool
from al_ray.actors.store import actor as store_actor
from al_ray.actors.store import keeper
from al_ray.actors.weights.update import WeightUpdate
from al_ray.algorithms.losses.token import Loss
from al_ray.cli.app import main
from al_ray.recipe.schedule import StageSpan
from al_ray.run import driver
from al_ray.run.launch import start
from al_ray.run.stages.stage import Stage
from al_ray.types import ChatReply, ChatRequest, Row, UpdateReport
from tests.support.runs import without_vllm

TRAINING = "train"
"""How the prompts of training begin, unlike those of evaluations."""
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Turnstiles:
    folder: Path

    def hold(self, moment: str) -> None:
        """This process has come to it."""
        held = self.folder / f"{moment}.held"
        try:
            (self.folder / f"{moment}.closed").rename(held)
        except FileNotFoundError:
            return
        held.write_text(str(os.getpid()))
        while held.exists():
            time.sleep(_LOOK_SECONDS)

    async def held(self, moment: str) -> None:
        """... beside what else its event loop has to do."""
        await asyncio.to_thread(self.hold, moment)


class Part:
    """An actor that is known by its class's name."""

    turnstiles: Turnstiles

    def __init__(self, *arguments: Any, **named: Any) -> None:
        (self.turnstiles.folder / f"{type(self).__name__.lower()}-{os.getpid()}").touch()
        super().__init__(*arguments, **named)


class Babbling(without_vllm.SpeakingEngine):
    """It says letters and digits as a call's seed has it, so that there is something to be learnt, in every
    run the same."""

    async def chat(self, request: ChatRequest) -> ChatReply:
        reply = await super().chat(request)
        chance = random.Random(request.sampling.seed)
        said = "".join(chance.choices("ab12", k=len(reply.choices[0].response_ids)))
        message = {"role": "assistant", "content": said}
        choice = replace(reply.choices[0], message=message, response_ids=list(said.encode()))
        return replace(reply, choices=[choice])


class AtTurnstiles(Part):
    """An engine begins to load its model, has a call, is given weights."""

    async def start(self) -> None:
        await self.turnstiles.held("engine starts")
        await super().start()  # type: ignore[misc]

    async def load(self, update: WeightUpdate) -> None:
        await self.turnstiles.held("weights")
        await super().load(update)  # type: ignore[misc]

    async def chat(self, request: Any, /) -> ChatReply:
        training = str(request.messages[0]["content"]).startswith(TRAINING)
        await self.turnstiles.held("rollouts" if training else "evaluation")
        reply: ChatReply = await super().chat(request)  # type: ignore[misc]
        return reply


class Learner(Part, learner_actor.Learner):
    """A checkpoint's moment is when its weights are written, and the state to resume from is not."""

    def computes(self) -> str:
        self.turnstiles.hold("learner starts")
        return super().computes()

    def update(self, batches: Sequence[Sequence[Row]], loss: Loss) -> UpdateReport:
        self.turnstiles.hold("update")
        return super().update(batches, loss)

    def publish(self, version: int) -> WeightUpdate:
        self.turnstiles.hold("publish")
        return super().publish(version)

    def save(self, folder: str) -> None:
        write_resume = checkpoint.write_resume

        def with_hold(*arguments: Any) -> None:
            self.turnstiles.hold("checkpoint")
            write_resume(*arguments)

        checkpoint.write_resume = with_hold
        try:
            super().save(folder)
        finally:
            checkpoint.write_resume = write_resume


class Store(Part, store_actor.Store):
    async def ping(self) -> None:
        await self.turnstiles.held("store starts")
        await super().ping()


class Gateway(Part, gateway_actor.Gateway):
    async def start(self, at: door.Address | None = None) -> str:
        await self.turnstiles.held("gateway starts")
        return await super().start(at)


class Door(Part, door.Door):
    def open(self, port: int = 0) -> door.Address:
        self.turnstiles.hold("door starts")
        return super().open(port)


class Runner(Part, runner_actor.Runner):
    async def ping(self) -> None:
        await self.turnstiles.held("runner starts")
        await super().ping()


class Run(driver.Run):
    """Between two steps nothing is asked of any part, nor at the end."""

    turnstiles: Turnstiles

    async def _step(self, span: StageSpan, stage: Stage, step: int) -> None:
        await self.turnstiles.held("between steps")
        await self.turnstiles.held("idle")
        await super()._step(span, stage, step)

    async def train(self) -> None:
        await super().train()
        await self.turnstiles.held("end")


def lay(folder: Path) -> None:
    """Let this process, which is to be a driver, start these parts."""
    turnstiles = Turnstiles(folder)
    answer = os.environ.get("AL_RAY_TEST_ANSWER_SECONDS")

    def at(name: str, *kinds: type) -> Any:
        """Ray's workers are sent the class, which has the folder."""
        return type(name, kinds, {"turnstiles": turnstiles})

    of_engine = engine_actor.Engine if "AL_RAY_TEST_VLLM" in os.environ else Babbling
    seconds = {} if answer is None else {"answer_seconds": float(answer)}
    engine = at("Engine", AtTurnstiles, of_engine)
    start.EnginePool = partial(EnginePool, engine_class=engine, **seconds)  # type: ignore[assignment,misc]
    for module, kind in (
        (learner_group, Learner),
        (keeper, Store),
        (gateway_pool, Gateway),
        (gateway_pool, Door),
        (runner_pool, Runner),
        (driver, Run),
    ):
        setattr(module, kind.__name__, at(kind.__name__, kind))
    if answer is not None:
        for module in (learner_group, gateway_pool, keeper):
            module._ANSWER_SECONDS = float(answer)
        learner_group._LOOK_SECONDS = 1.0
        runner_pool.LEASE_SECONDS = float(answer)


if __name__ == "__main__":
    cloudpickle.register_pickle_by_value(without_vllm)  # as this module is: Ray's workers find neither
    lay(Path(sys.argv.pop(1)))
    main()
