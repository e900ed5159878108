"""Supervised stages: demonstrations of tasks, imitated token by token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from al_ray.actors.learner.spec import StageSpec
from al_ray.algorithms.demonstration import demonstration
from al_ray.algorithms.named import algorithm
from al_ray.data.mixture import mixed_tasks_of_step, sources_of
from al_ray.errors import UselessRunError
from al_ray.protocols import Demonstration
from al_ray.recipe import Recipe, SupervisedStage, dotted, policy_of
from al_ray.recipe.schedule import StageSpan
from al_ray.run.agents import Agents
from al_ray.run.policy import Policy
from al_ray.run.stages.batch import Batch
from al_ray.types import Task


@dataclass(frozen=True, slots=True)
class Supervision:
    """A stage that runs no agent: a teacher, named in the recipe, shows each task's conversation."""

    recipe: Recipe
    settings: SupervisedStage
    span: StageSpan
    tasks: Sequence[Task]

    @property
    def spec(self) -> StageSpec:
        return StageSpec(self.settings.optimizer, self.settings.steps)

    @property
    def needs_served_weights(self) -> bool:
        return False

    async def batch(
        self, step: int, agents: Agents, policy: Policy, progress: Callable[[int, int], None]
    ) -> Batch:
        """Demonstrations of the step's tasks, tokenised exactly as the engines render calls."""
        demonstrate = dotted.load(self.settings.demonstrate, f"stages.{self.span.index}.demonstrate")
        seed = (self.recipe.seed, self.span.index)
        demonstrated = sources_of(self.recipe.data, self._demonstrated())
        sources = [source for source in demonstrated if source.tasks]  # of few, a source may have none
        count = self.settings.tasks_per_step
        chosen = mixed_tasks_of_step(sources, count, step - self.span.begin, seed)
        shown = [demonstrate(task.data) for task in chosen]
        learning = [self._who_learns(each) for each in shown]
        calls = [await policy.render_calls(each.messages, each.tools) for each in shown]
        episodes = [
            demonstration(task, made, learner, place)
            for place, (task, made, learners) in enumerate(zip(chosen, calls, learning, strict=True))
            if made is not None
            for learner in sorted(learners)
        ]
        too_long = sum(made is None for made in calls)
        if not any(learning):
            of_agents = ", ".join(sorted({repr(each.agent) for each in shown}))
            raise UselessRunError(
                f"step {step + 1}: all demonstrations are of agents whose policy does not learn: {of_agents}"
                f"; the policies that do are {', '.join(self.recipe.trained_policies)} (policies)"
            )
        if not episodes:
            raise UselessRunError(
                f"step {step + 1}: all {too_long} demonstrations are longer than model.max_length, "
                f"{self.recipe.model.max_length}: raise it, or leave such tasks out (data.options)"
            )
        imitation = algorithm(self.settings, self.recipe.agent.sampling)
        rows = imitation.rows([[episode] for episode in episodes])
        if not rows:
            raise UselessRunError(
                f"step {step + 1}: of the {len(episodes)} demonstrations that could be learnt from, none has "
                f"a message of the assistant ({self.settings.demonstrate})"
            )
        metrics = {"demonstration/too_long": too_long, "health/too_long": too_long / len(chosen)}
        if self.recipe.policies:
            metrics["demonstration/of_others"] = sum(not learners for learners in learning)
        return Batch(rows, imitation.loss, metrics=metrics)

    def _who_learns(self, shown: Demonstration) -> Collection[str]:
        """Of the policies, those that a demonstration is for: its agent's, or all."""
        learning = self.recipe.trained_policies
        if not shown.agent:
            return learning
        return learning.keys() & {policy_of(self.recipe.policies, shown.agent)}

    async def leave(self) -> None:
        """Nothing is under way between its steps."""

    def _demonstrated(self) -> Sequence[Task]:
        """The tasks that have a demonstration: the same for every stage of a recipe, and for every recipe
        with its seed. Where a source has fewer than its share, the others have more."""
        count = self.settings.demonstrations
        if count is None:
            return self.tasks
        sources = sources_of(self.recipe.data, self.tasks)
        chosen: dict[str, Task] = {}
        turn = 0
        while len(chosen) < min(count, len(self.tasks)):
            more = mixed_tasks_of_step(sources, count, turn, (self.recipe.seed,), chosen)
            chosen |= {task.id: task for task in more}
            turn += 1
        return [*chosen.values()][:count]
