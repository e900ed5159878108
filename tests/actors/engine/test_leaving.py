"""When engines that leave are to be gone, told without nodes: ``pool/test_draining.py`` has real ones."""

from __future__ import annotations

import math
from unittest.mock import Mock

from al_ray.actors.engine import leaving
from al_ray.actors.engine.slot import Slot
from al_ray.machines.placement import SharedSeat


def test_the_end_of_an_engine_that_leaves_is_brought_forward_and_never_put_off() -> None:
    """A node without a deadline, or whose room is wanted, may be taken away by its provider in seconds."""
    slot = Slot(0, SharedSeat({}), extra=False, engine=Mock(), node="n", admitted=True)
    ends = []
    for told in ({"other": 1.0}, {"n": math.inf}, {"n": 200.0}, {"n": 100.0}, {"n": 300.0}, {}):
        leaving.spare([slot], told)
        ends.append(slot.leaves)
    assert ends == [None, math.inf, 200.0, 100.0, 100.0, 100.0]
