"""Writes ``docs/metrics.md`` from ``al_ray.reports.names``: every metric, its meaning, where it is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from al_ray.reports.names import BATCH, EVALUATION, FURTHER, HEALTH, LEARNERS, POLICIES, STEP, TIMES, Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
HEAD = """# Metrics

A run logs a line a step, and one an evaluation, to `metrics.jsonl` in its folder; to W&B by the same keys
if the recipe asks for it; and what has a name in the column *Ray* to Ray's metrics, as gauges and counters
(`_total`) tagged with the names of `recipe` and `run`, beside `al_ray_step`. Prometheus sees them with
`ray_` in front; `deploy/grafana.json` is a dashboard of all of them for the Grafana that reads it, where
recipes and runs are chosen (`tools/grafana_dashboard.py` writes it). The column *terminal* is the title in
the console's table.

A line of `metrics.jsonl` has `step`, the steps done over all stages, and `time`, when it was written
(seconds since 1970). A step has the keys that mean something in its stage. A key that ends in capitals
stands for one key of each name. Written by `python tools/metrics_reference.py` from
`al_ray/reports/names.py`.
"""
SECTIONS = (
    ("An evaluation", "What it found on the held-out tasks ([evaluation.md](evaluation.md)).", EVALUATION),
    (
        "What a step learns from",
        "Means are of the rollouts that are learnt from, counts of all. What becomes of calls and rewards:\n"
        "[architecture.md](architecture.md); signals and their worth: [agents.md](agents.md).",
        BATCH,
    ),
    ("What a step learns from, by its stage", "Where the recipe has such a stage, or asks for it.", FURTHER),
    (
        "The update",
        "As the learners report it. Means are over trained tokens: of rows with a gradient.",
        LEARNERS,
    ),
    (
        "Several policies",
        "Where the recipe has `policies` ([policies.md](policies.md)): of each by its name. Keys without a\n"
        "name are of all of them together.",
        POLICIES,
    ),
    (
        "Health",
        "What a run warns of beyond the limits of its recipe's `health` ([recipes.md](recipes.md#health)),\n"
        "beside `signals/truncated` and `off_policy/mismatch_kl`. That all rollouts\n"
        "failed, or that the model answered none, ends the run with exit code 1 and the commonest error.",
        HEALTH,
    ),
    ("The step", "", STEP),
    ("Time", 'In Ray, `al_ray_phase_seconds` with the tag `phase`, such as `phase="update"`.', TIMES),
)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for section in SECTIONS for line in _section(*section))])


def _section(title: str, text: str, metrics: Sequence[Metric]) -> Iterator[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| key | unit | meaning | terminal | Ray |\n|---|---|---|---|---|"
    for metric in metrics:
        title = "" if metric.column is None else metric.column.title
        name = metric.gauge or metric.counter
        exported = f"`{name}`" if name else ""
        yield f"| `{metric.key}` | {metric.unit} | {metric.meaning} | {title} | {exported} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
