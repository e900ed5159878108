"""Ray's own metrics: what a dashboard shows of a run while it runs, tagged with the run's name.

Names follow Prometheus (no slashes); Ray exports ``al_ray_step`` as ``ray_al_ray_step``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ray.util.metrics import Counter, Gauge

from al_ray.types import Rollout

GAUGES: Final = {
    "reward/mean": ("al_ray_reward_mean", "Mean reward of the last batch of rollouts"),
    "rollout/response_tokens": ("al_ray_response_tokens", "Mean response tokens of a rollout, last batch"),
    "off_policy/staleness_mean": ("al_ray_staleness_mean", "Mean staleness of the last batch's calls"),
    "policy/version": ("al_ray_policy_version", "Policy version"),
    "optim/loss": ("al_ray_loss", "Loss of the last update"),
    "optim/grad_norm": ("al_ray_grad_norm", "Gradient norm of the last update, before clipping"),
    "eval/accuracy": ("al_ray_eval_accuracy", "Accuracy in the last evaluation"),
    "perf/generated_tokens_per_s": ("al_ray_generated_tokens_per_s", "Tokens generated a second, last batch"),
    "perf/trained_tokens_per_s": ("al_ray_trained_tokens_per_s", "Tokens trained on a second, last update"),
}
COUNTERS: Final = {
    "rollout/count": ("al_ray_rollouts_total", "Rollouts that ended"),
    "rollout/failed": ("al_ray_rollouts_failed_total", "Rollouts that failed"),
}
PHASE_PREFIX: Final = "time/"
PHASES: Final = ("rollouts", "update", "weights", "evaluation", "checkpoint", "step")


class RaySink:
    """Gauges start at 0, so that a dashboard has its lines before the first step; Ray refuses to
    raise a counter by 0, so a counter appears with its first rollout."""

    def __init__(self, run_name: str) -> None:
        self._tags = {"run": run_name}
        self._step = Gauge("al_ray_step", "Global steps done", ("run",))
        self._phases = Gauge("al_ray_phase_seconds", "Seconds that a phase last took", ("run", "phase"))
        self._gauges = {key: Gauge(name, text, ("run",)) for key, (name, text) in GAUGES.items()}
        self._counters = {key: Counter(name, text, ("run",)) for key, (name, text) in COUNTERS.items()}
        self.log(0, dict.fromkeys((*GAUGES, *(PHASE_PREFIX + phase for phase in PHASES)), 0.0))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step.set(step, self._tags)
        for key, value in values.items():
            if key in self._gauges:
                self._gauges[key].set(float(value), self._tags)
            elif key in self._counters and value > 0:
                self._counters[key].inc(float(value), self._tags)
            elif key.startswith(PHASE_PREFIX):
                self._phases.set(float(value), {**self._tags, "phase": key.removeprefix(PHASE_PREFIX)})

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Nothing: metrics are numbers."""

    def close(self, ok: bool) -> None:
        """Nothing: Ray drops a process's metrics when it ends."""
