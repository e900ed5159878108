"""Retrieval as it grows: build time, memory, queries a second, p99, and recall against exact search.

    python -m benchmarks.reading.retrieval bm25 100000 --shards 4
    python -m benchmarks.reading.retrieval dense 100000
    python -m benchmarks.reading.retrieval encoder 256
    python -m benchmarks.reading.retrieval service 100000 --shards 2

Passages are synthetic: 60 words each, drawn from two million by Zipf's law. A query is six words of one
passage. Vectors are random around a thousand centres. Each measurement has a process of its own and
prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Ranking = Sequence[tuple[int, float]]

WORDS = 2_000_000
PER_PASSAGE = 60
PER_QUERY = 6
WIDTH = 384
CENTRES = 1000
QUERIES = 500
BATCH = 32
K = 10


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Words by Zipf's law, as numbers; the thirty commonest are left out, as stop words are."""
    weights = 1 / (np.arange(30, WORDS + 30) + 2.7) ** 1.07
    return np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(count))


def write_corpus(path: Path, passages: int) -> list[tuple[int, str]]:
    """Returns queries, each with the number of the passage that it was taken from."""
    rng = np.random.default_rng(0)
    asked = np.sort(rng.choice(passages, min(QUERIES, passages), replace=False))
    queries = []
    with path.open("w", encoding="utf-8") as file:
        file.write("id\ttext\ttitle\n")
        for begin in range(0, passages, 10_000):
            size = min(10_000, passages - begin)
            block = drawn(rng, size * PER_PASSAGE).reshape(size, PER_PASSAGE)
            for row in range(size):
                file.write(f"{begin + row}\t{' '.join(f'w{w}' for w in block[row])}\tt\n")
            for number in asked[(asked >= begin) & (asked < begin + size)]:
                words = rng.choice(block[number - begin], PER_QUERY, replace=False)
                queries.append((int(number), " ".join(f"w{w}" for w in words)))
    return queries


