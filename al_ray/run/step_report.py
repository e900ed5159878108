"""What is logged of a step and of an evaluation, by the keys of ``al_ray.reports.names``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from al_ray.data.mixture import SOURCE
from al_ray.evaluation.evaluate import Evaluation
from al_ray.recipe.schedule import Admission, StageSpan
from al_ray.reports.names import EVALUATION, TIME
from al_ray.run.stages.batch import Batch
from al_ray.types import UpdateReport

_OF_EVALUATIONS: Final = {metric.key for metric in EVALUATION}


def step_values(
    span: StageSpan, batch: Batch, report: UpdateReport, times: Mapping[str, float]
) -> dict[str, float]:
    """Everything that is logged of a step; ``times`` are seconds by phase."""
    values = {
        "stage": float(span.index),
        "policy/version": float(report.policy_version),
        **batch.metrics,
        **report.metrics,
        **{TIME + phase: seconds for phase, seconds in times.items()},
    }
    if report.metrics.get("learner/computed_tokens"):
        values["perf/trained_tokens_per_s"] = report.metrics["learner/computed_tokens"] / times["update"]
    if "rollout/sampled_tokens" in batch.metrics and not batch.metrics.get("rollout/recorded"):
        # What was asked for ahead was sampled while learners worked too.
        seconds = times["step" if Admission(span).staleness else "rollouts"]
        values["perf/generated_tokens_per_s"] = batch.metrics["rollout/sampled_tokens"] / seconds
    return values


def evaluation_values(
    found: Evaluation, seconds: float, before: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What is logged of an evaluation: every metric by its name, the primary as the accuracy, and what was
    gained since the one before, whose tasks' means are given."""
    named = {_key(name): each.value for name, each in found.scores.items() if name != found.primary}
    primary = found.scores.get(found.primary)
    sources = found.by.get(SOURCE, {})
    gain = None if before is None else found.gain(before)
    return {
        **named,
        **{
            f"eval/source/{name}": part[found.primary].value
            for name, part in sources.items()
            if found.primary in part
        },
        "eval/accuracy": primary.value if primary else math.nan,
        "eval/stderr": primary.stderr if primary else math.nan,
        "eval/tasks": primary.tasks if primary else 0,
        **({"eval/gain": gain.value, "eval/gain_low": gain.low, "eval/gain_high": gain.high} if gain else {}),
        "eval/failed": sum(found.failed.values()),
        "eval/without_calls": sum(not outcome.called for outcome in found.outcomes),
        "eval/truncated": found.health["signals/truncated"],
        "time/evaluation": seconds,
    }


def _key(name: str) -> str:
    """Of a metric of the evaluator's, which may be called as what every evaluation tells of itself."""
    key = f"eval/{name}"
    return f"eval/rewards/{name}" if key in _OF_EVALUATIONS else key
