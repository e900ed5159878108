"""The cluster files are what Ray and KubeRay accept, and run what exists."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
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


def test_all_nodes_of_the_cluster_have_the_same_build() -> None:
    """Not each the one for what it has: the head has no GPU."""
    config = load("cluster.yaml")
    installs = [command for command in config["setup_commands"] if "make install" in command]
    assert len(installs) == 1 and "make install BUILD=gpu " in installs[0]
    assert not any("setup_commands" in name and name != "setup_commands" for name in config)


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


@pytest.mark.parametrize("name", ["rayjob", "raycluster"])
def test_pods_hold_their_object_store_in_memory_and_more_of_them_come_where_needed(name: str) -> None:
    """KubeRay mounts a /dev/shm as large as a container's memory where nothing else is mounted there, and
    Ray's store is a third of that. It changes the number of workers where it starts an autoscaler, which must
    speak to Ray as all others do."""
    spec = load(f"deploy/{name}.yaml")["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    workers = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], *workers):
        [container] = group["template"]["spec"]["containers"]
        assert "/dev/shm" not in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert cluster["autoscalerOptions"]["env"] == container["env"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert all(each["minReplicas"] <= each["replicas"] < each["maxReplicas"] for each in workers)


def test_the_rayjob_runs_a_recipe_that_exists() -> None:
    """Its entrypoint names a file of this repository."""
    command = load("deploy/rayjob.yaml")["spec"]["entrypoint"].split()
    assert command[:2] == ["al-ray", "train"]
    assert (ROOT / command[2]).is_file()


def test_the_slurm_script_runs_on_two_nodes_what_the_command_line_has() -> None:
    """As a shell reads it; the verbs that it calls are the command line's."""
    script = ROOT / "deploy" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    verbs = re.findall(r"^al-ray (\w+)", text, re.MULTILINE)
    known = {each.callback.__name__ for each in app.registered_commands if each.callback is not None}
    assert verbs == ["doctor", "train"] and set(verbs) <= known


def test_the_slurm_script_has_all_of_its_nodes() -> None:
    """A node that is shared gives a task one core and the cluster's default of memory, and a step's task may
    be bound to one of its cores."""
    text = (ROOT / "deploy" / "slurm.sh").read_text(encoding="utf-8")
    assert {"--exclusive", "--mem=0"} <= set(re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE))
    assert "srun" in text and all("--cpu-bind=none" in line for line in re.findall(r"^ *srun .*", text, re.M))


def test_skypilot_starts_a_recipe_that_exists() -> None:
    task = load("deploy/skypilot.yaml")
    assert (ROOT / task["envs"]["RECIPE"]).is_file()
    assert '.venv/bin/al-ray train "$RECIPE"' in task["run"] and "make install BUILD=gpu" in task["setup"]


def test_skypilot_tells_the_process_to_which_a_signal_ends_the_run(tmp_path: Path) -> None:
    """The driver alone, as the file's head has it: it reads what ``run`` wrote in the home folder."""
    stub = tmp_path / ".venv" / "bin" / "al-ray"
    stub.parent.mkdir(parents=True)
    stub.write_text("#!/bin/bash\necho $$ > pid && mv pid started\nfor _ in {1..600}; do sleep 0.1; done\n")
    stub.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RECIPE": "recipe.yaml"}
    script = load("deploy/skypilot.yaml")["run"]
    with subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=variables) as job:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "started").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            told = int((tmp_path / "driver.pid").read_text())
            os.kill(told, signal.SIGTERM)
            assert job.wait(60) == -signal.SIGTERM
        finally:
            job.kill()
    assert told == int((tmp_path / "started").read_text())
