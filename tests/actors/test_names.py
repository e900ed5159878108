"""Ray's dashboard tells the parts of a run apart."""

from __future__ import annotations

import time

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import ActorTableData

from al_ray.actors.gateway.door import Door


def test_an_actor_has_a_name_that_ray_shows(ray_cluster: None) -> None:
    """By its ``__repr__``: no two can be in each other's way by it, as by a name that Ray looks up."""
    doors = [ray.remote(Door).options(num_cpus=0).remote("127.0.0.1") for _ in range(2)]
    try:
        ids = [door._ray_actor_id for door in doors]
        ray.get([door.open.remote() for door in doors])
        deadline = time.monotonic() + 20
        while (shown := [_shown(each) for each in ids]) != ["door of a gateway"] * 2:
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
    finally:
        for door in doors:
            ray.kill(door)


def _shown(actor: ray.ActorID) -> str:
    return ActorTableData.FromString(state._global_state_accessor.get_actor_info(actor)).repr_name
