"""The health of a run: which of its numbers are not well, what that means and what to do about it.

A run must never look well when it is not. What is only bad is warned of, by the limits of the recipe's
``health``; what makes a run useless ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from al_ray.errors import UselessRunError
from al_ray.recipe import HealthSection
from al_ray.rollouts.outcome import CommonError, Outcome, errors

_ENTROPY: Final = "rollout/surprise"
"""In the mean, over all rollouts; the learner computes it of those alone that have a gradient."""
_FALL: Final = "health/entropy_fall"
ASK_THE_ENDPOINT: Final = (
    "the agent must ask the endpoint that it is given, llm.base_url with llm.api_key (a process finds them "
    "in OPENAI_BASE_URL and OPENAI_API_KEY), for llm.model; a call that is refused, as one longer than "
    "model.max_length, does not count, nor does one that its client gave up before it was answered"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is said of a number beyond its limit, which is called as the last part of its key."""

    key: str
    means: str
    """After the number."""
    cure: str

    @property
    def limit(self) -> str:
        """The key of the recipe's ``health``."""
        return self.key.rpartition("/")[2]

    def told(self, values: Mapping[str, float], limits: HealthSection) -> str:
        """The warning."""
        limit = getattr(limits, self.limit)
        number, most = (f"{n:.3g} nats" if self.limit == "mismatch_kl" else f"{n:.0%}" for n in
                        (values[self.key], limit))  # fmt: skip
        return f"{number} {self.means} (health.{self.limit}: at most {most}): {self.cure}"


RULES: Final[Sequence[Rule]] = (
    Rule("health/failed", "of the rollouts failed", "mend what they died of; where it is the model's doing, "
         "they teach nothing unless transitions.failed_reward says what they are worth"),
    Rule("health/without_calls", "of the rollouts had no answer of the model and taught nothing",
         ASK_THE_ENDPOINT),
    Rule("health/equal_groups", "of the groups have equal rewards, and nothing was learnt from them",
         "give tasks that are solved sometimes, neither always nor never, a reward with more steps between "
         "nothing and all, a larger group_size, or a higher agent.sampling.temperature"),
    Rule("health/dropped_groups", "of the groups have fewer than two rollouts that can be compared",
         "rollout/failed, rollout/left_out_REASON and judge/failed in metrics.jsonl tell why"),
    Rule("health/too_long", "of the demonstrations were left out, being longer than model.max_length",
         "raise it, or leave such tasks out"),
    Rule("signals/truncated", "of the answers were cut off for want of room",
         "raise sampling.max_tokens or model.max_length, or have the agent ask for less"),
    Rule("health/branches", "of the calls that continue a conversation could not begin with its tokens, "
         "which are computed again", "lineage/branch_REASON tells why: what the agent rewrites it had better "
         "leave as it was; what the template renders otherwise is cured by a model.chat_template"),
    Rule("health/idle_policies", "of the policies answered no call, and learnt nothing",
         "rollout/calls/NAME in metrics.jsonl tells which; policies.NAME.agents are to be names that agents "
         "give, which al-ray rollouts shows beside their calls"),
    Rule(_FALL, "is what the entropy has fallen by since the first step of the stage: the rollouts of a "
         "group become alike", "lower the learning rate, raise clip_high, or set kl_coefficient"),
    Rule("off_policy/mismatch_kl", "lie between the learner and the sampler of its tokens, so that the "
         "gradient is of another policy's doings", "use a more exact model.dtype, and train no agent whose "
         "sampling differs from agent.sampling; with staleness, epochs or mini_batches the policy also moves "
         "away from its sampler: lower these, or the learning rate"),
    Rule("health/steps_refused", "of the update's steps were refused: their gradient is not finite, and "
         "moved nothing", "lower the learning rate, or use a more exact model.dtype"),
    Rule("health/wasted_tokens", "of the sampled tokens came from rollouts without a gradient",
         "see which of the numbers of health are high: failed, dropped_groups or equal_groups; where "
         "rejection sampling finds too few rollouts worth imitating, lower its threshold"),
)  # fmt: skip


