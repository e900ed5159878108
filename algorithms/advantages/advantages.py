"""From the layers that credit gave to one advantage a call."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from al_ray.algorithms.advantages.baselines import BASELINES
from al_ray.algorithms.advantages.compare import COMPARE
from al_ray.algorithms.advantages.scales import Scale, of_batch, of_group
from al_ray.algorithms.credit.layer import Keys, Layer, Returns
from al_ray.types import Trajectory

Advantages = list[list[float]]
"""``advantages[rollout][call]`` of a group; 0 for calls that take no part."""
_Call = tuple[int, int]
"""Of a call: rollout, transition."""
_Scope = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How calls are compared, by the recipe's names."""

    compare: str
    baseline: str
    scale: Scale


def advantages(
    groups: Sequence[Sequence[Trajectory]], credit: Sequence[Sequence[Layer]], comparison: Comparison
) -> list[Advantages]:
    """Those of each group; ``credit`` has the layers of each. Calls of agents that are not trained take no
    part: they have no advantage, and nobody is compared with them."""
    made = [_of_group(group, layers, comparison) for group, layers in zip(groups, credit, strict=True)]
    if comparison.scale == "batch":
        _scale_by_batch(groups, credit, made)
    return made


def _of_group(group: Sequence[Trajectory], layers: Sequence[Layer], comparison: Comparison) -> Advantages:
    totals = [[0.0] * len(trajectory.transitions) for trajectory in group]
    for layer in layers:
        returns = [
            [value if t.trained else None for t, value in zip(trajectory.transitions, given, strict=True)]
            for trajectory, given in zip(group, layer.returns, strict=True)
        ]
        keys = layer.keys if layer.keys is not None else COMPARE[comparison.compare](group)
        own = replace(comparison, baseline=layer.baseline) if comparison.baseline == "none" else comparison
        for (rollout, call), value in _compared(returns, keys, own, widen=layer.widen).items():
            totals[rollout][call] += layer.weight * value
    return totals


def _compared(returns: Returns, keys: Keys, comparison: Comparison, *, widen: bool) -> dict[_Call, float]:
    """The advantages of one layer. A rollout that has nobody to be compared with has none: its calls would be
    measured from each other."""
    scopes: dict[_Scope, dict[int, list[_Call]]] = {}
    """The calls whose keys begin so, by rollout."""
    for rollout, (given, own) in enumerate(zip(returns, keys, strict=True)):
        for call, (value, key) in enumerate(zip(given, own, strict=True)):
            for length in range(len(key) + 1) if value is not None else ():
                scopes.setdefault(key[:length], {}).setdefault(rollout, []).append((rollout, call))
    found: dict[_Call, float] = {}
    for scope, members in scopes.items():
        places = [place for of_rollout in members.values() for place in of_rollout]
        own_scope = {(i, j) for i, j in places if _scope_of(keys[i][j], scopes, widen) == scope}
        if own_scope and (len(members) > 1 or comparison.baseline == "none"):
            values = [np.array([returns[i][j] for i, j in of], np.float64) for of in members.values()]
            left = BASELINES[comparison.baseline](values)
            unit = of_group(left) if comparison.scale == "group" else 1.0
            compared = zip(places, np.concatenate(left) / unit, strict=True)
            found |= {place: float(value) for place, value in compared if place in own_scope}
    return found


def _scope_of(key: _Scope, scopes: Mapping[_Scope, Mapping[int, object]], widen: bool) -> _Scope | None:
    """The longest beginning of ``key`` that calls of several rollouts have."""
    lengths = range(len(key), -1, -1) if widen else (len(key),)
    shared = next((key[:length] for length in lengths if len(scopes[key[:length]]) > 1), None)
    return () if shared is None and widen else shared


def _scale_by_batch(
    groups: Sequence[Sequence[Trajectory]], credit: Sequence[Sequence[Layer]], made: list[Advantages]
) -> None:
    """In place; calls that take no part stay at 0, and are in no mean or deviation."""
    places = [
        (g, i, j)
        for g, group in enumerate(groups)
        for i, trajectory in enumerate(group)
        for j, transition in enumerate(trajectory.transitions)
        if transition.trained
        and transition.response_ids
        and any(layer.returns[i][j] is not None for layer in credit[g])
    ]
    values = np.array([made[g][i][j] for g, i, j in places], np.float64)
    tokens = np.array([len(groups[g][i].transitions[j].response_ids) for g, i, j in places], np.float64)
    for (g, i, j), value in zip(places, of_batch(values, tokens), strict=True):
        made[g][i][j] = float(value)
