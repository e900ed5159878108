"""Which walls there are, and what is written to put a program within them.

A container, where Docker or Podman runs one; else bubblewrap, which needs user namespaces and no daemon.
Both give the program a file system of its own, a network whose loopback alone is up, and a process table
that ends with it; the kernel limits a container, ``inside`` what stands within bubblewrap.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from al_ray.errors import Problem, RecipeError
from al_ray.recipe import AgentSection, SandboxSection

RELAY_FOLDER: Final = "/al_ray"
"""Where the attempt's relay is seen within."""
AGENT_FOLDER: Final = "/agent"
WORK_FOLDER: Final = "/work"
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64")
_OF_ETC: Final = ("alternatives", "ld.so.cache", "ssl/certs", "ca-certificates", "localtime", "mime.types")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOBODY: Final = "65534"
_MIB: Final = 2**20
_PATIENCE: Final = 600.0
"""Of the trial: an image may have to be fetched."""


@dataclass(frozen=True, slots=True)
class Within:
    """What is to run, as the walls need to know it."""

    agent: AgentSection
    relay: Path
    """The folder of the attempt's relay, on this side."""
    ports: Mapping[str, int]
    variables: Sequence[str]
    """Names of those of the environment that the program is to find."""

    @property
    def sandbox(self) -> SandboxSection:
        assert self.agent.sandbox is not None
        return self.agent.sandbox

    def inside(self, *, limited_by_kernel: bool) -> list[str]:
        """The first process and its arguments."""
        sandbox = self.sandbox
        limits: dict[str, object] = {"ports": dict(self.ports), "grace": self.agent.grace}
        limits["memory_bytes"] = None if limited_by_kernel else sandbox.memory_mib * _MIB
        limits["processes"] = None if limited_by_kernel else sandbox.processes
        limits["cpu_seconds"] = None if limited_by_kernel else sandbox.cpus * self.agent.timeout
        limits["file_bytes"] = None if limited_by_kernel else sandbox.disk_mib * _MIB
        command = self.agent.command or []
        return ["-I", "-S", f"{RELAY_FOLDER}/inside.py", json.dumps(limits), *command]

    @property
    def mounts(self) -> dict[str, str]:
        """What is seen within, read-only: places there, and here."""
        folder = {} if self.agent.folder is None else {AGENT_FOLDER: self.agent.folder}
        return {**self.sandbox.mounts, **folder, RELAY_FOLDER: str(self.relay)}

    @property
    def folder(self) -> str:
        return WORK_FOLDER if self.agent.folder is None else AGENT_FOLDER


