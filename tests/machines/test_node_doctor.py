"""Every node of a cluster is looked at, and what one lacks is told: on two nodes, whose folders differ."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray

from al_ray.machines import node_doctor
from al_ray.machines.doctor import Check
from al_ray.machines.node_doctor import Needs
from tests.support.machines.processes import Command

UNSHARED = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
NODE = """
import os, sys
address, output = sys.argv[1:]
start = f"ray start --address={address} --num-cpus=1 --object-store-memory=80000000 --block"
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
os.execvp("unshare", ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{output}' && exec {start}"])
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """On the driver's node; the other node has an empty folder of that name."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def another_node(joining: Mapping[str, str], output: Path, tmp_path: Path) -> Iterator[str]:
    """The id of a second node of the cluster, which sees other files in ``output``."""
    before = {node["NodeID"] for node in ray.nodes()}
    (tmp_path / "node.py").write_text(NODE)
    with Command(["node", joining["RAY_ADDRESS"], output], tmp_path, RAY_AUTH_MODE="disabled") as node:
        node.wait_until(lambda: len(ray.nodes()) > len(before))
        yield next(each["NodeID"] for each in ray.nodes() if each["NodeID"] not in before)
        node.terminate()  # so that the cluster does not have to find out
        node.wait()


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.mark.skipif(not UNSHARED, reason="only root has a node see other files")
def test_each_node_is_asked_by_itself_and_what_it_lacks_has_a_cure(
    another_node: str, output: Path, tiny_model: Path
) -> None:
    found = node_doctor.checks(Needs(tiny_model, "json:dumps", output))
    (driver, here), (other, there) = found.items()
    assert driver.endswith(ray.get_runtime_context().get_node_id()[:6]) and other.endswith(another_node[:6])
    assert by_name(here)["output"].ok
    lacks = by_name(there)["output"]
    assert not lacks.ok and lacks.found == f"{output} is not the driver's" and "share it" in lacks.cure
    for checks in (here, there):
        told = by_name(checks)
        assert {"python", "al_ray", "ray", "torch", "memory", "shared memory"} <= told.keys()
        assert all(told[name].ok for name in ("python", "ray", "way to the driver", "model", "agent"))
    assert list(output.iterdir()) == []


def test_what_a_run_needs_and_no_node_has_is_told_with_its_place(ray_cluster: None, tmp_path: Path) -> None:
    [checks] = node_doctor.checks(Needs(tmp_path / "model", "no_such_module:f")).values()
    lacking = {check.name: check for check in checks if not check.ok}
    assert {"model", "agent"} <= lacking.keys()
    assert str(tmp_path / "model") in lacking["model"].found and "al-ray model" in lacking["model"].cure
    assert "no_such_module" in lacking["agent"].found


def test_an_output_that_the_driver_cannot_write_is_told_as_its_nodes(
    ray_cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    [checks] = node_doctor.checks(Needs(output=tmp_path / "file" / "out")).values()
    output = by_name(checks)["output"]
    assert not output.ok and output.found.endswith("out cannot be written: Not a directory")


def test_what_cannot_be_written_is_a_check(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with node_doctor._written(tmp_path / "file" / "out") as written:
        assert isinstance(written, Check) and "set `output`" in written.cure
    with node_doctor._written(tmp_path / "out") as written:
        assert isinstance(written, Path) and written.is_file()


def test_another_version_than_the_drivers_is_told_beside_it() -> None:
    assert node_doctor._same("torch", "2.12.0", "2.13.0") == Check(
        "torch", False, "2.12.0", "the driver has 2.13.0: install the same on all nodes"
    )
