"""``python -m tests.support.machines.light_ray`` is ``ray``, and the nodes that it starts have nothing that
is for dashboards, autoscalers or Ray's client alone. On a busy machine one with that is not there in the
time that Ray gives it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")


def main() -> None:
    from ray._private import ray_constants, services
    from ray._private.node import Node
    from ray.scripts.scripts import main as of_ray

    whole = services._build_python_executable_command_memory_profileable

    def command(component: str, session: str, unbuffered: bool = True) -> list[str]:
        if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return [sys.executable, "-S", __file__]
        return list(whole(component, session, unbuffered))

    def without_page(node: Any, **_: object) -> None:
        node._webui_url = ""

    def nothing(node: Any) -> None: ...

    services._build_python_executable_command_memory_profileable = command
    Node.start_api_server = without_page
    Node.start_monitor = Node.start_log_monitor = Node.start_ray_client_server = nothing
    of_ray()


def stand_in(arguments: dict[str, str]) -> None:
    """For a node's dashboard agent: it says that nothing is served, as long as its raylet lives."""
    for port in _PORTS:
        Path(arguments["--session-dir"], f"{port}_{arguments['--node-id']}").write_text("-1")
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    if any(argument.startswith("--session-dir=") for argument in sys.argv):
        stand_in(dict(argument.partition("=")[::2] for argument in sys.argv if "=" in argument))
    else:
        main()
