"""The table of metrics: every number that is logged of a run, with what it means and where it is shown.

Who computes a number logs it by its key here: it has no other name. ``metrics.jsonl`` and W&B get every
key; the console's columns, the plot's panels, Ray's metrics and ``docs/metrics.md`` are made of this table.
To add one is to compute it, and a line here.

A key that ends in capitals is a family: ``rewards/NAME`` stands for ``rewards/`` and any name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """Of the console's table. Those that do not fit the terminal are left out, the last ``place`` first."""

    place: int
    title: str
    width: int


@dataclass(frozen=True, slots=True)
class Panel:
    """Of the plot. What has an ``error``, the key of its standard error, is drawn point by point."""

    label: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a step or an evaluation."""

    key: str
    unit: str
    meaning: str
    column: Column | None = None
    panel: Panel | None = None
    gauge: str = ""
    """The name of Ray's gauge of it; Prometheus takes no slashes."""
    counter: str = ""
    """The name of Ray's counter that adds it up."""


# A table is read line by line.
# fmt: off
EVALUATION: Final[Sequence[Metric]] = (
    Metric("eval/accuracy", "reward", "Mean reward of the held-out tasks, each of which counts once.",
           panel=Panel("held-out accuracy", error="eval/stderr"), gauge="al_ray_eval_accuracy"),
    Metric("eval/stderr", "reward", "Standard error of that mean, over tasks."),
    Metric("eval/gain", "reward", "Mean difference from the evaluation before, over the same tasks."),
    Metric("eval/gain_low", "reward", "Lower end of its 95 % interval."),
    Metric("eval/gain_high", "reward", "Upper end."),
    Metric("eval/tasks", "tasks", "Held-out tasks that have a score."),
    Metric("eval/failed", "rollouts", "Rollouts without a score.", gauge="al_ray_eval_failed"),
    Metric("eval/without_calls", "rollouts", "Rollouts in which the model answered no call.",
           gauge="al_ray_eval_without_calls"),
    Metric("eval/truncated", "share", "Calls of the model whose answer was cut off for want of room.",
           gauge="al_ray_eval_truncated"),
    Metric("eval/NAME", "", "Mean of each other metric over tasks: of the evaluator's, `avg@K`, `pass@k`."),
)
"""What an evaluation found."""

BATCH: Final[Sequence[Metric]] = (
    Metric("reward/mean", "reward",
           "Mean reward, as it was given: without intermediate ones, of all compared rollouts that have one.",
           column=Column(1, "reward", 7), panel=Panel("training reward\n(mean of the step)"),
           gauge="al_ray_reward_mean"),
    Metric("reward/std", "reward", "Standard deviation of these rewards."),
    Metric("rewards/NAME", "", "Mean of each other dimension of the rewards, over those that have it."),
    Metric("rollout/count", "rollouts", "Rollouts of the batch.",
           column=Column(4, "rollouts", 8), counter="al_ray_rollouts_total"),
    Metric("rollout/failed", "rollouts", "Rollouts of the batch that failed.",
           column=Column(5, "failed", 6), counter="al_ray_rollouts_failed_total"),
    Metric("rollout/failed_by_model", "rollouts",
           "Those of them that failed by what the model answered: transitions.failed_reward is for these."),
    Metric("rollout/unreadable", "rollouts", "Rollouts left out: their spans hold what cannot be read."),
    Metric("rollout/attempts_STATUS", "attempts", "Attempts that did not succeed, by how they ended."),
    Metric("rollout/dropped_groups", "groups", "Groups left out: too few rollouts to compare."),
    Metric("rollout/equal_groups", "groups", "Groups whose rollouts all have the same reward."),
    Metric("rollout/calls", "calls", "Mean calls of a rollout that give a transition."),
    Metric("rollout/prompt_tokens", "tokens", "Mean tokens of a call's prompt."),
    Metric("rollout/response_tokens", "tokens", "Mean sampled tokens of a rollout.",
           column=Column(7, "tokens", 7), gauge="al_ray_response_tokens"),
    Metric("rollout/sampled_tokens", "tokens", "Sampled tokens of all rollouts, also of those left out."),
    Metric("rollout/surprise", "nats",
           "Mean -log p of the trained calls' tokens as they were sampled: in the mean, their entropy.",
           gauge="al_ray_surprise"),
    Metric("rollout/left_out_REASON", "responses",
           "Responses that gave no transition, by reason; also those of groups left out."),
    Metric("off_policy/staleness_mean", "versions", "Mean staleness of calls: policy version now minus then.",
           gauge="al_ray_staleness_mean"),
    Metric("off_policy/staleness_max", "versions", "Staleness of the stalest call.",
           column=Column(12, "stale", 6)),
    Metric("lineage/new", "calls", "Calls that begin a conversation."),
    Metric("lineage/continued", "calls", "Calls that begin with the tokens of an earlier one."),
    Metric("lineage/branch_template", "calls", "Branches: the template renders otherwise what was there.",
           gauge="al_ray_branches_template"),
    Metric("lineage/branch_retokenised", "calls", "Branches: a turn as it was shown is not of whole tokens.",
           gauge="al_ray_branches_retokenised"),
    Metric("lineage/branch_rewritten", "calls", "Branches: the agent changed what was there.",
           gauge="al_ray_branches_rewritten"),
    Metric("lineage/branch_other", "calls", "Branches: there are answers that no known call gave.",
           gauge="al_ray_branches_other"),
    Metric("signals/truncated", "share", "Trained calls whose answer was cut off for want of room.",
           column=Column(13, "truncated", 9), gauge="al_ray_truncated"),
    Metric("signals/NAME", "", "Mean of each other signal over the trained calls."),
    Metric("air/NAME", "reward", "What each signal was worth to a rollout, on average."),
    Metric("air/reward", "reward", "Mean intermediate reward of a rollout."),
    Metric("air/limited", "share", "Rollouts whose intermediate reward was cut by the limit."),
    Metric("critic/loss", "", "Mean squared error of the critic's values before it learnt."),
    Metric("critic/explained_variance", "", "Share of the returns' variance that they explain."),
    Metric("demonstration/too_long", "tasks", "Demonstrations left out: longer than `model.max_length`."),
)
"""What a step learns from: rollouts, or demonstrations."""

