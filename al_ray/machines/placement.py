"""Placement groups: a plan made real on a Ray cluster, and the options that put actors into it."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import ray
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from al_ray.errors import PlacementError, Problem
from al_ray.machines.plan import Bundle, Plan
from al_ray.recipe import NodeShape

_LOOK_SECONDS: Final = 0.2
_WANTED_SECONDS: Final = 10.0
_ASKED_SECONDS: Final = 1.0
"""How long Ray's answer is as good as a new one, to all who may have to give way."""
_BEFORE_SECONDS: Final = 5.0
"""What leaves a node is ended so long before it: what it was still at is done elsewhere."""


class Seat(Protocol):
    """Where an engine or a runner is put, and the next one in its place."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Ray's, of the actor."""
        ...

    def granted(self) -> bool:
        """Whether there is room, as far as that is known."""
        ...

    def wanted(self) -> bool:
        """Whether it is to be given up, for others who have no room."""
        ...

    def release(self) -> None:
        """Given back: the next one is to be elsewhere, since its node is to go, or when it is not ``wanted``
        any more."""


@dataclass(frozen=True, slots=True)
class SharedSeat:
    """Among others, with whom it moves when their node is gone: Ray starts nothing on it until then."""

    options: Mapping[str, Any]

    def granted(self) -> bool:
        return True

    def wanted(self) -> bool:
        return False

    def release(self) -> None:
        pass


class OwnSeat:
    """A bundle that Ray places for itself. What waits for room is demand, which an autoscaler meets with a
    node. It gives way, and asks for nothing, while ``wanted``."""

    def __init__(self, bundle: Bundle, name: str, wanted: Callable[[], bool] = lambda: False) -> None:
        self.tenant = bundle.tenants[0]
        self.wanted = wanted
        self._bundle = bundle
        self._name = name
        self._group: PlacementGroup | None = None
        self.granted()

    @property
    def options(self) -> Mapping[str, Any]:
        """It has all of the bundle."""
        assert self._group is not None, "it is not granted"
        return {
            "num_cpus": self._bundle.cpus,
            "num_gpus": self._bundle.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=0
            ),
        }

    def granted(self) -> bool:
        """Asks for it, where it was given back."""
        if self.wanted():
            self.release()
        elif self._group is None:
            self._group = _group([self._bundle], "PACK", self._name)
        return self.has_room()

    def has_room(self) -> bool:
        """Likewise, and asks for nothing."""
        return self._group is not None and _is_granted(self._group)

    def release(self) -> None:
        """Ray grants the next nothing on a node that is drained."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


class Placement:
    """The reserved resources of one run: learners, and engines that share their places, in one group; each
    other engine in one of its own, so that it can be moved. A plan for one node is one group. Those of
    engines that may come wait as long as they must."""

    def __init__(self, plan: Plan, name: str, ready_seconds: float = 60) -> None:
        """Reserve, under a name for Ray's dashboard; raises ``PlacementError`` if the cluster does not grant
        it in time."""
        self.plan = plan
        self._waits_since: float | None = None
        self._asked = -math.inf
        self._more: Sequence[OwnSeat] = ()
        self._shared = [bundle for bundle in plan.bundles if plan.one_node or not _is_engine(bundle)]
        own = [bundle for bundle in plan.bundles if bundle not in self._shared]
        own.sort(key=lambda bundle: -bundle.gpus)  # the widest first: what is narrow finds room between
        self._own = {seat.tenant: seat for seat in own_seats(own, name)}
        # Weights may travel through the memory of a node that the plan says is the only one.
        self._group = _group(self._shared, "STRICT_PACK" if plan.one_node else "PACK", name)
        try:
            granted = self._granted(ready_seconds)
        except BaseException:
            self.release()
            raise
        if not granted:
            self.release()
            cure = f"not granted in {ready_seconds:g} s: other jobs hold the resources; wait for them"
            raise PlacementError(Problem("placement", [_resources(each) for each in plan.bundles], cure))
        # They take nobody's room.
        self._more = own_seats(plan.more, name, self.wants_room)

    def _granted(self, seconds: float) -> bool:
        """In steps: Ray hears of no Ctrl-C while it waits."""
        ends = time.monotonic() + seconds
        waiting: list[Callable[[], bool]] = [lambda: _is_granted(self._group)]
        waiting += [seat.granted for seat in self._own.values()]
        while waiting := [granted for granted in waiting if not granted()]:
            if time.monotonic() > ends:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def actor_options(self, tenant: str) -> dict[str, Any]:
        """Ray options that put ``tenant``, who is in the group, into its bundle with its share of the
        resources."""
        index, bundle = next(
            (index, bundle) for index, bundle in enumerate(self._shared) if tenant in bundle.tenants
        )
        share = 1 / len(bundle.tenants)
        return {
            "num_cpus": bundle.cpus * share,
            "num_gpus": bundle.gpus * share,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            ),
        }

    def seats(self) -> list[Seat]:
        """Of the plan's engines."""
        names = self.plan.tenants("engine")
        return [self._own.get(name) or SharedSeat(self.actor_options(name)) for name in names]

    def more_seats(self) -> Sequence[Seat]:
        """Of the engines that may come, granted or not."""
        return self._more

    def wants_room(self) -> bool:
        """Whether something of the plan has waited for room for longer than Ray needs to find some, after the
        end of a node: those that only may be there have it then, or would have it first."""
        now = time.monotonic()
        if now >= self._asked + _ASKED_SECONDS:
            self._asked = now
            has_room = _is_granted(self._group) and all(seat.has_room() for seat in self._own.values())
            self._waits_since = None if has_room else self._waits_since or now
        return self._waits_since is not None and now >= self._waits_since + _WANTED_SECONDS

    def release(self) -> None:
        """Give the resources back; actors in them end."""
        remove_placement_group(self._group)
        for seat in (*self._own.values(), *self._more):
            seat.release()


