"""The driver: the loop of a run, on one page, from its start to the end of its last stage.

It owns nothing that a restart could not rebuild from the store and the last checkpoint: every
request it makes is a function of the recipe and the step, and asking twice is asking once. So a
run that was killed goes on with the same batches, and rollouts that had ended are not run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ray.exceptions import RayError

from al_ray.actors.keepers import MAX_LOST, Keepers
from al_ray.errors import AlRayError, CheckpointError, LearnerLostError, UselessRunError
from al_ray.recipe import Recipe, SupervisedStage
from al_ray.recipe.schedule import (
    StageSpan,
    checkpoint_due,
    evaluation_due,
    evaluation_name,
    first_not_due,
    span_of_step,
    stage_spans,
    total_steps,
)
from al_ray.reports import jsonl_sink
from al_ray.reports.console import Console
from al_ray.reports.health import Health, evaluated_well, trained_well, useless, warnings
from al_ray.reports.sinks import Sinks
from al_ray.rollouts.outcome import Outcome
from al_ray.run.agents import Agents
from al_ray.run.evaluations import Evaluations
from al_ray.run.folder import RunFolder
from al_ray.run.forecast import SEEN, Forecast, forecast
from al_ray.run.notice import heed
from al_ray.run.policy import Policy
from al_ray.run.stages.batch import Batch
from al_ray.run.stages.stage import Stage, stage_of
from al_ray.run.step_report import step_values
from al_ray.types import Task, UpdateReport

_LEAVE_SECONDS: Final = 120.0
"""For an update under way to end, and its checkpoint to be written, when the run is interrupted."""


@dataclass(slots=True)
class Run:
    """A run under way. Steps are global, counted over all stages: the one that is made has the number of
    those before it, from 0; what is told, saved and evaluated has the number of those that are done."""

    recipe: Recipe
    folder: RunFolder
    agents: Agents
    """Run rollouts."""
    policy: Policy
    """Learns from them, and answers the agents' calls."""
    metrics: Sinks
    console: Console
    train_tasks: Sequence[Task]
    held_out_tasks: Sequence[Task]
    health: Health
    gpus: int = 0
    """That it holds."""
    _done: int = 0
    """Steps that have been told."""
    _whole: asyncio.Task[None] | None = None
    """What was begun last that is ended and told whatever interrupts the run: an update or a checkpoint."""
    _unwritten: int = 0
    """The step that no checkpoint could be written of when a node was to go."""
    _under_way: int = 0
    """The step whose update was begun and is not told: where that failed, learners hold no whole step."""
    _steady: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while weights change or are written."""
    _keepers: Keepers = field(default_factory=Keepers)
    """Of the ear for Ray's notice."""
    _evaluations: Evaluations = field(init=False)
    _foreseen: tuple[Forecast, float] | None = None
    """Of the stage under way, and when."""

    def __post_init__(self) -> None:
        self._evaluations = Evaluations(
            self.recipe, self.folder, self.agents, self.metrics, self.console, self.held_out_tasks
        )

    async def train(self) -> None:
        """From the last checkpoint, or from the start, to the end of the last stage. Raises
        ``UselessRunError`` after an evaluation or batch from which nothing can be learnt, if none before was
        better. Whoever interrupts it waits for a checkpoint of the steps that are done."""
        self._keepers.start([heed(self.policy, self._save_what_is_done, self.console)])
        try:
            await self._train()
        except (asyncio.CancelledError, KeyboardInterrupt):
            await self._leave()
            raise
        finally:
            await self._keepers.stop()

    async def _train(self) -> None:
        lost = furthest = 0
        while True:
            try:
                if lost:
                    await self.policy.restart_learners()
                done = await self._restore()
                if lost:
                    self.metrics.rewind(done)
                elif done:
                    self._recall()
                await self._go_on(done)
                break
            except LearnerLostError as error:
                lost = lost + 1 if self._done <= furthest else 1
                furthest = max(furthest, self._done)
                if lost > MAX_LOST:
                    raise
                # Of which the learners hold nothing any more.
                self._done = self._unwritten = self._under_way = 0
                self.console.warning(f"{error}; going on from the last checkpoint")
        for line in self.health.summary():
            self.console.warning(line)

    async def _leave(self) -> None:
        """Keep what was learnt since the last checkpoint, if that takes no longer than ``_LEAVE_SECONDS``."""
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                if self._whole is not None and not self._whole.done():
                    self.console.note("interrupted: what is under way is ended first; once more ends all")
                    await self._whole
                await self._save(self._done)
        except (AlRayError, RayError, OSError, TimeoutError) as error:
            if self._done not in self.folder.checkpoints():  # it may have been written all the same
                told = str(error) or f"not within {_LEAVE_SECONDS:g} s"
                self.console.warning(f"no checkpoint of the last steps: {told}; --resume repeats them")
                return
        # Whoever has not loaded the last checkpoint yet has done none of its steps.
        kept = max([self._done, *self.folder.checkpoints()])
        self.console.note(f"interrupted after step {kept}; --resume goes on from there")

    async def _go_on(self, done: int) -> None:
        """To the end, when ``done`` steps are done."""
        self._done = done
        await self._evaluate_if_missing(done)
        for span in stage_spans(self.recipe):
            if done < span.end:
                await self._run_stage(span, done)

    async def _restore(self) -> int:
        """Load the last checkpoint, if there is one; returns the steps that it holds. What later steps and
        evaluations asked for and has not ended is taken back before engines answer with older weights than it
        may have."""
        done = max(self.folder.checkpoints(), default=0)
        await self.agents.withdraw(first_not_due(self.recipe, done), done + 1)
        if not done:
            return 0
        await self.policy.load(self.folder.checkpoint(done))
        self.console.note(f"resumed after step {done}")
        return done

    def _recall(self) -> None:
        """What the lives of this run before this process have told."""
        for line in jsonl_sink.read(self.folder.path):
            self.health.recall(line)
        for step, values in self._evaluations.made().items():
            self._evaluations.show(step, values)

    async def _run_stage(self, span: StageSpan, done: int) -> None:
        """What is left of a stage when ``done`` steps of the run are done."""
        stage = stage_of(self.recipe, span, self.train_tasks)
        try:
            if done <= span.begin:
                await self._enter(stage)
            for step in range(max(done, span.begin), span.end):
                await self._step(span, stage, step)
                if checkpoint_due(self.recipe, span, step + 1):
                    await self._to_its_end(self._save(step + 1))
                if evaluation_due(self.recipe, span, step + 1):
                    await self._evaluate(step + 1)
                self._foresee(span, step + 1)
        finally:
            self._foreseen = None
            await stage.leave()

    def _foresee(self, span: StageSpan, done: int) -> None:
        """How long the rest of the stage takes, once; and, at its end, how long it took."""
        if self._foreseen is not None:
            foreseen, begun = self._foreseen
            if done == span.end:
                self.console.forecast(foreseen.compared(time.perf_counter() - begun, self.gpus))
        elif done - span.begin > SEEN:
            found = forecast(self.recipe, span, done, jsonl_sink.read(self.folder.path))
            if found is not None:
                self._foreseen = found, time.perf_counter()
                self.console.forecast(found.told(self.gpus))

    async def _enter(self, stage: Stage) -> None:
        """Each stage has an optimizer of its own."""
        await self.policy.start_stage(stage.spec)

    async def _step(self, span: StageSpan, stage: Stage, step: int) -> None:
        """Weights for the engines, a batch, its update."""
        if error := self._keepers.failure():
            raise error
        started = time.perf_counter()
        if stage.needs_served_weights:
            self.console.phase("weights")
            await self.policy.serve()
        served = time.perf_counter()
        batch = await stage.batch(step, self.agents, self.policy, self._show_rollouts)
        if error := self._useless(f"step {step + 1}", batch.outcomes, span, of_evaluation=False):
            self.metrics.log(step + 1, batch.metrics)
            raise error
        collected = time.perf_counter()
        times = {"weights": served - started, "rollouts": collected - served}
        # Weights are those of a whole step.
        await self._to_its_end(self._learn(span, step + 1, batch, times))

    async def _to_its_end(self, doing: Coroutine[None, None, None]) -> None:
        """What is ended and told, once begun, whatever interrupts the run."""
        self._whole = asyncio.create_task(doing)
        await asyncio.shield(self._whole)

    async def _learn(self, span: StageSpan, step: int, batch: Batch, times: Mapping[str, float]) -> None:
        async with self._steady:
            self.console.phase("update")
            started = time.perf_counter()
            self._under_way = step
            report = await self.policy.update(batch)
            times = {**times, "update": time.perf_counter() - started}
            self._tell(span, step, batch, report, {**times, "step": sum(times.values())})
            self._done, self._under_way = step, 0

    def _tell(
        self, span: StageSpan, step: int, batch: Batch, report: UpdateReport, times: Mapping[str, float]
    ) -> None:
        values = step_values(span, batch, report, times)
        values |= self.health.entropy_fall(values)
        if batch.examples:
            self.metrics.log_rollouts(step, batch.examples)
        self.metrics.log(step, values)
        self.console.step(span.stage.algorithm, step, total_steps(self.recipe), values)
        for warning in self.health.step(values, batch.outcomes):
            self.console.warning(f"step {step}: {warning}")

    async def _save(self, step: int) -> None:
        """Write a checkpoint, if there is none yet. It is told after the step, whose line must be there if
        the checkpoint is."""
        async with self._steady:
            await self._write(step)

    async def _save_what_is_done(self) -> None:
        """Whatever the run is at. What failed is not tried again: each time, the next update would wait for
        it."""
        async with self._steady:
            if self._done == self._unwritten:
                return
            try:
                await self._write(self._done)
            except (AlRayError, RayError, OSError) as error:
                self._unwritten = self._done
                self.console.warning(f"no checkpoint of step {self._done}: {error}")

    async def _write(self, step: int) -> None:
        if step in (0, *self.folder.checkpoints()):
            return
        if self._under_way:
            raise CheckpointError(f"the update of step {self._under_way} has failed")
        self.console.phase("checkpoint")
        started = time.perf_counter()
        await self.policy.save(self.folder.checkpoint(step))
        self.metrics.log(step, {"time/checkpoint": time.perf_counter() - started})
        self.folder.prune_checkpoints(self.recipe.checkpoint.keep)

    async def _evaluate(self, step: int) -> None:
        """The held-out tasks, by the policy after ``step`` steps."""
        started = time.perf_counter()
        await self.policy.serve()
        found = await self._evaluations.make(step, started)
        where = f"evaluation, {evaluation_name(self.recipe, step)}"
        coming = span_of_step(self.recipe, step)
        if error := self._useless(where, found.outcomes, coming, of_evaluation=True):
            raise error
        for warning in warnings(found.health, self.recipe.health, found.outcomes, self.folder.path):
            self.console.warning(f"{where}: {warning}")

    def _useless(
        self, where: str, outcomes: Sequence[Outcome], span: StageSpan | None, *, of_evaluation: bool
    ) -> UselessRunError | None:
        """Why the run is not gone on with, in the stage of ``span``. One of which such rollouts came to
        something before is: it was set up well, and chance or an outage may fail all of a batch."""
        run = self.folder.path
        if useless(where, outcomes, run, excuses_model=False) is None:
            return None
        lines = jsonl_sink.read(run)
        evaluated = any(map(evaluated_well, lines))
        if any(map(trained_well, lines)) or (of_evaluation and evaluated):
            return None
        shown = span is not None and isinstance(span.stage, SupervisedStage)
        taught = shown or self.recipe.transitions.failed_reward is not None
        return useless(where, outcomes, run, excuses_model=taught or evaluated)

    async def _evaluate_if_missing(self, step: int) -> None:
        """At the start, and where a run stopped between a checkpoint and its evaluation."""
        last = span_of_step(self.recipe, step - 1)  # None: at the start
        due = last is None or evaluation_due(self.recipe, last, step)
        if due and step not in self._evaluations.made():
            await self._evaluate(step)

    def _show_rollouts(self, ended: int, asked: int) -> None:
        self.console.phase("rollouts", ended, asked)
