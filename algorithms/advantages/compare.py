"""Which calls of a group are compared with each other, by keys that go from coarse to fine.

A call is compared with those that share its whole key. Where no other rollout has such a call, the last part
of the key is left away, so that the one rollout that took five turns is still compared by its fifth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from al_ray.algorithms.credit.layer import Keys
from al_ray.types import Trajectory

Compare = Callable[[Sequence[Trajectory]], Keys]


def by_task(group: Sequence[Trajectory]) -> Keys:
    """All calls of all rollouts."""
    return [[() for _ in trajectory.transitions] for trajectory in group]


def by_agent(group: Sequence[Trajectory]) -> Keys:
    """Calls of agents of the same name."""
    return [[(t.agent,) for t in trajectory.transitions] for trajectory in group]


def by_turn(group: Sequence[Trajectory]) -> Keys:
    """The first call of an agent with the first calls of its namesakes, the second with the second. The
    choices of one call have one place. Agents without a name, who ask for a policy by its own, are told apart
    by that."""
    return [_turns(trajectory) for trajectory in group]


def _turns(trajectory: Trajectory) -> Sequence[tuple[str, int]]:
    places: dict[str, int] = {}
    made = Counter[tuple[str, str]]()
    keys = []
    for t in trajectory.transitions:
        if t.of_call not in places:
            places[t.of_call] = made[t.agent, t.policy]
            made[t.agent, t.policy] += 1
        keys.append((t.agent, places[t.of_call]))
    return keys


COMPARE: Final[Mapping[str, Compare]] = {"task": by_task, "agent": by_agent, "turn": by_turn}
"""By the recipe's name (``stages.compare``)."""