def own_seats(
    bundles: Sequence[Bundle], name: str, wanted: Callable[[], bool] = lambda: False
) -> list[OwnSeat]:
    """One for each, granted or not, named for Ray's dashboard; to be released by whoever asks for them."""
    return [OwnSeat(bundle, f"{name}/{bundle.tenants[0]}", wanted) for bundle in bundles]


def _is_engine(bundle: Bundle) -> bool:
    return all(tenant.startswith("engine") for tenant in bundle.tenants)


def _resources(bundle: Bundle) -> dict[str, int]:
    return {"CPU": bundle.cpus} | ({"GPU": bundle.gpus} if bundle.gpus else {})


def _group(bundles: Sequence[Bundle], strategy: str, name: str) -> PlacementGroup:
    return placement_group([_resources(bundle) for bundle in bundles], strategy=strategy, name=_only(name))


def _only(name: str) -> str:
    """Ray refuses a name that is in use."""
    return f"{name} {uuid.uuid4().hex[:6]}"


def _is_granted(group: PlacementGroup) -> bool:
    return bool(placement_group_table(group)["state"] == "CREATED")


def beside_the_driver() -> dict[str, Any]:
    """Ray options that put an actor on the driver's node; asked for by an actor there, which does not hand on
    its own place to what it starts, on that same node."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def cluster_shape() -> list[NodeShape]:
    """What the connected cluster's live nodes have; one without cores can hold nothing of a plan, and one
    that is drained is given nothing."""
    going = draining()
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]
    return [
        NodeShape(cpus=int(node["CPU"]), gpus=int(node.get("GPU", 0)))
        for node in resources
        if node.get("CPU", 0) >= 1
    ]


def draining() -> Mapping[str, float]:
    """The nodes that Ray says are to go, by their ids, each with the time of its end as ``time.time`` tells
    it: spot instances that are taken back, pods that are evicted, whatever ``ray drain-node`` names. Ray
    places nothing on them, and ends one of itself as soon as nothing holds its resources.

    Ray Train and Ray Serve ask in this way; there is no public one."""
    deadlines = ray._private.state.state.get_draining_nodes()
    return {node: until / 1000 if until else math.inf for node, until in deadlines.items()}


def ends_soon(until: float) -> bool:
    """Whether what is on a node that is drained is to be ended now."""
    return time.time() > until - _BEFORE_SECONDS


def time_left(until: float) -> str:
    """In how long a node that is drained will be gone, in words."""
    return "at some time" if math.isinf(until) else f"in {max(0, until - time.time()):.0f} s"
