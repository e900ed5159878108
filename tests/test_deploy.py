"""The cluster files are what Ray and KubeRay accept, and run what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from al_ray.cli.app import app

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return config


def test_ray_up_accepts_the_cluster() -> None:
    """By Ray's own preparation and schema; and the GPU nodes are ones that Ray asks for."""
    prepared = prepare_config(load("cluster.yaml"))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types
    assert types["gpu"]["min_workers"] <= types["gpu"]["max_workers"] <= prepared["max_workers"]


def test_the_rayjob_and_the_raycluster_have_what_kuberay_requires() -> None:
    """Of this Ray version, with containers that all come from one image, and the same workers."""
    job, alone = load("deploy/rayjob.yaml"), load("deploy/raycluster.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert (alone["apiVersion"], alone["kind"]) == ("ray.io/v1", "RayCluster")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == alone["spec"]["rayVersion"] == ray.__version__
    told = {"env", "image"}
    for one, other in zip(cluster["workerGroupSpecs"], alone["spec"]["workerGroupSpecs"], strict=True):
        pods = [group["template"]["spec"] for group in (one, other)]
        [first], [second] = (
            [{k: v for k, v in each.items() if k not in told} for each in pod["containers"]] for pod in pods
        )
        assert first == second and pods[0]["volumes"] == pods[1]["volumes"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert len({container["image"] for container in containers}) == 1
    assert all({"groupName", "replicas", "rayStartParams"} <= group.keys() for group in groups[1:])
    assert isinstance(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"], dict)


def test_the_rayjob_runs_a_recipe_that_exists() -> None:
    """Its entrypoint names a file of this repository."""
    command = load("deploy/rayjob.yaml")["spec"]["entrypoint"].split()
    assert command[:2] == ["al-ray", "train"]
    assert (ROOT / command[2]).is_file()


def test_the_slurm_script_runs_on_two_nodes_what_the_command_line_has() -> None:
    """As a shell reads it; the verbs that it calls are the command line's."""
    script = ROOT / "deploy" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    verbs = re.findall(r"^al-ray (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    known = {each.callback.__name__ for each in app.registered_commands if each.callback is not None}
    assert verbs == ["doctor", "train"] and set(verbs) <= known


def test_skypilot_starts_a_recipe_that_exists() -> None:
    task = load("deploy/skypilot.yaml")
    assert (ROOT / task["envs"]["RECIPE"]).is_file()
    assert '.venv/bin/al-ray train "$RECIPE"' in task["run"] and "make install BUILD=gpu" in task["setup"]