@dataclass(slots=True)
class Health:
    """Watches a run. A warning is given when it begins to hold, not again with each step that it goes on."""

    limits: HealthSection
    run: Path
    """Its folder."""
    _steps: int = 0
    _beyond: Counter[str] = field(default_factory=Counter)
    """The steps in which a limit was passed, by its key."""
    _held: set[str] = field(default_factory=set)
    """What was passed in the step before."""
    _first_entropy: dict[float, float] = field(default_factory=dict)
    """By stage."""

    def entropy_fall(self, values: Mapping[str, Any]) -> dict[str, float]:
        """What is logged of it; nothing in a step without trained calls, or without rollouts, as imitation is
        meant to lower it. To be told of a run's steps in order."""
        if (entropy := values.get(_ENTROPY)) is None:
            return {}
        first = self._first_entropy.setdefault(values["stage"], entropy)
        return {_FALL: max(0.0, 1 - entropy / first) if first > 0 else 0.0}

    def step(self, values: Mapping[str, float], outcomes: Sequence[Outcome]) -> list[str]:
        """The new warnings about a step."""
        beyond = self._counted(values)
        new = [rule for rule in beyond if rule.limit not in self._held]
        self._held = {rule.limit for rule in beyond}
        return [_warning(rule, values, self.limits, outcomes, self.run) for rule in new]

    def recall(self, line: Mapping[str, Any]) -> None:
        """A line of metrics that an earlier life of the run has told."""
        self.entropy_fall(line)
        if "stage" in line:
            self._counted(line)

    def _counted(self, values: Mapping[str, Any]) -> list[Rule]:
        """Those that a step passes."""
        beyond = [rule for rule in RULES if _is_beyond(rule, values, self.limits)]
        self._steps += 1
        self._beyond.update(rule.limit for rule in beyond)
        return beyond

    def summary(self) -> list[str]:
        """In how many steps each limit was passed, the most often first."""
        return [
            f"health.{name} passed in {count} of {self._steps} steps"
            for name, count in self._beyond.most_common()
        ]


def warnings(
    values: Mapping[str, float], limits: HealthSection, outcomes: Sequence[Outcome], run: Path
) -> list[str]:
    """All that there are about ``values``."""
    beyond = [rule for rule in RULES if _is_beyond(rule, values, limits)]
    return [_warning(rule, values, limits, outcomes, run) for rule in beyond]


def useless(
    where: str, outcomes: Sequence[Outcome], run: Path, *, excuses_model: bool
) -> UselessRunError | None:
    """Why a run whose rollouts all end so is not gone on with, if it is so. ``excuses_model``: failures that
    are the model's own doing do not count."""
    if not outcomes:
        return None
    again = "then start a new run: what has ended in this one is not run again"
    if all(outcome.error is not None and not (excuses_model and outcome.by_model) for outcome in outcomes):
        return UselessRunError(
            f"{where}: all {len(outcomes)} rollouts failed{told_error(errors(outcomes)[0], run)}\n"
            f"  Mend that, {again}."
        )
    if not any(outcome.called for outcome in outcomes):
        return UselessRunError(
            f"{where}: the model answered no call of any of the {len(outcomes)} rollouts\n"
            f"  one of them: al-ray rollouts {run} {outcomes[0].rollout}\n"
            f"  There is nothing to learn: {ASK_THE_ENDPOINT}. Mend that, {again}."
        )
    return None


def trained_well(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics is of a step of which some rollouts have come to something."""
    return line.get("health/failed", 1) < 1 and line.get("health/without_calls", 1) < 1


def evaluated_well(line: Mapping[str, Any]) -> bool:
    """Whether it is of an evaluation of which some have."""
    return line.get("eval/accuracy") is not None and not line.get("eval/without_calls")


def told_error(common: CommonError, run: Path) -> str:
    """After what was said of failed rollouts: the error once, where it was raised, and how to see one."""
    place = common.error
    where = f"\n  {place.file}, line {place.line}, in {place.function}" if place.file else ""
    return (
        f"; the commonest error, of {common.count}:\n  {place.said}{where}\n"
        f"  one of them: al-ray rollouts {run} {common.rollout}"
    )


def _is_beyond(rule: Rule, values: Mapping[str, Any], limits: HealthSection) -> bool:
    """Not where a line of metrics has no number."""
    return (values.get(rule.key) or 0.0) > getattr(limits, rule.limit)


def _warning(
    rule: Rule, values: Mapping[str, float], limits: HealthSection, outcomes: Sequence[Outcome], run: Path
) -> str:
    told = rule.told(values, limits)
    if rule.limit == "failed" and (found := errors(outcomes)):
        return told + told_error(found[0], run)
    silent = next((outcome.rollout for outcome in outcomes if not outcome.called), None)
    if rule.limit == "without_calls" and silent is not None:
        return f"{told}\n  one of them: al-ray rollouts {run} {silent}"
    return told
