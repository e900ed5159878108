"""What RLlib's MARWIL expects of the calls of held-out rollouts, beside what they earned.

    al-ray export RUN -o episodes.parquet --what episodes
    python -m benchmarks.learning.rllib_baseline episodes.parquet --iterations 200

Needs the extra ``rllib``. Every fifth group is held out. Of each of their calls, what it and the calls after
it earned, undiscounted, is compared with what these expect:

    marwil  the value function of RLlib's MARWIL (arXiv 1806.08055, section 3), trained by its offline data on
            the other groups; it sees the columns of ``rollouts.exporting.steps`` alone, none of which is text
    critic  the network of al_ray's critic of ``gae`` on those columns, where it has a model's state in a run
    group   the mean return of the other rollouts of the call's own group, which neither of the two sees

One line of JSON for each: the correlation with the returns over the held-out calls, and the share of their
variance that is explained, below 0 where the mean would be better. Null where nothing varies.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.algorithms.critic import Critic
from al_ray.recipe import CriticSection
from al_ray.rollouts.exporting.steps import COLUMNS, Did

HELD_OUT: Final = 5
"""Of so many groups, one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("episodes", type=Path)
    parser.add_argument("--iterations", type=int, default=200, help="steps of each, over all calls")
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning, of both")
    asked = parser.parse_args()
    table = pq.read_table(asked.episodes)
    rows = table["item"].to_pylist()
    episodes = [_episode(row) for row in rows]
    groups = sorted({_group(episode) for episode in episodes})
    apart = set(groups[::HELD_OUT])
    if len(groups) < HELD_OUT:
        raise SystemExit(f"{asked.episodes}: {len(groups)} groups; at least {HELD_OUT} are needed")
    held_out = [episode for episode in episodes if _group(episode) in apart]
    learnt = [(row, each) for row, each in zip(rows, episodes, strict=True) if _group(each) not in apart]
    known, earned = _calls(held_out)
    print(json.dumps({"episodes": len(learnt), "held_out": len(held_out), "held_out_calls": len(earned)}))

    start = time.monotonic()
    expected = _marwil([row for row, _ in learnt], known, asked.iterations, asked.rate)
    _tell("marwil", expected, earned, seconds=round(time.monotonic() - start, 1))

    start = time.monotonic()
    critic = Critic(len(COLUMNS), CriticSection(learning_rate=asked.rate, steps=asked.iterations))
    critic.fit(*_calls(episode for _, episode in learnt))
    _tell("critic", critic.values(known), earned, seconds=round(time.monotonic() - start, 1))

    others = _of_others(held_out)
    there = ~np.isnan(others)
    _tell("group", others[there], earned[there])


def _episode(row: bytes) -> Any:
    import msgpack
    import msgpack_numpy
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    return SingleAgentEpisode.from_state(msgpack.unpackb(row, object_hook=msgpack_numpy.decode))


def _group(episode: Any) -> tuple[str, str]:
    return episode.custom_data["batch"], episode.custom_data["group"]


def _calls(episodes: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What is known before each call, ``[calls, columns]``, and what it and those after it earned."""
    known, earned = list[np.ndarray](), list[np.ndarray]()
    for episode in episodes:
        known.append(np.array(episode.get_observations())[:-1])
        earned.append(np.cumsum(np.array(episode.get_rewards())[::-1])[::-1])
    return np.concatenate(known).astype(np.float32), np.concatenate(earned)


def _of_others(episodes: Sequence[Any]) -> np.ndarray:
    """``[calls]``: nan where a rollout is alone in its group."""
    returns = defaultdict[tuple[str, str], list[float]](list)
    for episode in episodes:
        returns[_group(episode)].append(episode.get_return())
    found = list[float]()
    for episode in episodes:
        mine, count = returns[_group(episode)], len(returns[_group(episode)]) - 1
        mean = (sum(mine) - episode.get_return()) / count if count else float("nan")
        found += [mean] * len(episode)
    return np.array(found)


def _marwil(rows: Sequence[bytes], known: np.ndarray, iterations: int, rate: float) -> np.ndarray:
    """What it expects of the held-out calls, ``[calls]``."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or Ray writes a token that later clusters ask for
    import ray
    import torch
    from gymnasium.spaces import Box, Discrete
    from ray.rllib.algorithms.marwil import MARWILConfig
    from ray.rllib.offline.offline_prelearner import OfflinePreLearner

    class WholeEpisodes(OfflinePreLearner):
        """RLlib 2.60 cuts the episodes that it reads into single steps, whose targets are what the untrained
        value function expects of the step after; returns need whole ones."""

        def _postprocess_and_sample(self, episodes: Sequence[Any]) -> Sequence[Any]:
            return [episode.to_numpy() for episode in self._validate_episodes(episodes)]

    @torch.no_grad()
    def expected(learner: Any) -> np.ndarray:
        module = learner.module["default_policy"]
        return module.compute_values({"obs": torch.from_numpy(known)}).numpy()

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "learnt.parquet"
            pq.write_table(pa.table({"item": list(rows)}), file)
            steps = sum(len(_episode(row)) + 1 for row in rows)  # RLlib adds one to each episode
            spaces = Box(-float("inf"), float("inf"), (len(COLUMNS),)), Discrete(len(Did))
            config = (
                MARWILConfig()
                .environment(observation_space=spaces[0], action_space=spaces[1])
                .learners(num_learners=0)
                .offline_data(
                    input_=[str(file)],
                    input_read_episodes=True,
                    input_read_batch_size=len(rows),
                    dataset_num_iters_per_learner=1,
                    prelearner_class=WholeEpisodes,
                    materialize_mapped_data=True,  # returns do not depend on what has been learnt
                    map_batches_kwargs={"concurrency": 1},
                )
                .training(lr=rate, gamma=1.0, beta=1.0, train_batch_size_per_learner=steps)
            )
            algorithm = config.build_algo()
            try:
                for _ in range(iterations):
                    algorithm.train()
                called = algorithm.learner_group.foreach_learner(expected)
                return np.asarray(next(iter(called)).get())
            finally:
                algorithm.stop()
    finally:
        ray.shutdown()


def _tell(name: str, expected: np.ndarray, earned: np.ndarray, **more: float) -> None:
    varies = len(earned) > 1 and bool(earned.std())
    told: dict[str, float | None] = {"correlation": None, "explained_variance": None}
    if varies:
        told["explained_variance"] = round(float(1 - (earned - expected).var() / earned.var()), 3)
    if varies and expected.std():
        told["correlation"] = round(float(np.corrcoef(expected, earned)[0, 1]), 3)
    print(json.dumps({"of": name, **told, **more}), flush=True)


if __name__ == "__main__":
    main()
