"""What an agent calls when one task is tried by hand: gateway, services and, unless a hosted model answers,
an engine, all in this process, in an event loop of their own.

So the agent has the main thread to itself: it may block, stop in a debugger, and be interrupted, while its
calls are answered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar

from al_ray.actors.engine.actor import Engine
from al_ray.actors.engine.spec import EngineSpec, engine_environment
from al_ray.actors.gateway.actor import Gateway
from al_ray.actors.gateway.calls.engines.own import OwnEngine
from al_ray.actors.http import LOOPBACK
from al_ray.actors.service.actor import ServiceHost
from al_ray.database.backends import sqlite_url
from al_ray.machines import cluster
from al_ray.machines.plan import plan, this_machine
from al_ray.models import adapters, folders
from al_ray.recipe import Recipe
from al_ray.reports.console import Console
from al_ray.run.launch import specs

_OUTPUTS: Final = (1, 2)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class House:
    """Where an agent finds what it calls."""

    base_url: str
    services: Mapping[str, str]
    """URLs by name."""


@contextmanager
def opened(recipe: Recipe, store: Path, console: Console) -> Iterator[House]:
    """Inside, calls are answered and recorded in the SQLite file ``store``; what vLLM says of itself is in a
    log beside it. Raises ``UserError`` for what keeps that from being so. ``console`` must not speak to this
    process's standard output, but to a copy of it. The gateway listens until the process ends."""
    hosted = recipe.model.name in recipe.upstreams
    with ExitStack() as stack:
        loop = _Loop()
        stack.callback(loop.stop)
        engine = None
        if not hosted:
            spec = _engine_spec(recipe, console)
            with console.part("engine"), _written_to(store.with_name("engine.log")):
                engine = loop.run(_engine(spec))
            stack.callback(lambda: loop.run(engine.shutdown()))
        services = {}
        if recipe.services:  # which may have actors of their own, an index its shards
            with console.part("Ray"):
                stack.enter_context(cluster.running(dashboard=False))
        for name, section in recipe.services.items():
            with console.part(f"service {name}"):
                host = ServiceHost(name, section, recipe.data.path)
                services[name] = f"http://{LOOPBACK}:{loop.run(host.start(0))}"
        # A trial is no run: no collector waits for its spans.
        told = replace(specs.gateway_spec(recipe, None), export=None, host="127.0.0.1")
        gateway = Gateway(told, sqlite_url(store), OwnEngine(engine) if engine else None)
        yield House(loop.run(gateway.start()), services)


def _engine_spec(recipe: Recipe, console: Console) -> EngineSpec:
    """Of one engine, however many a run would have."""
    with console.part("model"):
        folder = folders.resolve(recipe.model.path, console.phase)
    folders.require_whole(folder, recipe.model)
    adapters.require_alike(recipe)
    alone = recipe.model_copy(
        update={
            "engines": recipe.engines.model_copy(update={"replicas": 1, "max_replicas": None}),
            "learners": recipe.learners.model_copy(update={"replicas": 1}),
            "placement": recipe.placement.model_copy(update={"layout": "auto"}),
        }
    )
    return specs.engine_spec(alone, plan(alone, this_machine()), Path(folder), learn=False)


@contextmanager
def _written_to(log: Path) -> Iterator[None]:
    """What this process writes inside, and those that it starts there for as long as they live, is told only
    if this fails."""
    kept = [os.dup(number) for number in _OUTPUTS]
    try:
        with log.open("wb") as file:
            for number in _OUTPUTS:
                os.dup2(file.fileno(), number)
        yield
    except Exception:
        os.write(kept[-1], log.read_bytes())
        raise
    finally:
        for number, copy in zip(_OUTPUTS, kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


async def _engine(spec: EngineSpec) -> Engine:
    # Read when vLLM and torch are imported.
    os.environ.update(engine_environment(spec), VLLM_LOGGING_LEVEL="ERROR")
    engine = Engine(spec)
    await engine.start()
    return engine


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """What it returns. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
