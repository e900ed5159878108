"""A plan puts every engine and learner somewhere, once, where there is room; or says what is missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from al_ray.errors import PlacementError
from al_ray.machines.plan import Bundle, Plan, plan, this_machine, usable_cores
from al_ray.recipe import EnginesSection, LearnersSection, NodeShape, PlacementSection, Recipe
from tests.support.runs import toy

TOY = Recipe.model_validate(toy.recipe(Path("model"), Path("out")))
NODES = st.lists(
    st.builds(NodeShape, count=st.integers(1, 3), cpus=st.integers(1, 20), gpus=st.integers(0, 8)), max_size=3
)


def recipe(
    engines: int = 1,
    learners: int = 1,
    width: int = 1,
    device: str = "auto",
    layout: str = "auto",
    threads: int = 0,
    most: int | None = None,
) -> Recipe:
    placement = PlacementSection.model_validate({"device": device, "layout": layout})
    return TOY.model_copy(
        update={
            "engines": EnginesSection(
                replicas=engines, max_replicas=most, tensor_parallel=width, threads=threads
            ),
            "learners": LearnersSection(replicas=learners),
            "placement": placement,
        }
    )


def nodes(*shapes: tuple[int, int]) -> list[NodeShape]:
    """Of so many cores and GPUs."""
    return [NodeShape(cpus=cpus, gpus=gpus) for cpus, gpus in shapes]


RECIPES = st.builds(
    recipe,
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(["auto", "cpu", "gpu"]),
    st.sampled_from(["auto", "colocated", "disaggregated"]),
)


@given(RECIPES, NODES)
def test_every_tenant_has_one_place_and_no_node_gives_more_than_it_has(
    recipe: Recipe, cluster: list[NodeShape]
) -> None:
    try:
        made = plan(recipe, cluster)
    except PlacementError:
        return
    wanted = {f"engine {i}" for i in range(recipe.engines.replicas)}
    wanted |= {f"learner {i}" for i in range(recipe.learners.replicas)}
    assert Counter(tenant for bundle in made.bundles for tenant in bundle.tenants) == Counter(wanted)
    shapes = [(shape.cpus, shape.gpus) for shape in cluster for _ in range(shape.count)]
    for number, (cpus, gpus) in enumerate(shapes):
        here = [bundle for bundle in made.bundles if bundle.node == number]
        assert sum(bundle.cpus for bundle in here) <= cpus
        assert sum(bundle.gpus for bundle in here) <= gpus
    for bundle in made.bundles:
        assert 0 <= bundle.node < len(shapes) and bundle.cpus >= 1
        width = recipe.engines.tensor_parallel if bundle.tenants[0].startswith("engine") else 1
        assert bundle.gpus == (width if made.device == "gpu" else 0)
        assert len(bundle.tenants) == 1 or made.layout == "colocated"


@given(RECIPES, NODES)
def test_a_cluster_that_suffices_still_does_with_a_node_more(
    recipe: Recipe, cluster: list[NodeShape]
) -> None:
    """A refusal means that something is missing, not that the planner lost its way."""
    try:
        made = plan(recipe, cluster)
    except PlacementError:
        return
    plan(recipe, [*cluster, NodeShape(cpus=4, gpus=8 if made.device == "gpu" else 0)])


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(1, 9), max_size=4))
def test_on_cpus_a_core_for_each_bundle_is_enough_and_less_is_refused(
    engines: int, learners: int, cores: list[int]
) -> None:
    apart = recipe(engines, learners, device="cpu", layout="disaggregated")
    cluster = nodes(*((count, 0) for count in cores))
    if sum(cores) >= engines + learners:
        assert len(plan(apart, cluster).bundles) == engines + learners
    else:
        with pytest.raises(PlacementError, match="is needed"):
            plan(apart, cluster)


@given(RECIPES, NODES)
@example(recipe(3, 2, device="gpu"), nodes((1, 1), (1, 1), (1, 1)))  # two of each have room side by side
def test_what_a_refusal_says_that_there_is_room_for_is_granted_and_one_more_is_not(
    asked: Recipe, cluster: list[NodeShape]
) -> None:
    try:
        plan(asked, cluster)
        return
    except PlacementError as error:
        told = re.findall(r"(engines|learners)\.(replicas|tensor_parallel)=(\d+)", str(error))
    if not told:
        return
    changed = {"engines": asked.engines, "learners": asked.learners}
    for section, key, number in told:
        changed[section] = changed[section].model_copy(update={key: int(number)})
    plan(asked.model_copy(update=changed), cluster)
    if changed["engines"].replicas < asked.engines.replicas:
        changed["engines"] = changed["engines"].model_copy(
            update={"replicas": changed["engines"].replicas + 1}
        )
        with pytest.raises(PlacementError):
            plan(asked.model_copy(update=changed), cluster)


def room_for_learners(cores: int, gpus: int, engines: int, width: int) -> int:
    """On a node that holds so many engines too, a core each; below 0: it does not."""
    return min(cores - engines, gpus - width * engines)


@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(2, 4),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 8)), min_size=1, max_size=3),
)  # fmt: skip
@example(1, 2, 2, [(1, 2), (8, 2)])  # the engine belongs where one core is enough
@example(1, 2, 2, [(8, 2), (1, 2)])
@example(1, 8, 2, [(4, 4), (5, 8)])  # where it takes a learner's place once, not twice
def test_what_fits_in_any_way_is_placed_in_whatever_order_the_nodes_are(
    engines: int, learners: int, width: int, shapes: list[tuple[int, int]]
) -> None:
    """Every way to share the engines out is tried here."""
    asked = recipe(engines, learners, width, device="gpu")
    shares = product(range(engines + 1), repeat=len(shapes))
    rooms = (
        [room_for_learners(*node, here, width) for node, here in zip(shapes, share, strict=True)]
        for share in shares
        if sum(share) == engines
    )
    if any(min(room) >= 0 and sum(room) >= learners for room in rooms):
        plan(asked, nodes(*shapes))
    else:
        with pytest.raises(PlacementError, match="is needed"):
            plan(asked, nodes(*shapes))


def shape(made: Plan) -> list[tuple[tuple[str, ...], int, int, int]]:
    return [(bundle.tenants, bundle.cpus, bundle.gpus, bundle.node) for bundle in made.bundles]


def test_on_cpus_engine_and_learner_take_turns_on_all_cores() -> None:
    made = plan(recipe(), nodes((2, 0)))
    assert (made.device, made.layout) == ("cpu", "colocated")
    assert shape(made) == [(("engine 0", "learner 0"), 2, 0, 0)]
    assert (made.engine_threads, made.learner_threads) == (2, 2)


def test_threads_of_the_recipe_win_over_the_cores_of_the_bundle() -> None:
    made = plan(recipe(threads=3), nodes((2, 0)))
    assert (made.engine_threads, made.learner_threads) == (3, 2)


def test_one_gpu_is_shared() -> None:
    made = plan(recipe(), nodes((16, 1)))
    assert (made.device, made.layout) == ("gpu", "colocated")
    assert shape(made) == [(("engine 0", "learner 0"), 8, 1, 0)]


def test_two_gpus_are_shared_out() -> None:
    made = plan(recipe(), nodes((16, 2)))
    assert (made.device, made.layout) == ("gpu", "disaggregated")
    assert shape(made) == [(("engine 0",), 8, 1, 0), (("learner 0",), 8, 1, 0)]


def test_gpus_are_shared_where_there_are_too_few_cores_to_share_them_out() -> None:
    assert plan(recipe(), nodes((1, 2))).layout == "colocated"


def test_two_nodes_of_eight_gpus_hold_wide_engines_whole() -> None:
    made = plan(recipe(engines=6, learners=4, width=2), nodes((64, 8), (64, 8)))
    assert made.layout == "disaggregated"
    assert Counter((bundle.node, bundle.gpus) for bundle in made.bundles) == {(0, 2): 4, (1, 2): 2, (1, 1): 4}


def test_on_gpus_colocated_learners_may_outnumber_engines() -> None:
    made = plan(recipe(engines=2, learners=4, layout="colocated"), nodes((16, 4)))
    assert [bundle.tenants for bundle in made.bundles[1:3]] == [("engine 1", "learner 1"), ("learner 2",)]


def test_a_cpu_recipe_leaves_gpus_alone() -> None:
    assert plan(recipe(device="cpu"), nodes((4, 8))).bundles[0].gpus == 0


def test_engines_that_may_come_have_a_bundle_each_wherever_there_is_room() -> None:
    """Beside GPUs, cores are left for them. What may grow over nodes is no plan for one."""
    made = plan(recipe(most=3), nodes((16, 4)))
    assert shape(made) == [(("engine 0",), 4, 1, 0), (("learner 0",), 4, 1, 0)]
    assert made.more == [Bundle((f"engine {i}",), 4, 1, None) for i in (1, 2)]
    assert not made.one_node and plan(recipe(), nodes((16, 4))).one_node
    made = plan(recipe(most=2, threads=2), nodes((4, 0)))
    assert shape(made) == [(("engine 0", "learner 0"), 4, 0, 0)]
    assert made.more == [Bundle(("engine 1",), 2, 0, None)]


def test_cores_far_from_the_gpus_do_not_count() -> None:
    """A big head without GPUs beside a GPU node with few cores."""
    made = plan(recipe(engines=3, layout="disaggregated"), nodes((64, 0), (4, 4)))
    assert {(bundle.node, bundle.cpus) for bundle in made.bundles} == {(1, 1)}


@pytest.mark.parametrize(
    ("asked", "cluster", "told"),
    [
        (
            recipe(device="gpu"),
            nodes((2, 0)),
            "placement: 'colocated on gpu: 1 x (engine + learner: 1 core, 1 GPU)': is needed, "
            "the nodes have 1 x (2 core, 0 GPU); there is room for none of it: set placement.device to "
            "auto, or add nodes",
        ),
        (
            recipe(engines=2, learners=2, layout="disaggregated"),
            nodes((1, 0), (1, 0)),
            "placement: 'disaggregated on cpu: 2 x (engine: 1 core, 0 GPU), 2 x (learner: 1 core, 0 GPU)': "
            "is needed, the nodes have 2 x (1 core, 0 GPU); there is room for engines.replicas=1, "
            "learners.replicas=1: set these, or set placement.layout to auto, or add nodes",
        ),
        (
            recipe(),
            [],
            "placement: 'colocated on cpu: 1 x (engine + learner: 1 core, 0 GPU)': is needed, the nodes have",
        ),
        (
            recipe(width=8),
            nodes((64, 4), (64, 4), (64, 1)),
            "placement: 'disaggregated on gpu: 1 x (engine: 1 core, 8 GPU), 1 x (learner: 1 core, 1 GPU)': "
            "is needed, the nodes have 2 x (64 core, 4 GPU), 1 x (64 core, 1 GPU); there is room for "
            "engines.replicas=1, learners.replicas=1, engines.tensor_parallel=4: set these, or add nodes",
        ),
        (recipe(width=2), nodes((8, 0)), "engines.tensor_parallel: 2: is 1 on CPU"),
        (
            recipe(width=2, layout="colocated"),
            nodes((8, 2)),
            "placement.layout: 'colocated': on GPU, needs",
        ),
        (
            recipe(most=2, layout="colocated"),
            nodes((8, 2)),
            "placement.layout: 'colocated': on GPU, needs engines.tensor_parallel 1, no engines.max_replicas",
        ),
        (
            recipe(engines=2, layout="colocated"),
            nodes((8, 2)),
            "placement.layout: 'colocated': on GPU, needs",
        ),
    ],
)
def test_a_refusal_says_what_is_needed_and_what_there_is(
    asked: Recipe, cluster: list[NodeShape], told: str
) -> None:
    with pytest.raises(PlacementError) as caught:
        plan(asked, cluster)
    assert str(caught.value).startswith(told)


def test_this_machine_is_a_cluster_of_one_node() -> None:
    [node] = this_machine()
    assert node.count == 1 and node.cpus >= 1


def test_no_core_is_counted_that_the_batch_system_keeps_this_process_from(tmp_path: Path) -> None:
    """It asks Ray for no more than one may run on, as ``taskset`` and cpusets have it."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores(tmp_path / "absent") == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_containers_share_of_the_cores_and_no_hidden_device_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this machine a plan may ask for no more than Ray may give."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    for written, cores in (("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("9000000 1", 8)):
        (tmp_path / "cpu.max").write_text(written)
        assert usable_cores(tmp_path) == cores
    assert usable_cores(tmp_path / "absent") == 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine()[0].gpus == 0
