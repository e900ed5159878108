"""Placement groups: a plan made real on a Ray cluster, and the options that put actors into it."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from al_ray.config import NodeShape
from al_ray.errors import PlacementError, Problem
from al_ray.plan import Plan

_READY_SECONDS = 60


class Placement:
    """The reserved resources of one run."""

    def __init__(self, plan: Plan) -> None:
        """Reserve; raises ``PlacementError`` if the cluster does not grant it in time."""
        self.plan = plan
        resources = [{"CPU": b.cpus} | ({"GPU": b.gpus} if b.gpus else {}) for b in plan.bundles]
        self._group: PlacementGroup = placement_group(resources, strategy="PACK")
        if not self._group.wait(_READY_SECONDS):
            remove_placement_group(self._group)
            raise PlacementError(
                Problem("placement", resources, f"not granted in {_READY_SECONDS} s: other jobs hold the resources")
            )

    def actor_options(self, tenant: str) -> dict[str, Any]:
        """Ray options that put ``tenant`` into its bundle with its share of the resources."""
        index = self.plan.bundle_of(tenant)
        bundle = self.plan.bundles[index]
        share = 1 / len(bundle.tenants)
        whole_gpus = share == 1 or bundle.gpus > 1
        return {
            "num_cpus": bundle.cpus * share,
            "num_gpus": bundle.gpus * share if not whole_gpus else int(bundle.gpus * share),
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
    """What the connected cluster's live nodes have."""
    return [
        NodeShape(cpus=int(resources.get("CPU", 0)) or 1, gpus=int(resources.get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and (resources := node["Resources"])
    ]