FURTHER: Final[Sequence[Metric]] = (
    Metric("imitation/rollouts", "rollouts", "Rollouts that are imitated: the best of their groups."),
    Metric("imitation/groups", "groups", "Groups of which one is; 0 makes an empty step."),
    Metric("imitation/reward", "reward", "Mean reward of those rollouts."),
    Metric("teacher/kl", "nats", "Mean log-probability of a trained token, the policy's less the teacher's.",
           gauge="al_ray_teacher_kl"),
    Metric("judge/groups", "groups", "Groups that `agent.judge` was asked to reward."),
    Metric("judge/failed", "groups", "Those of them on which it failed: they are left out."),
    Metric("rollout/ahead", "share", "Rollouts that had ended before their step began (`staleness`)."),
    Metric("rollout/recorded", "share", "Groups that were there before the step asked for them: of a step "
           "that is repeated, whose time is not that of others."),
    Metric("curriculum/tried", "share", "Training tasks that were tried before the step."),
    Metric("curriculum/always_solved", "share", "Training tasks whose last rollouts all solved them."),
    Metric("curriculum/never_solved", "share", "Training tasks that were tried, and not solved lately."),
    Metric("reward/source/NAME", "reward", "Mean reward of the rollouts of each source of tasks."),
    Metric("rollout/source/NAME", "rollouts", "Rollouts of each source of tasks."),
    Metric("eval/rewards/NAME", "", "Mean of another metric whose `eval/NAME` is taken: `failed`, say."),
    Metric("eval/source/NAME", "reward", "Mean reward of the held-out tasks of each source."),
)
"""What a step tells beside that, by its kind of stage and by what the recipe asks for."""

LEARNERS: Final[Sequence[Metric]] = (
    Metric("optim/loss", "", "Loss of an optimizer step: a weighted sum over its tokens, on average.",
           column=Column(2, "loss", 9), gauge="al_ray_loss"),
    Metric("optim/lr", "", "Learning rate."),
    Metric("optim/grad_norm", "", "Gradient norm before clipping, on average over optimizer steps.",
           column=Column(11, "grad norm", 9), gauge="al_ray_grad_norm"),
    Metric("optim/steps", "", "Optimizer steps of the update that moved the weights."),
    Metric("optim/steps_refused", "", "Optimizer steps whose gradient was not finite: they moved nothing.",
           gauge="al_ray_steps_refused"),
    Metric("optim/steps_empty", "", "Optimizer steps in which no token had a gradient: they moved nothing.",
           gauge="al_ray_steps_empty"),
    Metric("policy/entropy", "nats", 
           "Mean entropy of what predicts the trained tokens, in rows that have a gradient.",
           column=Column(10, "entropy", 8), gauge="al_ray_entropy"),
    Metric("policy/kl", "nats", "Mean estimate of the KL to the stage's reference, where it has one."),
    Metric("policy/clip_frac", "share", "Trained tokens whose loss is clipped."),
    Metric("policy/ratio_mean", "", "Mean probability ratio of trained tokens: learner to sampler."),
    Metric("policy/ratio_max", "", "The largest of these ratios."),
    Metric("off_policy/mismatch_kl", "nats", 
           "Mean k3 estimate of the KL from the sampler to the learner, 0 for tokens that a grammar held, in "
           "rows that have a gradient.",
           column=Column(14, "mismatch", 8), gauge="al_ray_mismatch_kl"),
    Metric("off_policy/certain", "share", "Trained tokens that the sampler could not have drawn otherwise."),
    Metric("off_policy/constrained", "share", "Trained tokens that a grammar held: a format or a tool was "
           "demanded."),
    Metric("off_policy/constrained_kl", "nats", "Mean KL from the sampler to the learner that grammars make: "
           "what they left of the policy's probability, as -log; 0 for other tokens."),
    Metric("off_policy/correction_mean", "", "Mean weight that corrects for the sampler, where one does."),
    Metric("learner/rows", "rows", "Rows of the batch."),
    Metric("learner/rows_without_advantage", "rows", "Rows without a gradient: not computed."),
    Metric("learner/micro_batches", "micro-batches", "Forward and backward passes of the update."),
    Metric("learner/trained_tokens", "tokens", "Tokens that were trained, in every epoch."),
    Metric("learner/computed_tokens", "tokens", "Tokens that were computed, context included."),
    Metric("learner/shared_tokens", "tokens", "Tokens that were not computed again: rows begin alike."),
    Metric("learner/peak_gib", "GiB", "Memory that the first learner has held at most, since it began."),
    Metric("learner/estimated_gib", "GiB", "What the start of the run reckoned for that; 0 if it could not."),
)
"""The update, as the learners report it: means are over trained tokens, those of rows with a gradient."""