def vectors(count: int, seed: int) -> np.ndarray:
    """Unit vectors around centres that do not depend on the seed."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, WIDTH), np.float32)
    rng = np.random.default_rng(seed)
    found = np.empty((count, WIDTH), np.float32)
    for begin in range(0, count, 10_000):
        size = min(10_000, count - begin)
        noise = rng.standard_normal((size, WIDTH), np.float32)
        part = centres[rng.integers(0, CENTRES, size)] + noise
        found[begin : begin + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return found


def timed(ask: Callable[[Sequence[Any]], Any], queries: Sequence[Any]) -> dict[str, float]:
    """Queries a second in batches, and how long single ones take."""
    for warm in queries[:3]:
        ask([warm])
    alone = []
    for query in queries[:200]:
        begun = time.perf_counter()
        ask([query])
        alone.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    for first in range(0, len(queries), BATCH):
        ask(queries[first : first + BATCH])
    rate = len(queries) / (time.perf_counter() - begun)
    p50, p99 = np.percentile(alone, [50, 99]) * 1000
    return {"queries_per_second": round(rate, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def memory() -> dict[str, float]:
    """Of this process: its own, and what it has mapped of files, in MiB."""
    fields = dict(
        line.split()[:2] for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line
    )
    own, mapped = int(fields["RssAnon:"]), int(fields["RssFile:"])
    return {"own_mib": round(own / 1024), "mapped_mib": round(mapped / 1024)}


def peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def size_mib(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 1)


def build_bm25(corpus: Path, folder: Path, shard_passages: int) -> dict[str, Any]:
    from al_ray.retrieval.build import build
    from al_ray.retrieval.manifest import Settings

    settings = Settings(bm25=True, encoder=None, shard_passages=shard_passages)
    begun = time.perf_counter()
    build(corpus, folder, settings, lambda what, done, total: None)
    return {
        "build_s": round(time.perf_counter() - begun, 1),
        "build_peak_mib": peak_mib(),
        "disk_mib": size_mib(folder),
    }


def search_bm25(folder: Path, queries: Sequence[tuple[int, str]]) -> dict[str, Any]:
    from al_ray.retrieval.index import Index

    index = Index(folder)
    texts = [text for _, text in queries]
    figures = timed(lambda asked: index.rank(asked, K), texts) | memory()
    rankings = index.rank(texts, K)
    found = sum(number in {n for n, _ in r} for (number, _), r in zip(queries, rankings, strict=True))
    return figures | {
        "own_passage_in_10": round(found / len(queries), 3),
        "top": rankings,
    }


def bm25(passages: int, shards: int) -> Iterator[dict[str, Any]]:
    """In one shard, which is exact search, and in several."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus, queries = Path(scratch) / "corpus.tsv", Path(scratch) / "queries.json"
        queries.write_text(json.dumps(write_corpus(corpus, passages)))
        exact = None
        for count in sorted({1, shards}):
            folder = Path(scratch) / f"index-{count}"
            built = apart("build_bm25", corpus, folder, -(-passages // count))
            searched = apart("search_bm25", folder, queries)
            top = searched.pop("top")
            exact = exact or top
            yield {
                "bm25": passages,
                "shards": count,
                **built,
                **searched,
                "recall_at_10": recall(exact, top),
            }


def recall(exact: Sequence[Ranking], found: Sequence[Ranking]) -> float:
    """How many of what was found are as good as the last of the exact: of equal ones any will do."""
    worst = [ranking[-1][1] * (1 - 1e-4) for ranking in exact]
    right = [sum(s >= least for _, s in r) / len(e) for e, r, least in zip(exact, found, worst, strict=True)]
    return round(float(np.mean(right)), 4)


def dense(passages: int) -> dict[str, Any]:
    from al_ray.retrieval import dense as index

    stored, queries = vectors(passages, 1), vectors(QUERIES, 2)
    begun = time.perf_counter()
    built = index.build(stored)
    seconds = time.perf_counter() - begun
    exact = [[(0, float(score)) for score in np.sort(stored @ query)[: -K - 1 : -1]] for query in queries]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dense.faiss"
        index.save(built, path)
        del built, stored
        mapped = index.load(path)
        figures = timed(lambda asked: index.search(mapped, np.stack(asked), K), list(queries))
        found = index.search(mapped, queries, K)
        kind = type(mapped).__name__
        told = {
            "dense": passages,
            "kind": kind,
            "build_s": round(seconds, 1),
            "disk_mib": size_mib(path.parent),
        }
        return {**told, **figures, "recall_at_10": recall(exact, found)}


def encoder(passages: int) -> dict[str, Any]:
    """Texts of about a hundred English words."""
    from al_ray.retrieval.encoder import Encoder

    model = Encoder("all-MiniLM-L6-v2")
    words = Path(__file__).resolve().parents[2].joinpath("docs/architecture.md").read_text().split()
    texts = [" ".join(words[n * 7 % 1500 :][:100]) for n in range(passages)]
    model.passages(texts[:8])
    begun = time.perf_counter()
    model.passages(texts)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    for text in texts[:50]:
        model.queries([" ".join(text.split()[:10])])
    alone = (time.perf_counter() - begun) / 50
    return {"encoder": passages, "passages_per_second": round(passages / seconds, 1),
            "query_ms": round(alone * 1000, 1), **memory()}  # fmt: skip


async def asked(url: str, queries: Sequence[str], at_once: int) -> dict[str, float]:
    import aiohttp

    rest, waits = iter(queries), []

    async def ask(session: aiohttp.ClientSession) -> None:
        for query in rest:
            begun = time.perf_counter()
            async with session.post(url, json={"query": query, "k": 3}) as response:
                assert response.status == 200, await response.text()
                await response.read()
            waits.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(ask(session) for _ in range(at_once)))
    rate = len(waits) / (time.perf_counter() - begun)
    p50, p99 = np.percentile(waits, [50, 99]) * 1000
    return {
        "at_once": at_once,
        "queries_per_second": round(rate, 1),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
    }


async def service(passages: int, shards: int) -> list[dict[str, Any]]:
    """Through HTTP and Ray, as agents ask: by 1, 8 and 64 at once."""
    import ray

    from al_ray.actors.service.pool import ServicePool
    from al_ray.recipe import ServiceSection

    with tempfile.TemporaryDirectory() as scratch:
        corpus, folder = Path(scratch) / "corpus.tsv", Path(scratch) / "index"
        queries = [text for _, text in write_corpus(corpus, passages)]
        per_shard = -(-passages // shards)
        apart("build_bm25", corpus, folder, per_shard)
        options = {"corpus": str(corpus), "index": str(folder), "shard_passages": per_shard}
        section = ServiceSection(run="al_ray.actors.service.retrieval:Retrieval", options=options)
        ray.init(address="local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
        pool = ServicePool({"retrieval": section}, None, {})
        try:
            url = (await pool.start())["retrieval"]
            await asked(url, queries[:50], 8)
            return [
                {"service": passages, "shards": shards} | await asked(url, queries * (4 if n > 1 else 1), n)
                for n in (1, 8, 64)
            ]
        finally:
            await pool.stop()
            ray.shutdown()


def apart(function: str, *arguments: Any) -> dict[str, Any]:
    """The function in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.reading.retrieval", "apart", function, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def run_apart(function: str, arguments: Sequence[str]) -> dict[str, Any]:
    if function == "build_bm25":
        return build_bm25(Path(arguments[0]), Path(arguments[1]), int(arguments[2]))
    return search_bm25(Path(arguments[0]), json.loads(Path(arguments[1]).read_text()))


def main() -> None:
    if sys.argv[1:2] == ["apart"]:
        print(json.dumps(run_apart(sys.argv[2], sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bm25", "dense", "encoder", "service"])
    parser.add_argument("passages", type=int)
    parser.add_argument("--shards", type=int, default=1)
    wanted = parser.parse_args()
    if wanted.what == "bm25":
        for line in bm25(wanted.passages, wanted.shards):
            print(json.dumps(line), flush=True)
    elif wanted.what == "service":
        os.environ["RAY_AUTH_MODE"] = "disabled"
        for line in asyncio.run(service(wanted.passages, wanted.shards)):
            print(json.dumps(line))
    else:
        print(json.dumps({"dense": dense, "encoder": encoder}[wanted.what](wanted.passages)))


if __name__ == "__main__":
    main()
