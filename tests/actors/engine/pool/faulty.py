"""An engine without a model, on which a fault can be laid: at a method of its, one of the pool dies, is
stopped, hangs, waits or raises."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from al_ray.actors.engine.spec import EngineSpec
from al_ray.actors.line import OnLine
from al_ray.actors.weights.update import WeightUpdate


class FaultyEngine(OnLine):
    """Faults are files in the model's folder, ``METHOD.FAULT``: whichever engine finds it first obeys it. One
    that waits does so while there is a file ``METHOD waits``."""

    def __init__(self, spec: EngineSpec) -> None:
        self._faults = Path(spec.model_path)
        self._version = 0
        for fault in self._faults.glob("made.is_stopped"):
            fault.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    async def alive(self) -> None:
        pass

    async def start(self) -> None:
        await self._obey("start")

    async def ping(self) -> None:
        await self._obey("ping")

    async def pause(self) -> None:
        await self._obey("pause")

    async def load(self, update: WeightUpdate) -> None:
        await self._obey("load")
        self._version = update.version

    async def admit(self, version: int) -> None:
        self._version = version

    async def resume(self) -> None:
        await self._obey("resume")

    async def shutdown(self) -> None:
        await self._obey("shutdown")

    async def answer_when_released(self) -> str:
        """As a call: when there is a file ``released``."""
        while not (self._faults / "released").exists():
            await asyncio.sleep(0.05)
        return "released"

    async def policy_version(self) -> int:
        return self._version

    async def pid(self) -> int:
        return os.getpid()

    async def _obey(self, method: str) -> None:
        for fault in sorted(self._faults.glob(f"{method}.*")):
            held = self._faults / f"{method} waits"
            try:
                if fault.suffix == ".waits":
                    fault.rename(held)
                else:
                    fault.unlink()
            except FileNotFoundError:
                continue  # another's
            match fault.suffix:
                case ".dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                case ".is_stopped":
                    os.kill(os.getpid(), signal.SIGSTOP)
                    time.sleep(1)  # another thread may be the one that is told: no more faults until then
                case ".hangs":
                    await asyncio.Event().wait()
                case ".waits":
                    while held.exists():
                        await asyncio.sleep(0.05)
                case ".raises":
                    raise ValueError(f"{method} will not do")