POLICIES: Final[Sequence[Metric]] = (
    Metric("rollout/calls/NAME", "calls", "Mean calls of a rollout that the policy answered."),
    Metric("optim/loss/NAME", "", "Loss of the policy's optimizer steps, on average."),
    Metric("optim/grad_norm/NAME", "", "Norm of the policy's gradient before clipping, on average."),
    Metric("policy/entropy/NAME", "nats", "Mean entropy over the policy's trained tokens."),
    Metric("learner/rows/NAME", "rows", "Rows that the policy learns from."),
    Metric("learner/trained_tokens/NAME", "tokens", "The policy's trained tokens, in every epoch."),
    Metric("demonstration/of_others", "tasks", "Demonstrations left out: of agents whose policy is frozen."),
    Metric("health/idle_policies", "share", "Policies that answered no call.",
           gauge="al_ray_idle_policies"),
)
"""Where a recipe has several policies, of each by its name; the keys without a name are of all together."""

HEALTH: Final[Sequence[Metric]] = (
    Metric("health/failed", "share", "Rollouts of the batch that failed.", gauge="al_ray_failed"),
    Metric("health/without_calls", "share", "Rollouts of the batch in which the model answered no call.",
           column=Column(15, "no call", 7), gauge="al_ray_without_calls"),
    Metric("health/equal_groups", "share",
           "Groups, of those compared, in which no rollout is better than another.",
           column=Column(6, "equal", 6), gauge="al_ray_equal_groups"),
    Metric("health/dropped_groups", "share", "Groups left out: fewer than two rollouts to compare.",
           gauge="al_ray_dropped_groups"),
    Metric("health/too_long", "share", "Demonstrations left out: longer than `model.max_length`.",
           gauge="al_ray_too_long"),
    Metric("health/branches", "share", "Calls that opened a branch, of those that continue a conversation.",
           column=Column(16, "branches", 8), gauge="al_ray_branches"),
    Metric("health/entropy_fall", "share", "The fall of `rollout/surprise` since the stage's first step.",
           gauge="al_ray_entropy_fall"),
    Metric("health/wasted_tokens", "share", "Sampled tokens of rollouts that gave no gradient.",
           column=Column(17, "wasted", 6), gauge="al_ray_wasted_tokens"),
    Metric("health/steps_refused", "share", "Optimizer steps of the update whose gradient was not finite.",
           gauge="al_ray_refused"),
)
"""What a warning may be about, beside truncation and mismatch; the recipe's ``health`` has the limits."""

STEP: Final[Sequence[Metric]] = (
    Metric("stage", "", "Index of the stage, from 0."),
    Metric("policy/version", "", "Weight updates since the run began.", gauge="al_ray_policy_version"),
    Metric("perf/generated_tokens_per_s", "tokens/s",
           "Sampled tokens over the time of the rollouts; with staleness, over that of the step. Not of "
           "a step with recorded rollouts.",
           column=Column(8, "gen tok/s", 9), gauge="al_ray_generated_tokens_per_s"),
    Metric("perf/trained_tokens_per_s", "tokens/s", "Computed tokens over the time of the update.",
           column=Column(9, "train tok/s", 11), gauge="al_ray_trained_tokens_per_s"),
)
"""The step as a whole."""

TIME: Final = "time/"
TIMES: Final[Sequence[Metric]] = (
    Metric("time/weights", "s", "Until the engines had the learners' weights."),
    Metric("time/rollouts", "s", "Until all rollouts had ended, or the demonstrations were tokenised."),
    Metric("time/update", "s", "The learners' update."),
    Metric("time/step", "s", "The whole step: weights, rollouts and update.", column=Column(3, "seconds", 7)),
    Metric("time/checkpoint", "s", "Writing a checkpoint, where one was due."),
    Metric("time/evaluation", "s", "An evaluation."),
)
"""What each phase took. Ray has one gauge for all, told apart by its tag ``phase``."""
# fmt: on

METRICS: Final[Sequence[Metric]] = (
    *EVALUATION,
    *BATCH,
    *FURTHER,
    *LEARNERS,
    *POLICIES,
    *HEALTH,
    *STEP,
    *TIMES,
)
