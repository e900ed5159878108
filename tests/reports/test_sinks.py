"""All places that a run's numbers go to are one."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.reports.sinks import Sinks


class _Broken(JsonlSink):
    def close(self, ok: bool) -> None:
        super().close(ok)
        raise OSError("no room for the last line")


class _Told(JsonlSink):
    ok: bool | None = None

    def close(self, ok: bool) -> None:
        super().close(ok)
        self.ok = ok


def test_one_that_cannot_be_closed_keeps_no_other_from_it(tmp_path: Path) -> None:
    """W&B would take the run for one that goes on."""
    first, broken, last = _Told(tmp_path, None), _Broken(tmp_path, None), _Told(tmp_path, None)
    with pytest.raises(OSError, match="no room"):
        Sinks([first, broken, last]).close(ok=True)
    assert first.ok and last.ok
