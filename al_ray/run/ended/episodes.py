"""A run's rollouts as episodes of RLlib, in a file that its offline data reads with ``input_read_episodes``.

RLlib, which the extra ``rllib`` brings, is imported when episodes are written and by nothing else. A row is
the state of one ``SingleAgentEpisode``, packed as RLlib packs its own, in the column ``item``. An episode is
a rollout, whichever agents made its trained calls: RLlib reads no offline data of several agents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from al_ray.errors import Problem, UnreadableError, UserError
from al_ray.rollouts.exporting.files import write_parquet
from al_ray.rollouts.exporting.row import head
from al_ray.rollouts.exporting.steps import COLUMNS, Did, steps
from al_ray.rollouts.exporting.tables import Export, Row
from al_ray.rollouts.reading.search import matching
from al_ray.rollouts.trajectory import trajectory
from al_ray.types import Rollout

_log = logging.getLogger(__name__)

_SCHEMA: Final = pa.schema({"item": pa.binary()})

_Pack = Callable[[Rollout], bytes | None]


def export_episodes(source: Export, format: str | None, output: Path) -> int:
    """Writes ``output`` and returns its number of episodes: of the rollouts that have ended, were rewarded
    and have a trained call, judges' left out. Raises ``UserError``."""
    if format not in (None, "parquet"):
        raise UserError(Problem("--format", format, "episodes are written as parquet, which RLlib reads"))
    if output.suffix != ".parquet":
        raise UserError(Problem("--output", str(output), "RLlib reads only files that end with .parquet"))
    pack = _packer(source)
    return write_parquet(_rows(source, pack), _SCHEMA, output)


def _rows(source: Export, pack: _Pack) -> Iterator[Row]:
    for rollout in matching(source.records, source.search, with_calls=True):
        if rollout.request.mode == "judge" or not rollout.status.ended:
            continue
        try:
            packed = pack(rollout)
        except UnreadableError as error:
            _log.warning("left out: %s", error)
            continue
        if packed is not None:
            yield {"item": packed}


def _packer(source: Export) -> _Pack:
    """Packs a rollout's episode; None where it has none."""
    try:
        import msgpack
        import msgpack_numpy
        from gymnasium.spaces import Box, Discrete
        from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    except ImportError as error:
        cure = f"RLlib writes them, and is not installed ({error}): pip install 'al_ray[rllib]'"
        raise UserError(Problem("--what", "episodes", cure)) from error

    observations, actions = Box(-float("inf"), float("inf"), (len(COLUMNS),)), Discrete(len(Did))

    def pack(rollout: Rollout) -> bytes | None:
        played = trajectory(rollout, source.settings)
        found = steps(played)
        if found is None or source.settings.reward not in played.rewards:
            return None
        episode: Any = SingleAgentEpisode(
            rollout.id,
            observations=list(found.observations),
            observation_space=observations,
            actions=list(found.actions),
            action_space=actions,
            rewards=found.rewards.tolist(),
            # Also where it ran out of time: its rewards are all that it will have.
            terminated=True,
            len_lookback_buffer=0,
        )
        episode.custom_data.update(head(rollout))
        return bytes(msgpack.packb(episode.get_state(), default=msgpack_numpy.encode))

    return pack
