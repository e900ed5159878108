"""Schemas that are not plain, compiled once where they can harm nobody before vLLM compiles them.

Each trial is a process of its own with bounds on its memory and processor time, forked from one that has
the compiler loaded. One that dies of its schema has the call refused; everybody else's go on. What
was tried is remembered.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from multiprocessing.connection import Connection
from typing import Final
from weakref import WeakValueDictionary

import orjson

from al_ray.actors.engine.schema_bounds import are_plain, demanded
from al_ray.actors.recent import Recent
from al_ray.errors import BadRequestError
from al_ray.types import ChatRequest

_PROCESSOR_SECONDS: Final = 3
_MEMORY_BYTES: Final = 2 * 2**30
"""Beyond what the compiler takes when it is loaded."""
_WALL_SECONDS: Final = 60.0
"""On a machine that is full."""
_REMEMBERED: Final = 10_000


class SchemaTrials:
    """Those of one engine; ``vocabulary`` gives xgrammar's ``TokenizerInfo``, serialised."""

    def __init__(self, vocabulary: Callable[[], str]) -> None:
        self._vocabulary = cache(vocabulary)
        self._context = multiprocessing.get_context("forkserver")
        # The main module too: each trial would import it anew.
        self._context.set_forkserver_preload(["__main__", "xgrammar", __name__])
        self._passed: Recent[bytes, asyncio.Task[bool]] = Recent(_REMEMBERED)
        self._room = asyncio.Semaphore(1)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """An attempt with many schemas does not keep the others waiting: one of each waits for room."""

    async def admit(self, request: ChatRequest) -> None:
        """Raises ``BadRequestError`` if a schema that the response is held to is too costly to compile."""
        schemas = demanded(request)
        if are_plain(schemas):
            return
        texts = [orjson.dumps(schema).decode() for schema in schemas.values()]
        key = blake2b("\0".join(texts).encode(), digest_size=16).digest()
        if key not in self._passed:
            self._passed[key] = asyncio.create_task(self._in_turn(request.attempt or "", texts))
        try:
            passed = await asyncio.shield(self._passed[key])
        except Exception:  # no fault of the schema's
            self._passed.pop(key, None)
            raise
        if not passed:
            raise BadRequestError(
                f"{', '.join(schemas)}: compiling the schema takes more than {_PROCESSOR_SECONDS} s of "
                f"processor time or {_MEMORY_BYTES >> 30} GiB; send a simpler one"
            )

    async def _in_turn(self, attempt: str, texts: list[str]) -> bool:
        turn = self._turns.setdefault(attempt, asyncio.Lock())
        async with turn, self._room:
            return await asyncio.to_thread(self._survives, texts)

    def _survives(self, texts: list[str]) -> bool:
        vocabulary = self._vocabulary()
        ours, theirs = self._context.Pipe(duplex=False)
        trial = self._context.Process(target=_compile, args=(theirs, vocabulary, texts), daemon=True)
        with ours:
            trial.start()
            theirs.close()
            try:
                with suppress(EOFError):
                    return ours.poll(_WALL_SECONDS) and bool(ours.recv())
                return False
            finally:
                trial.kill()
                trial.join()
                trial.close()


def _compile(done: Connection, vocabulary: str, texts: list[str]) -> None:
    """In a process of its own. What the compiler refuses, vLLM refuses too, with its reason."""
    import xgrammar

    compiler = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo.deserialize_json(vocabulary), max_threads=1, cache_enabled=False
    )
    _bound(resource.RLIMIT_AS, _taken_bytes() + _MEMORY_BYTES)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _bound(resource.RLIMIT_CPU, round(used.ru_utime + used.ru_stime + 0.5) + _PROCESSOR_SECONDS)
    _bound(resource.RLIMIT_CORE, 0)
    for text in texts:
        with suppress(RuntimeError):
            compiler.compile_json_schema(text)
    done.send(True)


def _bound(what: int, limit: int) -> None:
    resource.setrlimit(what, (limit, limit))


def _taken_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
