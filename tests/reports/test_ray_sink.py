"""Ray's metrics, read where Prometheus would read them."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest
import ray

from al_ray.reports.ray_sink import RaySink


@pytest.fixture(scope="module")
def port(ray_cluster: None) -> int:
    """Where the node of a local Ray exports its metrics."""
    return int(ray.nodes()[0]["MetricsExportPort"])


def _exported(port: int) -> dict[str, float]:
    """Our samples by ``name{recipe, run, phase}``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    samples = {}
    for name, tags, value in re.findall(r"^ray_(al_ray_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        kept = [
            found for tag in ("recipe", "run", "phase") for found in re.findall(rf'\b{tag}="(.*?)"', tags)
        ]
        samples[f"{name}{{{', '.join(kept)}}}"] = float(value)
    return samples


@pytest.mark.slow
def test_what_is_logged_is_exported_with_the_names_of_recipe_and_run(port: int) -> None:
    """A step that is repeated, as a learner was lost, is counted once."""
    sink = RaySink("toy", "run-1")
    sink.log(
        3, {"reward/mean": 0.5, "rollout/count": 60.0, "rollout/failed": 0.0, "time/update": 1.5, "x": 1.0}
    )
    for _ in range(2):
        sink.log(4, {"eval/accuracy": 0.25})
        sink.log(4, {"rollout/count": 4.0})
        sink.rewind(3)
    expected = {
        "al_ray_step{toy, run-1}": 4.0,
        "al_ray_reward_mean{toy, run-1}": 0.5,
        "al_ray_rollouts_total{toy, run-1}": 64.0,
        "al_ray_phase_seconds{toy, run-1, update}": 1.5,
        "al_ray_phase_seconds{toy, run-1, rollouts}": 0.0,
        "al_ray_loss{toy, run-1}": 0.0,
    }
    deadline = time.monotonic() + 60
    while not expected.items() <= (found := _exported(port)).items():
        assert time.monotonic() < deadline, found
        time.sleep(1)
