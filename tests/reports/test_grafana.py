"""The dashboard shows what Ray exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from al_ray.reports.names import METRICS

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana.json"


def test_every_exported_metric_has_a_panel_by_recipe_and_run() -> None:
    """And no panel draws what nobody exports. Panels lie beside each other, none upon another."""
    content = json.loads(DASHBOARD.read_bytes())
    drawn = [panel for panel in content["panels"] if panel["type"] == "timeseries"]
    queries = [target["expr"] for panel in drawn for target in panel["targets"]]
    shown = [re.fullmatch(r'ray_(\w+)\{recipe=~"\$recipe", run=~"\$run"\}', query) for query in queries]
    names = {name for metric in METRICS for name in (metric.gauge, metric.counter) if name}
    assert {found[1] for found in shown if found} == names | {"al_ray_step", "al_ray_phase_seconds"}
    assert all(shown) and len(queries) == len(names) + 2
    places = [panel["gridPos"] for panel in content["panels"]]
    cells = {
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    }
    assert len(cells) == sum(at["w"] * at["h"] for at in places)
    assert [each["name"] for each in content["templating"]["list"]] == ["source", "recipe", "run"]
