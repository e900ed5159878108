"""Ray's own metrics: what a dashboard shows of a run while it runs, tagged with the names of recipe and run.
``tools/grafana_dashboard.py`` draws them all.

Names follow Prometheus (no slashes); Ray exports ``al_ray_step`` as ``ray_al_ray_step``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, Gauge

from al_ray.reports import names
from al_ray.types import Rollout


class RaySink:
    """Gauges start at 0, so that a dashboard has its lines before the first step; Ray refuses to
    raise a counter by 0, so a counter appears with its first rollout."""

    def __init__(self, recipe_name: str, run_name: str) -> None:
        self._tags = {"recipe": recipe_name, "run": run_name}
        tags = tuple(self._tags)
        self._step = Gauge("al_ray_step", "Global steps done", tags)
        self._gauges = {m.key: Gauge(m.gauge, m.meaning, tags) for m in names.METRICS if m.gauge}
        self._counters = {m.key: Counter(m.counter, m.meaning, tags) for m in names.METRICS if m.counter}
        self._seconds = Gauge("al_ray_phase_seconds", "Seconds that a phase last took", (*tags, "phase"))
        self._phases = {m.key: m.key.removeprefix(names.TIME) for m in names.TIMES}
        self._counted = 0
        """The last step that counters hold."""
        self.log(0, dict.fromkeys((*self._gauges, *self._phases), 0.0))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step.set(step, self._tags)
        is_new = step > self._counted
        for key, value in values.items():
            if key in self._gauges:
                self._gauges[key].set(float(value), self._tags)
            elif key in self._counters:
                self._counted = max(self._counted, step)
                if is_new and value > 0:
                    self._counters[key].inc(float(value), self._tags)
            elif key in self._phases:
                self._seconds.set(float(value), {**self._tags, "phase": self._phases[key]})

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Nothing: metrics are numbers."""

    def rewind(self, step: int) -> None:
        """Nothing: gauges show the last step alone, and counters take each step once."""

    def close(self, ok: bool) -> None:
        """Nothing: Ray drops a process's metrics when it ends."""
