"""Weights & Biases, offline: what it writes is read back from its own files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from al_ray.errors import UserError
from al_ray.recipe import Recipe
from al_ray.reports.sinks import open_sinks
from al_ray.traces import semconv
from al_ray.types import Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task


def _recipe(mode: str = "offline") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "calc_x",
            "model": {"path": "m"},
            "data": {"load": "envs.calc:load"},
            "agent": {"run": "envs.calc:agent"},
            "stages": [{"algorithm": "grpo", "steps": 1, "optimizer": {"learning_rate": 1e-5}}],
            "wandb": {"enabled": True, "mode": mode},
            "traces": {"export": {"endpoint": "http://c:4318", "headers": {"authorization": "hush"}}},
        }
    )


def _rollout(index: int) -> Rollout:
    attributes = {
        semconv.INPUT_MESSAGES: [{"role": "user", "content": "2 + 3?"}],
        semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": "5"}],
    }
    spans = [
        Span("c", f"r/{index}", 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes, 0),
        Span("s", f"r/{index}", 1, SpanKind.REWARD, "reward", 1.0, 1.0, {semconv.REWARD: 1.0}, 1),
    ]
    request = RolloutRequest(f"r/{index}", "b", "r", Task("t", {"question": "2 + 3?"}))
    return Rollout(request, RolloutStatus.SUCCEEDED, (), spans)


def _records(folder: Path) -> list[list[Record]]:
    """The records of each of the runs that W&B has written in ``folder``, oldest first.

    W&B's service process writes some of them only after ``finish`` has returned, but before it ends.
    """
    wandb.teardown()
    logs = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [[Record.FromString(data) for data in _leveldb_log(path.read_bytes())] for path in logs]


def _leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, after the 7 bytes of W&B's own header:
    blocks of 32 KiB of pieces ``crc (4), length (2), type (1: whole, 2: first, 3: middle, 4: last)``.
    """
    position, record = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def _history(records: list[Record]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("offline")
def test_offline_it_logs_by_step_and_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    metrics = open_sinks("20260101", tmp_path, _recipe(), None)
    metrics.log(1, {"reward/mean": 0.5})
    metrics.log_rollouts(1, [_rollout(index) for index in range(20)])
    metrics.close(True)
    resumed = open_sinks("20260101", tmp_path, _recipe(), 1)
    resumed.log(2, {"reward/mean": 0.75})
    resumed.close(True)

    first, second = _records(tmp_path)
    assert not any("hush" in str(record) for record in first + second)
    ids = {record.run.run_id for record in first + second if record.WhichOneof("record_type") == "run"}
    assert len(ids) == 1
    assert any(record.metric.glob_name == "*" and record.metric.step_metric == "step" for record in first)
    assert {"step": 1, "reward/mean": 0.5}.items() <= _history(first)[0].items()
    assert {"step": 2, "reward/mean": 0.75}.items() <= _history(second)[0].items()
    (table,) = tmp_path.rglob("*.table.json")
    rows = json.loads(table.read_text())["data"]
    assert len(rows) == 8
    conversation = "[user]\n2 + 3?\n\n[assistant]\n5"
    assert rows[0] == [1, "r/0", "succeeded", 1.0, 1, '{"question":"2 + 3?"}', conversation]


@pytest.mark.usefixtures("offline")
def test_the_environment_wins_over_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    metrics = open_sinks("20260101", tmp_path, _recipe("online"), None)
    metrics.log(1, {"reward/mean": 0.5})
    metrics.log_rollouts(1, [_rollout(0)])
    metrics.close(True)
    assert _records(tmp_path) == []


@pytest.mark.usefixtures("offline")
def test_a_start_that_fails_is_the_users_mistake_with_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sideways")
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        open_sinks("20260101", tmp_path, _recipe(), None)
