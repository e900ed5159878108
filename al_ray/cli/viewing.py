"""``al-ray view``: runs as a web page."""

from __future__ import annotations

from pathlib import Path

import typer

from al_ray.viewing.server import serve


async def view(root: Path, host: str, port: int, *, with_token: bool) -> None:
    """Until Ctrl-C."""
    await serve(root, host, port, with_token=with_token, tell=_tell)


def _tell(address: str) -> None:
    typer.echo(f"{address}\nCtrl-C ends it; nothing of the runs is changed.")
