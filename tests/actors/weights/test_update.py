"""Every place has a transport, and every transport both its ends."""

from __future__ import annotations

from typing import get_args

from al_ray.actors.weights.publisher import PUBLISHERS
from al_ray.actors.weights.update import BACKENDS, Transport, pushes, transport


def test_every_place_has_a_transport_that_an_engine_can_receive() -> None:
    assert transport("cpu", together=True) == "shared_memory"
    assert transport("cpu", together=False) == "object_store"
    assert BACKENDS[transport("gpu", together=True)] == "ipc"
    assert BACKENDS[transport("gpu", together=False)] == "nccl"


def test_every_transport_has_a_publisher_and_one_of_a_pushed_one_can_send() -> None:
    assert PUBLISHERS.keys() == BACKENDS.keys() == set(get_args(Transport))
    for way in ("nccl", "ipc"):
        assert pushes(way) and hasattr(PUBLISHERS[way](0), "send")
    assert not pushes("shared_memory") and not pushes("object_store")