def bubblewrap(within: Within) -> list[str]:
    sandbox = within.sandbox
    root = _root(sandbox)
    size = str(sandbox.disk_mib * _MIB)
    return [
        shutil.which("bwrap") or "bwrap",
        *("--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY, "--disable-userns"),
        *("--die-with-parent", "--as-pid-1", "--hostname", "sandbox"),
        *(("--ro-bind", root, "/") if root else _system()),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--size", size, "--tmpfs", "/dev/shm", "--size", size, "--tmpfs", "/tmp"),
        *("--size", size, "--tmpfs", WORK_FOLDER),
        *(part for place, here in within.mounts.items() for part in ("--ro-bind", here, place)),
        *("--remount-ro", "/", "--setenv", "HOME", WORK_FOLDER, "--setenv", "PATH", _PATH),
        *("--chdir", within.folder, "--", "python3", *within.inside(limited_by_kernel=False)),
    ]


def _root(sandbox: SandboxSection) -> str | None:
    """The folder with a root file system that the recipe names as the image; None where that is none."""
    return sandbox.image if sandbox.image is not None and Path(sandbox.image).is_dir() else None


def _system() -> list[str]:
    """This machine's programs and libraries, without what is configured, stored or running on it."""
    told = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        here = Path("/", name)
        if here.is_symlink():
            told += ["--symlink", str(here.readlink()), str(here)]
        elif here.is_dir():
            told += ["--ro-bind", str(here), str(here)]
    for name in _OF_ETC:
        told += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return told


def _container(tool: str, within: Within) -> list[str]:
    sandbox = within.sandbox
    tmpfs = f"rw,exec,size={sandbox.disk_mib}m,mode=1777"
    mounts = (f"type=bind,src={here},dst={place},readonly" for place, here in within.mounts.items())
    memory = f"{sandbox.memory_mib}m"
    return [
        *(tool, "run", "--rm", "--interactive", "--network", "none", "--hostname", "sandbox"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--user", f"{_NOBODY}:{_NOBODY}", "--workdir", within.folder),
        *("--memory", memory, "--memory-swap", memory, "--cpus", f"{sandbox.cpus:g}"),
        *("--pids-limit", str(sandbox.processes + 1), "--shm-size", f"{sandbox.disk_mib}m"),
        *("--tmpfs", f"/tmp:{tmpfs}", "--tmpfs", f"{WORK_FOLDER}:{tmpfs}"),
        *(part for mount in mounts for part in ("--mount", mount)),
        *(part for name in within.variables for part in ("--env", name)),
        *("--env", f"HOME={WORK_FOLDER}", "--entrypoint", "python3", str(sandbox.image)),
        *within.inside(limited_by_kernel=True),
    ]


_Write = Callable[[Within], list[str]]


@dataclass(frozen=True, slots=True)
class Wall:
    """A kind of walls."""

    name: str
    asks: Sequence[str]
    """Says whether it is there."""
    command: _Write
    """What starts the program within it."""
    is_client: bool
    """Whether that is a client, which needs the environment here and hands on what it is told to."""

    def missing(self) -> str | None:
        """Why it cannot be had here."""
        if shutil.which(self.asks[0]) is None:
            return f"{self.name} is not installed"
        done = subprocess.run(self.asks, capture_output=True, text=True, check=False)
        return f"{self.name} does not answer ({_end(done.stderr)})" if done.returncode else None


_CONTAINERS: Final = (
    Wall(
        "docker",
        ("docker", "version", "--format", "{{.Server.Version}}"),
        partial(_container, "docker"),
        True,
    ),
    Wall(
        "podman", ("podman", "info", "--format", "{{.Version.Version}}"), partial(_container, "podman"), True
    ),
)
_BUBBLEWRAP: Final = Wall("bubblewrap", ("bwrap", "--version"), bubblewrap, False)


def wall(sandbox: SandboxSection) -> Wall:
    """The one that the recipe names, else the first that is there. Raises ``RecipeError``."""
    all_walls = (*_CONTAINERS, _BUBBLEWRAP)
    if sandbox.wall != "auto":
        wanted: Sequence[Wall] = [each for each in all_walls if each.name == sandbox.wall]
    else:
        wanted = [_BUBBLEWRAP] if sandbox.image is None else all_walls
    if sandbox.image is None and wanted[0] in _CONTAINERS:
        raise RecipeError(Problem("agent.sandbox.image", None, f"name the image for {sandbox.wall}"))
    why = []
    for each in wanted:
        if (missing := each.missing()) is None:
            return each
        why.append(missing)
    cure = "apt-get install bubblewrap, or start Docker or install Podman and name agent.sandbox.image"
    raise RecipeError(Problem("agent.sandbox.wall", sandbox.wall, f"{'; '.join(why)}: {cure}"))


def try_out(agent: AgentSection) -> str | None:
    """See a program end well within the agent's walls; says what is to be warned of, if anything is. Raises
    ``RecipeError``."""
    assert agent.sandbox is not None
    chosen = wall(agent.sandbox)
    with tempfile.TemporaryDirectory() as folder:
        relay = Path(folder)
        relay.chmod(0o755)
        (relay / "inside.py").write_text("")  # that python3 starts is what is tried
        within = Within(agent, relay, {}, ())
        try:
            done = subprocess.run(
                chosen.command(within),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise _untried(agent.sandbox, chosen, f"nothing came of it in {_PATIENCE:g} s") from None
    if done.returncode:
        raise _untried(agent.sandbox, chosen, _end(done.stderr))
    image = agent.sandbox.image
    if chosen is not _BUBBLEWRAP or image is None or _root(agent.sandbox):
        return None
    return (
        f"agent.sandbox.image: {image!r} is not used: bubblewrap runs no images, so agents see /usr of this "
        "machine in its place; start Docker or install Podman, or name a folder with a root file system"
    )


def _untried(sandbox: SandboxSection, chosen: Wall, why: str) -> RecipeError:
    cure = (
        f"{chosen.name} cannot start python3 in it: {why}; bubblewrap must be 0.8 or later and needs "
        "user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0); a container needs an image with python3"
    )
    return RecipeError(Problem("agent.sandbox", sandbox.image or sandbox.wall, cure))


def _end(text: str) -> str:
    return text.strip()[-300:]
