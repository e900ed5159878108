"""The algorithm of a stage: which parts it is made of, and the rows that they make of a batch.

Level 1 (``credit``) gives each call a return, level 2 (``advantages``) compares calls, ``losses`` says what a
token costs. The recipe chooses each by name, and ``al_ray.recipe.stages.NAMED`` says what the published
algorithms choose; any choice fits any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from al_ray.algorithms.advantages import Advantages, Comparison, advantages
from al_ray.algorithms.credit import Credit, credit_of
from al_ray.algorithms.credit.gae import targets
from al_ray.algorithms.credit.identical import alike, identical
from al_ray.algorithms.credit.layer import of_each
from al_ray.algorithms.losses import SURROGATES, Correction, CrossEntropy, PolicyGradient
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.measured import CallId, Measured
from al_ray.algorithms.passes import ONCE, Passes
from al_ray.algorithms.rows import Aggregate, build_rows
from al_ray.algorithms.shaping import Shaping
from al_ray.algorithms.shaping.overlong import Overlong
from al_ray.algorithms.shaping.potential import Potential
from al_ray.recipe import (
    OnPolicyDistillationStage,
    ReinforcementStage,
    RejectionSamplingStage,
    SamplingSection,
    Stage,
    SupervisedStage,
)
from al_ray.types import Row, Trajectory

Groups = Sequence[Sequence[Trajectory]]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """From the groups of a batch to the rows of an update, and their loss."""

    credit: Credit
    comparison: Comparison
    loss: Loss
    aggregate: Aggregate
    tokens: int = 0
    """What a rollout's sum is divided by where the aggregate is ``constant``."""
    passes: Passes = ONCE
    shapings: Sequence[Shaping] = ()
    kl_in_reward: float = 0.0
    """What a nat of a response's divergence from the reference takes from its call's reward."""
    expected: Callable[[Trajectory], Sequence[float | None]] | None = None
    """What a critic is to learn of the calls of a rollout, where there is one."""

    def returns(self, groups: Groups) -> list[list[list[float | None]]]:
        """What credit gives each call of each group, in its first layer and to the call's own policy, for
        people to look at; None for a call that is not trained or not learnt from."""
        found: list[list[list[float | None]]] = [
            [[None] * len(each.transitions) for each in group] for group in groups
        ]
        for own in by_policy(groups):
            for group, of_group in zip(self._shaped(own, None), found, strict=True):
                given = self.credit(group)[0].returns
                for episode, of_episode, values in zip(group, of_group, given, strict=True):
                    for number, (t, value) in enumerate(zip(episode.transitions, values, strict=True)):
                        if t.trained:
                            of_episode[number] = value
        return found

    def advantages(self, groups: Groups, measured: Measured | None = None) -> list[Advantages]:
        """Those of the calls of each group, compared as they came, each with calls of its own policy alone.
        ``measured`` is what learners told of them, where ``needs_measured``."""
        of_policies = [self._advantages(own, measured) for own in by_policy(groups)]
        return [
            [[sum(of_call) for of_call in zip(*parts, strict=True)] for parts in zip(*of_group, strict=True)]
            for of_group in zip(*of_policies, strict=True)
        ]

    def unequal(self, groups: Groups, measured: Measured | None = None) -> set[str]:
        """The groups in which a call did better or worse than its like, by id.

        Measured from the mean of a batch (``scale: batch``) the calls of equals have an advantage too, so it
        is left out where there is a baseline; without one it is the level itself that is learnt from."""
        comparison = self.comparison
        if comparison.baseline != "none":
            comparison = replace(comparison, scale="none")
        made = replace(self, comparison=comparison).advantages(groups, measured)
        return {group[0].group for group, given in zip(groups, made, strict=True) if any(map(any, given))}

    def rows(self, groups: Groups, measured: Measured | None = None) -> list[Row]:
        """``groups`` are the comparable rollouts of each task. Nothing is dropped between baseline and
        update. Each policy has the rows that it would have if no other were trained."""
        return [row for own in by_policy(groups) for row in self._rows(own, measured)]

    def _rows(self, groups: Groups, measured: Measured | None) -> list[Row]:
        made = self._advantages(groups, measured)
        return build_rows(
            [trajectory for group in groups for trajectory in group],
            [of_rollout for of_group in made for of_rollout in of_group],
            self.aggregate,
            self.tokens,
        )

    def _advantages(self, groups: Groups, measured: Measured | None) -> list[Advantages]:
        shaped = self._shaped(groups, measured)
        return advantages(shaped, [self.credit(group) for group in shaped], self.comparison)

    def critic_targets(self, groups: Groups, measured: Measured) -> Mapping[CallId, float]:
        """What the critic is to learn of each trained call."""
        assert self.expected is not None, "this algorithm has no critic"
        return {
            (trajectory.rollout_id, number): target
            for group in self._shaped(groups, measured)
            for trajectory in group
            for number, target in enumerate(self.expected(trajectory))
            if target is not None
        }

    def _shaped(self, groups: Groups, measured: Measured | None) -> Groups:
        """As credit sees them."""
        if measured is not None:
            groups = [[measured.noted_in(each, self.kl_in_reward) for each in group] for group in groups]
        for shaping in self.shapings:
            groups = [[shaping(each) for each in group] for group in groups]
        return groups


