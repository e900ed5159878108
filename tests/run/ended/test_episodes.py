"""Rollouts are exported as episodes that RLlib reads and trains on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from al_ray.database.backends import sqlite_url
from al_ray.database.writer import Database
from al_ray.errors import UserError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.exporting.steps import COLUMNS, Did
from al_ray.rollouts.exporting.tables import Export
from al_ray.rollouts.reading.search import Search
from al_ray.run.ended.episodes import export_episodes
from tests.support.runs.recorded import record


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Export]:
    """Of ten rollouts, one waits and three failed without a reward."""
    database = Database(sqlite_url(tmp_path / "store.sqlite"))
    record(database, 0, 9)
    yield Export(database, Search(), TransitionsSection())
    database.close()


def _offline(file: Path) -> Any:
    """RLlib's configuration, which looks for the file's episodes."""
    from gymnasium.spaces import Box, Discrete
    from ray.rllib.algorithms.marwil import MARWILConfig

    config = MARWILConfig().environment(
        observation_space=Box(-float("inf"), float("inf"), (len(COLUMNS),)), action_space=Discrete(len(Did))
    )
    return config.offline_data(input_=[str(file)], input_read_episodes=True, dataset_num_iters_per_learner=1)


def test_rllib_reads_every_episode_as_it_was_recorded(source: Export, tmp_path: Path) -> None:
    """By the class that its offline data gives rows to, which makes a batch to learn from of them."""
    file = tmp_path / "x.parquet"
    config = _offline(file)
    from ray.rllib.offline.offline_prelearner import OfflinePreLearner

    assert export_episodes(source, None, file) == 6
    config.training(train_batch_size_per_learner=6)
    config.rl_module(rl_module_spec=config.get_multi_rl_module_spec())
    reader = OfflinePreLearner(config=config, spaces=(config.observation_space, config.action_space))
    batch = reader({"item": pq.read_table(file)["item"].to_pylist()})
    episodes = {episode.id_: episode for episode in reader.episode_buffer.episodes}
    assert sorted(episodes) == ["r0", "r1", "r3", "r4", "r6", "r7"]
    assert {name: episode.get_return() for name, episode in episodes.items()} == pytest.approx(
        {name: int(name[1:]) / 10 for name in episodes}
    )
    assert episodes["r0"].get_actions(0) == Did.CUT_SHORT and episodes["r1"].get_actions(0) == Did.ANSWERED
    assert episodes["r3"].custom_data["group"] == "g3" and episodes["r3"].is_terminated
    assert batch
    print(batch.keys(), {k: getattr(v, "shape", None) for k, v in batch.items()})


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("jsonl", "x.parquet", "--format: 'jsonl': episodes are written as parquet"),
        (None, "x.jsonl", "x.jsonl': RLlib reads only files that end with .parquet"),
        (None, "no/x.parquet", "there is no folder"),
    ],
)
def test_mistakes_are_told(
    source: Export, tmp_path: Path, format: str | None, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_episodes(source, format, tmp_path / name)


def test_without_rllib_the_cure_is_told_and_nothing_written(
    source: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium.spaces", None)
    with pytest.raises(UserError, match=r"is not installed .*: pip install 'al_ray\[rllib\]'"):
        export_episodes(source, None, tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()
