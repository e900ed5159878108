"""``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from al_ray.errors import DiskError, UserError
from al_ray.reports.jsonl_sink import JsonlSink, read
from tests.support.machines.processes import files_up_to


def test_a_call_is_a_line_that_any_json_reader_reads_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, None)
    sink.log(1, {"reward/mean": np.float64(0.5), "rollout/count": 64, "optim/loss": math.nan})
    sink.log(1, {"eval/accuracy": 0.25})
    first, second = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first.pop("time") > 1.7e9
    assert first == {"step": 1, "reward/mean": 0.5, "rollout/count": 64, "optim/loss": None}
    assert second["eval/accuracy"] == 0.25
    sink.close(True)


def test_a_resumed_run_drops_what_lies_after_its_checkpoint_and_a_line_cut_off(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, None)
    for step in range(6):
        sink.log(step, {"reward/mean": float(step)})
    sink.close(False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    resumed = JsonlSink(tmp_path, 3)
    resumed.log(4, {"reward/mean": 40.0})
    resumed.close(True)
    rewards = [(line["step"], line["reward/mean"]) for line in read(tmp_path)]
    assert rewards == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_disk_that_takes_no_more_is_told_and_what_is_cut_off_is_dropped_by_the_next(tmp_path: Path) -> None:
    """With the file and the room that is left."""
    sink = JsonlSink(tmp_path, None)
    sink.log(1, {"reward/mean": 1.0})
    told = r"metrics.jsonl: step 2 .*too large \(\d+\.\d\d GiB are free"
    with files_up_to((tmp_path / "metrics.jsonl").stat().st_size + 9), pytest.raises(DiskError, match=told):
        sink.log(2, {"reward/mean": 2.0})
    sink.close(False)
    assert [line["step"] for line in read(tmp_path)] == [1]
    resumed = JsonlSink(tmp_path, 1)
    resumed.log(2, {"reward/mean": 3.0})
    resumed.close(True)
    assert [line["reward/mean"] for line in read(tmp_path)] == [1.0, 3.0]


def test_a_run_that_a_full_disk_keeps_from_going_on_has_all_its_lines(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, None)
    for step in (1, 2):
        sink.log(step, {"a": 1.0})
    sink.close(False)
    with (
        files_up_to(9),
        pytest.raises(DiskError, match=r"metrics.jsonl: it could not be written: .*too large"),
    ):
        JsonlSink(tmp_path, 1)
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def test_lines_after_one_that_the_disk_took_a_part_of_are_whole(tmp_path: Path) -> None:
    """A checkpoint's, for a node that is to go, is only warned of: the run goes on."""
    sink = JsonlSink(tmp_path, None)
    sink.log(1, {"a": 1.0})
    with files_up_to((tmp_path / "metrics.jsonl").stat().st_size + 9):
        for _ in range(2):
            with pytest.raises(DiskError):
                sink.log(1, {"time/checkpoint": 1.5})
    sink.log(2, {"a": 2.0})
    assert [(line["step"], line["a"]) for line in read(tmp_path)] == [(1, 1), (2, 2)]
    sink.close(ok=True)


def test_a_run_that_has_logged_nothing_has_no_lines(tmp_path: Path) -> None:
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "'': no line of metrics: Input is a zero-length"),
        ("\0\0\0", "unexpected character"),
        ('{"step": 2, "rew', "unexpected end of data"),
        ("[1]", "it has no number"),
        ('{"reward/mean": 1.0}', "it has no number"),
        ('{"step": "two"}', 'its "step" is no number; mend or remove it'),
        ('{"step": 2, "time": null}', 'its "time" is no number'),
        ('{"step": 2, "time": 1.0, "reward/mean": "0.5"}', 'its "reward/mean" is no number'),
        ("x" * 300, f"'{'x' * 80}': no line of metrics"),
    ],
)
def test_a_line_that_is_none_of_metrics_is_told_by_its_number(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/metrics.jsonl, line 2: ") and told in str(caught.value)


def test_what_is_going_to_be_logged_again_is_dropped_from_a_sink_that_goes_on(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path, None)
    for step in range(4):
        sink.log(step, {"a": 1.0})
    sink.rewind(1)
    sink.log(2, {"a": 2.0})
    sink.close(ok=True)
    assert [(line["step"], line["a"]) for line in read(tmp_path)] == [(0, 1), (1, 1), (2, 2)]