def by_policy(groups: Groups) -> list[Groups]:
    """The groups as each of the policies that are trained sees them, in the order of their names: the calls
    of the others are context. Once, as they are, where there are no several."""
    found = {t.policy for group in groups for each in group for t in each.transitions if t.trained}
    if len(found) < 2:
        return [groups]
    return [[[_of_policy(each, policy) for each in group] for group in groups] for policy in sorted(found)]


def _of_policy(trajectory: Trajectory, policy: str) -> Trajectory:
    own = [replace(t, trained=t.trained and t.policy == policy) for t in trajectory.transitions]
    return replace(trajectory, transitions=own)


def imitation(stage: SupervisedStage, sampling: SamplingSection) -> Algorithm:
    """The tokens of demonstrations, which nobody sampled, are made likelier: each call is worth 1, and is
    compared with nothing."""
    return Algorithm(
        credit=of_each(identical),
        comparison=Comparison("task", "none", "none"),
        loss=CrossEntropy(),
        aggregate=stage.aggregate,
    )


def reinforcement(stage: ReinforcementStage, sampling: SamplingSection) -> Algorithm:
    """What the stage's fields say."""
    assert sampling.temperature is not None, "the recipe pins it"
    correction = None
    if stage.correction != "none":
        correction = Correction(stage.correction, stage.correction_bound, stage.correction_cap)
    in_reward, with_critic = stage.kl_in == "reward", stage.credit == "gae"
    return Algorithm(
        credit=credit_of(stage),
        comparison=Comparison(stage.compare, stage.baseline, stage.scale),
        loss=PolicyGradient(
            SURROGATES[stage.loss](stage),
            kl_coefficient=0.0 if in_reward else stage.kl_coefficient,
            kl_estimator=stage.kl_estimator,
            entropy_coefficient=stage.entropy_coefficient,
            correction=correction,
            temperature=sampling.temperature,
            every_row=needs_measured(stage),
        ),
        aggregate=stage.aggregate,
        tokens=stage.constant_tokens or sampling.max_tokens,
        passes=Passes(stage.epochs, stage.mini_batches),
        shapings=list(_shapings(stage, sampling)),
        kl_in_reward=stage.kl_coefficient if in_reward else 0.0,
        expected=partial(targets, discount=stage.discount, decay=stage.gae_lambda) if with_critic else None,
    )


def _shapings(stage: ReinforcementStage, sampling: SamplingSection) -> Iterator[Shaping]:
    if stage.intermediate == "potential":
        yield Potential(stage.discount)
    if stage.overlong_tokens:
        yield Overlong(sampling.max_tokens, stage.overlong_tokens)


def needs_measured(stage: ReinforcementStage) -> bool:
    """Whether learners must look at a batch before its calls are given credit."""
    return stage.credit == "gae" or (stage.kl_in == "reward" and stage.kl_coefficient > 0)


def rejection_sampling(stage: RejectionSamplingStage, sampling: SamplingSection) -> Algorithm:
    """The tokens of the rollouts that were kept are made likelier in the distribution that they were drawn
    from; each group counts the same."""
    assert sampling.temperature is not None, "the recipe pins it"
    return Algorithm(
        credit=of_each(alike),
        comparison=Comparison("task", "none", "none"),
        loss=CrossEntropy(temperature=sampling.temperature),
        aggregate="group_mean",
    )


def on_policy_distillation(stage: OnPolicyDistillationStage, sampling: SamplingSection) -> Algorithm:
    """Its advantages are those of the rewards; ``distillation`` adds what the teacher says."""
    return Algorithm(
        credit=of_each(identical),
        comparison=Comparison("task", "mean", "none"),
        loss=PolicyGradient(Clipped(0.2, 0.2), every_row=True),
        aggregate=stage.aggregate,
    )


ALGORITHMS: Mapping[type, Callable[[Any, SamplingSection], Algorithm]] = {
    SupervisedStage: imitation,
    ReinforcementStage: reinforcement,
    RejectionSamplingStage: rejection_sampling,
    OnPolicyDistillationStage: on_policy_distillation,
}
"""By the type of the recipe's stage."""


def algorithm(stage: Stage, sampling: SamplingSection) -> Algorithm:
    """The algorithm of a stage whose calls are drawn with ``sampling``."""
    return ALGORITHMS[type(stage)](stage, sampling)
