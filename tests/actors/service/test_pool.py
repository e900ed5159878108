"""Services beside the agents: hosted, asked, killed, and ended with the run. Real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from al_ray.actors.service import pool as pool_module
from al_ray.actors.service.actor import ServiceHost
from al_ray.actors.service.pool import ServicePool
from al_ray.errors import BadRequestError, DataError, Problem, ServiceUnavailableError, UnresponsiveError
from al_ray.machines.placement import beside_the_driver
from al_ray.recipe import ServiceSection
from al_ray.retrieval.build import build
from al_ray.retrieval.manifest import Settings
from tests.retrieval.conftest import write_corpus
from tests.support.machines.nodes import joined

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Echo:
    """Tells what it was made with and in which process it is."""

    def __init__(self, path: str | None, *, word: str = "hello") -> None:
        self._told = {"path": path, "word": word, "pid": os.getpid()}

    def check(self) -> None: ...

    async def start(self) -> None: ...

    async def answer(self, question: Any) -> Any:
        if question == "bad":
            raise BadRequestError("not that")
        return self._told | {"question": question}

    async def probe(self) -> None: ...


class Broken(Echo):
    async def start(self) -> None:
        raise DataError(Problem("index", "x", "make it"))


class Fleeting(Echo):
    """Its first process is killed as it starts."""

    def __init__(self, path: str | None, *, begun: str) -> None:
        super().__init__(path)
        self._begun = Path(begun)

    async def start(self) -> None:
        if not self._begun.exists():
            self._begun.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(Echo):
    """As it starts, it keeps its event loop to itself."""

    async def start(self) -> None:
        time.sleep(8)


class Silent(ServiceHost):
    """Its first process is stopped before it can tell anything, the second as its service starts."""

    begun: Path

    def __init__(self, *arguments: Any) -> None:
        self._stop_after(0)
        super().__init__(*arguments)

    async def start(self, port: int) -> int:
        self._stop_after(1)
        return await super().start(port)

    def _stop_after(self, others: int) -> None:
        mine = self.begun / str(os.getpid())
        mine.touch()
        if len([*self.begun.iterdir()]) == others + 1:
            os.kill(os.getpid(), signal.SIGSTOP)


class NeverWell(Echo):
    async def probe(self) -> None:
        raise RuntimeError("not well")


def section(name: str, **options: Any) -> ServiceSection:
    return ServiceSection(run=f"tests.actors.service.test_pool:{name}", options=options)


@asynccontextmanager
async def started(**sections: ServiceSection) -> AsyncIterator[tuple[ServicePool, Any]]:
    pool = ServicePool(sections, "/data", beside_the_driver())
    try:
        yield pool, await pool.start()
    finally:
        await pool.stop()


async def asked(url: str, question: Any, patience: float = 30.0) -> tuple[int, Any]:
    """Status and answer; asks again while nobody listens, as agents do."""
    deadline = time.monotonic() + patience
    while True:
        try:
            async with aiohttp.ClientSession() as session, session.post(url, json=question) as response:
                return response.status, await response.json()
        except aiohttp.ClientConnectionError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def gone(pid: int, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return not Path(f"/proc/{pid}").exists()


async def test_a_killed_service_answers_again_at_its_url_and_ends_with_the_run() -> None:
    """Killed with SIGKILL; another of the same class, with other options, does not notice."""
    async with started(one=section("Echo"), two=section("Echo", word="bye")) as (pool, urls):
        status, first = await asked(urls["one"], {"a": 1})
        assert (status, first["question"], first["word"], first["path"]) == (200, {"a": 1}, "hello", "/data")
        _, other = await asked(urls["two"], 1)
        assert other["word"] == "bye"
        assert await asked(urls["one"], "bad") == (400, {"error": "not that"})
        os.kill(first["pid"], signal.SIGKILL)
        assert await gone(first["pid"])
        _, second = await asked(urls["one"], {"a": 2})
        assert second["pid"] != first["pid"] and second["question"] == {"a": 2}
        assert (await asked(urls["two"], 1))[1]["pid"] == other["pid"]
        async with aiohttp.ClientSession() as session, session.get(f"{urls['one']}/health") as response:
            assert response.status == 200
        assert pool.failure() is None
    assert await gone(second["pid"]) and await gone(other["pid"])


async def test_a_service_that_is_killed_as_it_starts_is_followed_by_another(tmp_path: Path) -> None:
    async with started(one=section("Fleeting", begun=str(tmp_path / "begun"))) as (pool, urls):
        assert (tmp_path / "begun").exists()
        assert (await asked(urls["one"], 1))[0] == 200
        assert pool.failure() is None


async def test_a_service_that_is_stopped_as_it_starts_is_followed_by_another_and_a_slow_one_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_PROBE_SECONDS", 0.5)
    monkeypatch.setattr(pool_module, "_STARTING_SECONDS", 5.0)
    async with started(one=section("Slow")) as (_, urls):
        assert (await asked(urls["one"], 1))[0] == 200
    monkeypatch.setattr(pool_module, "ServiceHost", type("Silent", (Silent,), {"begun": tmp_path}))
    monkeypatch.setattr(pool_module, "_STARTING_SECONDS", 10.0)
    async with started(one=section("Echo")) as (_, urls):
        assert (await asked(urls["one"], 1))[0] == 200
        stopped = sorted(tmp_path.iterdir(), key=lambda each: each.stat().st_mtime)[:2]
        assert [await gone(int(each.name)) for each in stopped] == [True, True]


async def test_when_one_service_cannot_start_no_other_is_started_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is ended as it starts is not followed by another, whom nobody would end."""
    begun: list[str] = []

    async def start(_: ServicePool, hosted: Any) -> None:
        begun.append(hosted.name)
        await asyncio.sleep(0.2 if hosted.name == "broken" else 0.5)
        raise (
            DataError(Problem("index", "x", "make it")) if hosted.name == "broken" else UnresponsiveError("")
        )

    monkeypatch.setattr(ServicePool, "_start", start)
    monkeypatch.setattr(pool_module.ray, "kill", lambda _: None)
    with pytest.raises(DataError, match="make it"):
        async with started(broken=section("Echo"), other=section("Echo")):
            raise AssertionError("it has started")
    await asyncio.sleep(0.6)
    assert begun == ["broken", "other"]


