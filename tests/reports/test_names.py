"""The table of metrics."""

from __future__ import annotations

import re

from al_ray.reports.names import METRICS, TIME, TIMES
from tests.support.runs.metric_keys import missing, unlisted


def test_a_metric_has_one_line_and_one_place() -> None:
    keys = [metric.key for metric in METRICS]
    exported = [name for metric in METRICS for name in (metric.gauge, metric.counter) if name]
    columns = [metric.column for metric in METRICS if metric.column is not None]
    for names in (keys, exported, [column.title for column in columns]):
        assert sorted(names) == sorted(set(names))
    assert sorted(column.place for column in columns) == list(range(1, len(columns) + 1))
    assert all(len(column.title) <= column.width for column in columns)
    assert all(metric.key.startswith(TIME) for metric in TIMES)


def test_a_meaning_is_a_sentence_that_can_stand_in_a_table() -> None:
    assert [metric.key for metric in METRICS if not re.fullmatch(r"[A-Z1][^|\n]*\.", metric.meaning)] == []


def test_what_is_drawn_with_an_error_has_that_error_logged() -> None:
    assert unlisted(metric.panel.error for metric in METRICS if metric.panel and metric.panel.error) == []


def test_ray_metrics_have_names_that_prometheus_takes_and_a_dashboard_knows() -> None:
    """Ray discards a metric of another name with no more than a warning."""
    gauges = {metric.gauge for metric in METRICS if metric.gauge}
    counters = {metric.counter for metric in METRICS if metric.counter}
    assert all(re.fullmatch(r"al_ray_[a-z_]+", name) for name in gauges | counters)
    assert all(name.endswith("_total") for name in counters)
    since_the_first_version = {"al_ray_reward_mean", "al_ray_loss", "al_ray_policy_version"}
    assert since_the_first_version <= gauges


def test_a_family_stands_for_every_name_of_its_own_and_for_no_other_key() -> None:
    assert unlisted(["rewards/f1", "eval/pass@2", "rollout/attempts_timed_out", "reward/mean"]) == []
    unknown = ["rewards/", "rollout/attempts", "rollout/counted", "x"]
    assert unlisted(unknown) == unknown
    assert missing(TIMES, ["time/step", "time/other"]) == {metric.key for metric in TIMES} - {"time/step"}
