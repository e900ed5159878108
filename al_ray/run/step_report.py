"""The names under which a step and an evaluation are logged, and what the console shows of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from al_ray.evaluation.evaluate import Evaluation
from al_ray.recipe.schedule import StageSpan
from al_ray.reports.console import StepRow
from al_ray.run.stages.batch import Batch
from al_ray.types import UpdateReport

_LEARNER_KEYS = {
    "loss": "optim/loss",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "steps_refused": "optim/steps_refused",
    "entropy": "policy/entropy",
    "kl": "policy/kl",
    "clip_frac": "policy/clip_frac",
    "ratio": "policy/ratio_mean",
    "ratio_max": "policy/ratio_max",
    "kl_sampler": "off_policy/mismatch_kl",
    "tokens": "learner/trained_tokens",
    "tokens_computed": "learner/computed_tokens",
    "tokens_shared": "learner/shared_tokens",
}
"""From the learner's names to the logged ones."""


def step_values(
    span: StageSpan, batch: Batch, report: UpdateReport, times: Mapping[str, float]
) -> dict[str, float]:
    """Everything that is logged of a step."""
    learnt = {_LEARNER_KEYS[name]: value for name, value in report.metrics.items() if name in _LEARNER_KEYS}
    values = {
        "stage": float(span.index),
        "policy/version": float(report.policy_version),
        **batch.metrics,
        **learnt,
        **{f"time/{phase}": seconds for phase, seconds in times.items()},
    }
    if report.metrics.get("tokens_computed"):
        values["perf/trained_tokens_per_s"] = report.metrics["tokens_computed"] / times["update"]
    if "rollout/count" in batch.metrics:
        generated = batch.metrics["rollout/response_tokens"] * batch.metrics["rollout/count"]
        values["perf/generated_tokens_per_s"] = generated / times["rollouts"]
    return values


def step_row(span: StageSpan, step: int, total: int, values: Mapping[str, float]) -> StepRow:
    """The line of the console's table."""
    return StepRow(
        stage=span.stage.algorithm,
        step=step,
        total=total,
        loss=values.get("optim/loss"),
        reward=values.get("reward/mean"),
        rollouts=int(values.get("rollout/count", 0)),
        failed=int(values.get("rollout/failed", 0)),
        response_tokens=values.get("rollout/response_tokens"),
        entropy=values.get("policy/entropy"),
        grad_norm=values.get("optim/grad_norm"),
        staleness=values.get("off_policy/staleness_max"),
        generated_tokens_per_s=values.get("perf/generated_tokens_per_s"),
        trained_tokens_per_s=values.get("perf/trained_tokens_per_s"),
        seconds=values["time/step"],
    )


def evaluation_values(found: Evaluation, seconds: float) -> dict[str, float]:
    """What is logged of an evaluation: every metric by its name, the primary as the accuracy."""
    named = {f"eval/{name}": each.value for name, each in found.scores.items() if name != found.primary}
    primary = found.scores.get(found.primary)
    return {
        **named,
        "eval/accuracy": primary.value if primary else math.nan,
        "eval/stderr": primary.stderr if primary else math.nan,
        "eval/tasks": primary.tasks if primary else 0,
        "eval/failed": sum(found.failed.values()),
        "time/evaluation": seconds,
    }
