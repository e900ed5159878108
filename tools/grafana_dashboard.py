"""Writes ``deploy/grafana.json`` from ``al_ray.reports.names``: a dashboard of the metrics that Ray exports
of runs, to be imported into the Grafana that reads Ray's Prometheus."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from al_ray.reports.names import (
    BATCH,
    EVALUATION,
    FURTHER,
    HEALTH,
    LEARNERS,
    POLICIES,
    STEP,
    TIMES,
    Metric,
)

PAGE = Path(__file__).resolve().parent.parent / "deploy" / "grafana.json"
SECTIONS = (
    ("The step", STEP),
    ("Evaluations", EVALUATION),
    ("What a step learns from", (*BATCH, *FURTHER)),
    ("The update", LEARNERS),
    ("Health", (*HEALTH, *POLICIES)),
)
UNITS = {"share": "percentunit", "s": "s"}
"""Of Grafana's; the others are plain numbers."""
CHOSEN = 'recipe=~"$recipe", run=~"$run"'
SOURCE = {"type": "prometheus", "uid": "${source}"}
LEGEND = "{{recipe}} {{run}}"
HEIGHT, WIDTH, COLUMNS = 7, 8, 3


def dashboard() -> dict[str, Any]:
    """In Grafana's schema."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, metrics in SECTIONS:
        drawn = [*_progress(title), *(_panel(each) for each in metrics if each.gauge or each.counter)]
        panels.append(_row(title, top))
        top = _placed(drawn, top + 1)
        panels += drawn
    panels.append(_row("Time", top))
    drawn = [_seconds()]
    _placed(drawn, top + 1)
    panels += drawn
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "al-ray",
        "title": "al_ray: training runs",
        "tags": ["al_ray", "ray"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_source(), _variable("recipe", ""), _variable("run", 'recipe=~"$recipe"')]},
        "panels": panels,
    }


def _progress(title: str) -> Iterator[dict[str, Any]]:
    if title == SECTIONS[0][0]:
        yield _drawn("step", "Global steps done.", f"ray_al_ray_step{{{CHOSEN}}}", "", LEGEND)


def _panel(metric: Metric) -> dict[str, Any]:
    name = metric.gauge or metric.counter
    return _drawn(metric.key, metric.meaning, f"ray_{name}{{{CHOSEN}}}", UNITS.get(metric.unit, ""), LEGEND)


def _seconds() -> dict[str, Any]:
    phases = " ".join(f"{metric.key.partition('/')[2]}: {metric.meaning}" for metric in TIMES)
    return _drawn("time", phases, f"ray_al_ray_phase_seconds{{{CHOSEN}}}", "s", f"{LEGEND} {{{{phase}}}}")


def _drawn(title: str, text: str, query: str, unit: str, legend: str) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit} if unit else {}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": query, "legendFormat": legend}],
    }


def _row(title: str, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": WIDTH * COLUMNS, "x": 0, "y": top}
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}


def _placed(panels: Sequence[dict[str, Any]], top: int) -> int:
    """Gives each its place below ``top``; returns where the next begins."""
    for number, panel in enumerate(panels):
        down, across = divmod(number, COLUMNS)
        panel["gridPos"] = {"h": HEIGHT, "w": WIDTH, "x": across * WIDTH, "y": top + down * HEIGHT}
    return top + -(-len(panels) // COLUMNS) * HEIGHT


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(tag: str, among: str) -> dict[str, Any]:
    """One or several of the values that the tag has."""
    return {
        "name": tag,
        "label": tag,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values(ray_al_ray_step{{{among}}}, {tag})", "refId": "A"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def page() -> str:
    """The whole file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
