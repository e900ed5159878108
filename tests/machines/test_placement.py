"""A plan made real: its actors get the resources that it promises them, and give them back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.util import placement_group_table

from al_ray.errors import PlacementError
from al_ray.machines.placement import OwnSeat, Placement, Seat, beside_the_driver, cluster_shape
from al_ray.machines.plan import Bundle, Plan
from al_ray.recipe import NodeShape

ROOT = Path(__file__).resolve().parents[2]

TWO_GPUS = """
import json
import ray
from al_ray.machines.placement import Placement, cluster_shape
from al_ray.recipe import NodeShape
from al_ray.machines.plan import Bundle, Plan

ray.init(address="local", num_cpus=4, num_gpus=2, object_store_memory=100 * 2**20, include_dashboard=False)
assert cluster_shape() == [NodeShape(cpus=4, gpus=2)]

@ray.remote
class Actor:
    def gpus(self):
        return ray.get_gpu_ids()

def gpus(layout, *bundles):
    placement = Placement(Plan("gpu", layout, bundles, 1, 1), layout)
    names = [tenant for bundle in bundles for tenant in bundle.tenants]
    actors = [Actor.options(**placement.actor_options(name)).remote() for name in names]
    found = ray.get([actor.gpus.remote() for actor in actors], timeout=60)
    placement.release()
    return found

print(json.dumps(gpus("colocated", Bundle(("engine 0", "learner 0"), 3, 1, 0))))
print(json.dumps(gpus("disaggregated", Bundle(("engine 0",), 2, 1, 0), Bundle(("learner 0",), 2, 1, 0))))
print(json.dumps(gpus("disaggregated", Bundle(("engine 0",), 2, 2, 0))))
"""


@ray.remote
class Actor:
    def cpus(self) -> float:
        return float(ray.get_runtime_context().get_assigned_resources()["CPU"])

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def plan(*bundles: Bundle) -> Plan:
    return Plan("cpu", "colocated", bundles, 1, 1)


def start(placement: Placement, tenant: str) -> Any:
    return Actor.options(**placement.actor_options(tenant)).remote()  # type: ignore[attr-defined]


def test_two_tenants_of_a_bundle_live_in_it_at_once(ray_cluster: None) -> None:
    placement = Placement(plan(Bundle(("engine 0", "learner 0"), 2, 0, 0)), "together")
    actors = [start(placement, name) for name in ("engine 0", "learner 0")]
    assert ray.get([actor.cpus.remote() for actor in actors], timeout=60) == [1.0, 1.0]
    placement.release()


def test_what_is_held_is_not_granted_again_until_it_is_released(ray_cluster: None) -> None:
    """And what is not granted does not stay asked for."""
    held = Placement(plan(Bundle(("engine 0",), 1, 0, 0), Bundle(("learner 0",), 1, 0, 0)), "held")
    with pytest.raises(PlacementError, match=r"placement: \[{'CPU': 2}\]: not granted in 0.5 s"):
        Placement(plan(Bundle(("engine 0",), 2, 0, 0)), "refused", ready_seconds=0.5)
    held.release()
    placement = Placement(plan(Bundle(("engine 0",), 2, 0, 0)), "granted")
    assert ray.get(start(placement, "engine 0").cpus.remote(), timeout=60) == 2.0
    placement.release()


def demand() -> list[dict[str, float]]:
    """What Ray tells an autoscaler that placement groups wait for."""
    state = get_cluster_resource_state(GcsClient(ray.get_runtime_context().gcs_address))
    return [
        dict(each.resources_bundle) for gang in state.pending_gang_resource_requests for each in gang.requests
    ]


def until_granted(seat: Seat) -> None:
    ends = time.monotonic() + 60
    while not seat.granted():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_an_engine_that_may_come_takes_no_room_from_those_that_must(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for it, of which an autoscaler is told, is granted what is free, and gives that back when one
    that must be there has none any more."""
    monkeypatch.setattr("al_ray.machines.placement._ASKED_SECONDS", 0.0)
    bundles = [Bundle(("engine 0",), 1, 0, 0), Bundle(("learner 0",), 1, 0, 1)]
    more = [Bundle(("engine 1",), 1, 0, None)]
    placement = Placement(Plan("cpu", "disaggregated", bundles, 1, 1, more), "elastic")
    [first], [second] = placement.seats(), placement.more_seats()
    actor = Actor.options(**first.options).remote()  # type: ignore[attr-defined]
    assert ray.get(actor.cpus.remote(), timeout=60) == 1.0
    assert first.granted() and not second.granted()
    ends = time.monotonic() + 60
    while {"CPU": 1.0} not in demand():
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert isinstance(first, OwnSeat)
    first.release()
    until_granted(second)
    monkeypatch.setattr("al_ray.machines.placement._WANTED_SECONDS", 0.0)
    assert not second.granted()
    until_granted(first)
    assert not placement.wants_room() and not second.granted()
    placement.release()


def test_however_many_may_have_to_give_way_ray_is_asked_for_them_once(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = [Bundle(("engine 0",), 1, 0, 0), Bundle(("learner 0",), 1, 0, 1)]
    more = [Bundle((f"engine {number}",), 1, 0, None) for number in range(1, 9)]
    placement = Placement(Plan("cpu", "disaggregated", bundles, 1, 1, more), "many")
    with monkeypatch.context() as patched:
        patched.setattr("al_ray.machines.placement._ASKED_SECONDS", 300.0)
        asked = Mock(wraps=placement_group_table)
        patched.setattr("al_ray.machines.placement.placement_group_table", asked)
        assert not any(seat.wanted() for seat in placement.more_seats())
    assert asked.call_count <= len(bundles)
    placement.release()


def test_actors_beside_the_driver_are_on_its_node_and_hold_nothing(ray_cluster: None) -> None:
    placement = Placement(plan(Bundle(("engine 0", "learner 0"), 2, 0, 0)), "released")
    actor = Actor.options(num_cpus=0, **beside_the_driver()).remote()  # type: ignore[attr-defined]
    assert ray.get(actor.node.remote(), timeout=60) == ray.get_runtime_context().get_node_id()
    placement.release()


def test_the_shape_of_the_cluster_is_that_of_its_nodes(ray_cluster: None) -> None:
    assert cluster_shape() == [NodeShape(cpus=2, gpus=0)]


def test_on_gpus_colocated_tenants_see_one_and_others_their_own() -> None:
    """In a process of its own, on a cluster that claims to have two GPUs."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_GPUS],
        cwd=ROOT,
        env={"PATH": "", "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    colocated, apart, wide = (json.loads(line) for line in done.stdout.splitlines())
    assert colocated[0] == colocated[1] and len(colocated[0]) == 1
    assert sorted(apart) == [[0], [1]]
    assert sorted(wide[0]) == [0, 1]


def test_who_waits_for_a_placement_can_be_interrupted_and_leaves_none(ray_cluster: None) -> None:
    """Ray itself hears of no Ctrl-C until the time to wait is over."""
    # What a shell starts in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Placement(plan(Bundle(("engine 0",), 1000, 0, 0)), "interrupted", ready_seconds=600)
    finally:
        signal.signal(signal.SIGINT, before)
    [found] = [
        group for group in placement_group_table().values() if group["name"].startswith("interrupted ")
    ]
    assert found["state"] == "REMOVED"
