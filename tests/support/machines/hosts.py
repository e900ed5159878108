"""Machines of a network, on this one: each is a network namespace with an address, a name and shared memory
of its own, whose cable can be pulled.

This machine is in the network too. Everything is gone afterwards, but for what a test leaves that is killed
itself: the next takes other names.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_NETWORKS: Final = 256
_SHARED_MEMORY: Final = "256m"
_MOVE_IN: Final = f'hostname "$0" && mount -t tmpfs -o size={_SHARED_MEMORY} none /dev/shm && exec "$@"'


@dataclass(frozen=True, slots=True)
class Host:
    """One of the machines."""

    name: str
    address: str
    cable: str
    """The end of it that is here."""

    @property
    def inside(self) -> Sequence[str]:
        """What to begin a command with that is to run there."""
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", _MOVE_IN, self.name]

    def pull(self) -> None:
        """The cable: from now on nothing is heard of the host, not even that it is gone."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """The cable in again."""
        _ip("link", "set", self.cable, "up")

    def received(self) -> int:
        """Bytes so far, of all that came over the cable."""
        return int(Path(f"/sys/class/net/{self.cable}/statistics/tx_bytes").read_text())


@dataclass(frozen=True, slots=True)
class Network:
    """Machines that reach each other and this one."""

    here: str
    """This machine's address in it."""
    hosts: Sequence[Host]


@contextmanager
def network(count: int) -> Iterator[Network]:
    """So many machines beside this one. Skips the test where none can be made."""
    if missing := [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]:
        pytest.skip(f"no network namespaces: {', '.join(missing)} is not installed (iproute2, util-linux)")
    with ExitStack() as stack:
        try:
            bridge, number = _bridge(stack)
            hosts = [_host(bridge, number, place, stack) for place in range(count)]
        except _RefusedError as error:
            pytest.skip(f"network namespaces cannot be made here (root may, with CAP_SYS_ADMIN): {error}")
        yield Network(f"10.231.{number}.1", hosts)


class _RefusedError(Exception):
    """What ``ip`` says."""


def _bridge(stack: ExitStack) -> tuple[str, int]:
    """Its name and its network's number, which nobody has."""
    for number in range(_NETWORKS):
        name = f"al-ray{number}"
        try:
            _ip("link", "add", name, "type", "bridge")
        except _RefusedError as error:
            if "File exists" in str(error):
                continue
            raise
        stack.callback(_ip, "link", "delete", name)
        _ip("address", "add", f"10.231.{number}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        return name, number
    raise _RefusedError(f"{_NETWORKS} networks are here already: `ip link` shows them")


def _host(bridge: str, number: int, place: int, stack: ExitStack) -> Host:
    """At the bridge."""
    host = Host(f"al-ray{number}-{place}", f"10.231.{number}.{place + 2}", f"{bridge}.{place}")
    _ip("netns", "add", host.name)
    stack.callback(_ip, "netns", "delete", host.name)
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    stack.callback(_ip, "link", "delete", host.cable)
    _ip("link", "set", host.cable, "master", bridge, "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", host.name, "link", "set", device, "up")
    # Ray looks from which address it would go out into the world.
    _ip("-n", host.name, "route", "add", "default", "via", f"10.231.{number}.1")
    return host


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise _RefusedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
