"""The door of a gateway: a listening socket that outlives the gateways which answer at it.

While a gateway is replaced, whoever comes waits in the socket's backlog instead of being refused, and
the address stays as it was. A gateway on the same node gets the socket through a Unix socket, which
gives it to nobody but the same user's processes.
"""

from __future__ import annotations

import os
import socket
import struct
import uuid
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Final

import ray

DOOR_OPTIONS: Final = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
BACKLOG: Final = 1024
"""Connections that may wait."""
_HATCH_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a door is."""

    port: int
    hatch: str
    """Names the Unix socket, on this node."""
    node: str


class Door:
    """Make it an actor with ``DOOR_OPTIONS``."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._socket: socket.socket | None = None
        self._hatch = f"\0al_ray-{uuid.uuid4().hex}"

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return "door of a gateway"

    def open(self, port: int = 0) -> Address:
        """Listen, if that is not done; 0 is any free port. A door that died is opened at its old one."""
        if self._socket is None:
            self._socket = listener(self._host, port)
            hatch = socket.socket(socket.AF_UNIX)
            hatch.bind(self._hatch)
            hatch.listen()
            Thread(target=_hand_out, args=(self._socket, hatch), daemon=True).start()
        node = ray.get_runtime_context().get_node_id()
        return Address(self._socket.getsockname()[1], self._hatch, node)


def listener(host: str, port: int = 0) -> socket.socket:
    """A listening socket."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=BACKLOG)


def at(door: Address) -> socket.socket:
    """The listening socket of a door on this node. Raises ``ConnectionError`` if the door has died, or does
    not answer."""
    with socket.socket(socket.AF_UNIX) as hatch:
        hatch.settimeout(_HATCH_SECONDS)
        try:
            hatch.connect(door.hatch)
            _, descriptors, _, _ = socket.recv_fds(hatch, 1, 1)
        except TimeoutError:
            raise ConnectionError(f"the door at port {door.port} does not answer") from None
    if not descriptors:
        raise ConnectionError(f"the door at port {door.port} gave no socket")
    return socket.socket(fileno=descriptors[0])


def _hand_out(held: socket.socket, hatch: socket.socket) -> None:
    while True:
        visitor, _ = hatch.accept()
        with visitor, suppress(OSError):  # of a visitor that has died meanwhile
            if _user(visitor) == os.getuid():
                socket.send_fds(visitor, [b"\0"], [held.fileno()])


def _user(visitor: socket.socket) -> int:
    """By the kernel's word: names of abstract sockets are open to every user of the node."""
    _, user, _ = struct.unpack("3i", visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user
