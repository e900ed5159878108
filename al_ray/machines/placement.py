"""Placement groups: a plan made real on a Ray cluster, and the options that put actors into it."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from al_ray.errors import PlacementError, Problem
from al_ray.machines.plan import Plan
from al_ray.recipe import NodeShape

_WAIT_SECONDS: Final = 1


class Placement:
    """The reserved resources of one run."""

    def __init__(self, plan: Plan, name: str, ready_seconds: float = 60) -> None:
        """Reserve, under a name for Ray's dashboard; raises ``PlacementError`` if the cluster does not grant
        it in time."""
        self.plan = plan
        resources = [{"CPU": b.cpus} | ({"GPU": b.gpus} if b.gpus else {}) for b in plan.bundles]
        only = f"{name} {uuid.uuid4().hex[:6]}"  # Ray refuses a name that is in use
        # Weights may travel through the memory of a node that the plan says is the only one.
        one_node = len({bundle.node for bundle in plan.bundles}) == 1
        self._group: PlacementGroup = placement_group(
            resources, strategy="STRICT_PACK" if one_node else "PACK", name=only
        )
        try:
            granted = self._granted(ready_seconds)
        except BaseException:
            self.release()
            raise
        if not granted:
            self.release()
            cure = f"not granted in {ready_seconds:g} s: other jobs hold the resources; wait for them"
            raise PlacementError(Problem("placement", resources, cure))

    def _granted(self, seconds: float) -> bool:
        """In steps: Ray hears of no Ctrl-C while it waits."""
        ends = time.monotonic() + seconds
        while not (granted := self._group.wait(_WAIT_SECONDS)) and time.monotonic() < ends:
            pass
        return bool(granted)

    def actor_options(self, tenant: str) -> dict[str, Any]:
        """Ray options that put ``tenant`` into its bundle with its share of the resources."""
        index = self.plan.bundle_of(tenant)
        bundle = self.plan.bundles[index]
        share = 1 / len(bundle.tenants)
        return {
            "num_cpus": bundle.cpus * share,
            "num_gpus": bundle.gpus * share,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            ),
        }

    def release(self) -> None:
        """Give the resources back; actors in them end."""
        remove_placement_group(self._group)


def beside_the_driver() -> dict[str, Any]:
    """Ray options that put an actor on the driver's node."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def cluster_shape() -> list[NodeShape]:
    """What the connected cluster's live nodes have; one without cores can hold nothing of a plan."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        NodeShape(cpus=int(node["CPU"]), gpus=int(node.get("GPU", 0)))
        for node in resources
        if node.get("CPU", 0) >= 1
    ]
