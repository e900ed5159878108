"""The driver: the loop of a run, on one page.

It owns nothing that a restart could not rebuild from the store and the last checkpoint: every
request it makes is a function of the recipe and the step, and asking twice is asking once. So a
run that was killed goes on with the same batches, and rollouts that had ended are not run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from al_ray.evaluation import evaluate
from al_ray.recipe import AnyStage, GrpoStage, Recipe
from al_ray.recipe.schedule import StageSpan, checkpoint_due, evaluation_due, evaluation_name, stage_spans
from al_ray.reports import jsonl_sink
from al_ray.reports.console import Console
from al_ray.reports.metrics import Metrics
from al_ray.run.agents import Agents
from al_ray.run.folder import RunFolder
from al_ray.run.policy import Policy
from al_ray.run.stages.reinforcement import Batch, demonstration_batch, requests_of_step, rollout_batch
from al_ray.run.step_report import evaluation_values, step_row, step_values
from al_ray.types import Group, Task, UpdateReport


@dataclass(slots=True)
class Run:
    """A run under way."""

    recipe: Recipe
    folder: RunFolder
    agents: Agents
    policy: Policy
    metrics: Metrics
    console: Console
    train_tasks: Sequence[Task]
    held_out_tasks: Sequence[Task]

    async def train(self) -> None:
        """From the last checkpoint, or from the start, to the end of the last stage."""
        done = await self._restore()
        await self._evaluate_if_due(done)
        for span in stage_spans(self.recipe):
            if done >= span.end:
                continue
            if done <= span.begin:
                await self._enter(span.stage)
            for step in range(max(done, span.begin), span.end):
                await self._step(span, step)
                await self._keep(span, step + 1)
                if evaluation_due(self.recipe, span, step + 1):
                    await self._evaluate(step + 1)

    async def _enter(self, stage: AnyStage) -> None:
        reference = isinstance(stage, GrpoStage) and stage.kl_coefficient > 0
        await self.policy.start_stage(stage.optimizer, stage.steps, reference=reference)

    async def _step(self, span: StageSpan, step: int) -> None:
        """One batch and its update."""
        started = time.perf_counter()
        batch = await self._batch(span, step)
        collected = time.perf_counter()
        self.console.phase("update")
        report = await self.policy.update(batch.rows, batch.loss)
        updated = time.perf_counter()
        times = {"rollouts": collected - started, "update": updated - collected, "step": updated - started}
        self._tell(span, step + 1, batch, report, times)

    async def _batch(self, span: StageSpan, step: int) -> Batch:
        if not isinstance(span.stage, GrpoStage):
            return await demonstration_batch(self.recipe, span, step, self.train_tasks, self.policy)
        self.console.phase("weights")
        await self.policy.serve()
        requests = requests_of_step(self.recipe, span, step, self.train_tasks)
        groups: list[Group] = []
        self.console.phase("rollouts", 0, len(requests))
        async for ended in self.agents.rollouts(requests):
            groups += ended
            self.console.phase("rollouts", sum(len(group.rollouts) for group in groups), len(requests))
        self.metrics.log_rollouts(step + 1, [rollout for group in groups[:2] for rollout in group.rollouts])
        return rollout_batch(self.recipe, span.stage, groups, self.policy.served_version)

    def _tell(
        self, span: StageSpan, step: int, batch: Batch, report: UpdateReport, times: Mapping[str, float]
    ) -> None:
        values = step_values(span, batch, report, times)
        self.metrics.log(step, values)
        self.console.step(step_row(span, step, stage_spans(self.recipe)[-1].end, values))

    async def _keep(self, span: StageSpan, step: int) -> None:
        """Write a checkpoint if one is due."""
        if not checkpoint_due(self.recipe, span, step):
            return
        self.console.phase("checkpoint")
        await self.policy.save(self.folder.checkpoint(step))
        self.folder.prune_checkpoints(self.recipe.checkpoint.keep)

    async def _restore(self) -> int:
        """Load the last checkpoint, if there is one; returns the steps that it holds."""
        steps = self.folder.checkpoints()
        if not steps:
            return 0
        await self.policy.load(self.folder.checkpoint(steps[-1]))
        self.console.note(f"resumed after step {steps[-1]}")
        for step, values in self._evaluated().items():
            self._show_evaluation(step, values)
        return steps[-1]

    async def _evaluate_if_due(self, step: int) -> None:
        """At the start, and where a run stopped between a checkpoint and its evaluation."""
        under_way = (span for span in stage_spans(self.recipe) if span.begin < step <= span.end)
        due = step == 0 or evaluation_due(self.recipe, next(under_way), step)
        if due and step not in self._evaluated():
            await self._evaluate(step)

    def _evaluated(self) -> Mapping[int, Mapping[str, float]]:
        """The evaluations of this run so far, by step."""
        lines = jsonl_sink.read(self.folder.path)
        return {int(line["step"]): line for line in lines if "eval/accuracy" in line}

    async def _evaluate(self, step: int) -> None:
        started = time.perf_counter()
        await self.policy.serve()
        name = evaluation_name(self.recipe, step)
        result = await evaluate.evaluate(
            self.recipe,
            self.agents,
            self.held_out_tasks,
            step,
            lambda done, total: self.console.phase(f"evaluation, {name}", done, total),
        )
        values = evaluation_values(result, time.perf_counter() - started)
        self.metrics.log(step, values)
        self._show_evaluation(step, values)

    def _show_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self.console.evaluation(
            evaluation_name(self.recipe, step),
            values["eval/accuracy"],
            values["eval/stderr"],
            int(values["eval/tasks"]),
            values["time/evaluation"],
        )