@pytest.mark.parametrize("first", [True, False])
async def test_a_service_is_given_up_at_the_sixth_time_as_it_starts_and_later(
    monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    begun: list[str] = []

    async def start(_: ServicePool, hosted: Any) -> None:
        begun.append(hosted.name)
        raise UnresponsiveError("it does not answer")

    monkeypatch.setattr(ServicePool, "_start", start)
    monkeypatch.setattr(pool_module.ray, "kill", lambda _: None)
    pool = ServicePool({"one": section("Echo")}, None, {})
    [hosted] = pool._hosted
    with pytest.raises(UnresponsiveError if first else ServiceUnavailableError):
        await (pool._start_first(hosted) if first else pool._keep(hosted))
    assert begun == ["one"] * 6


async def test_what_a_service_says_when_it_cannot_start_is_said() -> None:
    with pytest.raises(DataError, match="make it"):
        async with started(one=section("Broken")):
            raise AssertionError("it has started")


async def test_a_service_that_is_never_well_ends_the_run_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_ray.actors.service.pool._MAX_DEATHS", 1)
    monkeypatch.setattr("al_ray.actors.service.pool._PROBE_EVERY", 0.05)
    async with started(one=section("NeverWell")) as (pool, _):
        deadline = time.monotonic() + 60
        while pool.failure() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        assert isinstance(pool.failure(), ServiceUnavailableError)


def built(folder: Path, shard_passages: int = 30) -> tuple[Path, Path]:
    corpus, index = folder / "corpus.jsonl", folder / "index"
    write_corpus(corpus, 90)
    build(corpus, index, Settings(bm25=True, encoder=None, shard_passages=shard_passages), lambda *_: None)
    return corpus, index


@pytest.fixture
def index(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus of 90 passages and its index in three shards."""
    return built(tmp_path)


def retrieval(index: tuple[Path, Path], shard_passages: int = 30) -> ServiceSection:
    corpus, folder = map(str, index)
    options = {"corpus": corpus, "index": folder, "shard_passages": shard_passages}
    return ServiceSection(run="al_ray.actors.service.retrieval:Retrieval", options=options)


async def test_retrieval_answers_many_at_once_from_all_shards(index: tuple[Path, Path]) -> None:
    async with started(retrieval=retrieval(index)) as (_, urls):
        url = urls["retrieval"]
        answers = await asyncio.gather(*(asked(url, {"query": f"own{n}", "k": 2}) for n in range(90)))
        assert [a["passages"][0]["id"] for _, a in answers] == [f"p{n}" for n in range(90)]
        assert len((await asked(url, {"query": "own1 own40 own80", "k": 2}))[1]["passages"]) == 2
        for question in ({"query": ""}, {"query": 3}, "x", {"query": "x", "k": 0}, {"query": "x", "k": 1e9}):
            status, answer = await asked(url, question)
            assert status == 400 and "must be a" in answer["error"]


async def test_a_killed_shard_is_replaced_and_the_question_answered(index: tuple[Path, Path]) -> None:
    """And with the service's own process, all its shards end."""
    async with started(retrieval=retrieval(index)) as (_, urls):
        shards = shard_processes(index[1])
        assert len(shards) == 3
        for pid in shards:
            os.kill(pid, signal.SIGKILL)
        _, answer = await asked(urls["retrieval"], {"query": "own70"})
        assert answer["passages"][0]["id"] == "p70"
        replaced = shard_processes(index[1])
    assert len(replaced) == 3 and not replaced & shards
    assert all([await gone(pid) for pid in replaced])


@pytest.mark.slow
async def test_shards_are_on_the_node_of_their_service_which_alone_has_their_files(
    tmp_path: Path, joining: Mapping[str, str]
) -> None:
    """Not on another that has more room: every process of a node is a child of that node's raylet."""
    index = built(tmp_path, 10)
    sections = {"one": section("Echo"), "retrieval": retrieval(index, 10)}
    with joined(joining["RAY_ADDRESS"], tmp_path, 8):
        async with started(**sections) as (_, urls):
            _, beside = await asked(urls["one"], 1)
            shards = [psutil.Process(pid).ppid() for pid in shard_processes(index[1])]
            assert shards == [psutil.Process(beside["pid"]).ppid()] * 9


def shard_processes(index: Path) -> set[int]:
    """Those that have scores of this index mapped."""
    mapped = f"{index}/shard-"
    return {pid for pid in _processes() if any(mapped in line and "data.csc" in line for line in _maps(pid))}


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]


def _maps(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:  # it has ended
        return []
