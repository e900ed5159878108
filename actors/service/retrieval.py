"""Retrieval as a service: the shards of an index in an actor each, and what puts their answers together.

A question is ``{"query": TEXT, "k": NUMBER}``, the answer ``{"passages": [{"id", "title", "text"}, ...]}``,
the best first. Questions that arrive while others are answered go to the shards together.

Ray is imported where it is needed: `al-ray validate` looks at this class, and starts without Ray.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from al_ray.actors.coalescer import Coalescer
from al_ray.errors import BadRequestError, Problem, RecipeError, UserError
from al_ray.recipe import dotted
from al_ray.retrieval.ranking import DEPTH
from al_ray.types import JSON

if TYPE_CHECKING:
    from al_ray.retrieval.index import Found, Method, PreparedQueries, Searcher

SHARD_OPTIONS: Final = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""Ray starts a shard that died anew, and repeats what it was asked."""
MAX_QUERY_CHARS: Final = 4096
_DOTTED: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Retrieval:
    """``corpus`` is the file of the passages, or the dotted path of a function that is given ``path`` and
    returns it. ``index`` is the folder of the index; by default one in ``AL_RAY_HOME``."""

    def __init__(
        self,
        path: str | None,
        *,
        corpus: str,
        method: Method = "bm25",
        encoder: str = "all-MiniLM-L6-v2",
        shard_passages: int = 1_000_000,
        index: str | None = None,
    ) -> None:
        from al_ray.retrieval import manifest

        if method not in ("bm25", "dense", "hybrid"):
            raise RecipeError(Problem("method", method, "one of bm25, dense, hybrid"))
        named = dotted.load(corpus, "corpus")(path) if _DOTTED.fullmatch(corpus) else corpus
        self._corpus = Path(named).expanduser()
        self._settings = manifest.Settings(
            bm25=method != "dense",
            encoder=encoder if method != "bm25" else None,
            shard_passages=shard_passages,
        )
        default = manifest.default_folder(self._corpus, self._settings)
        self._folder = Path(index).expanduser() if index else default
        self._searcher: Searcher
        self._shards: Sequence[Any] = ()
        self._ask: Coalescer[tuple[str, int], JSON] = Coalescer(self._search)

    def build(self, progress: Callable[[str, int, int], None]) -> str:
        self._require_packages()
        from al_ray.retrieval.build import build

        build(self._corpus, self._folder, self._settings, progress)
        return str(self._folder)

    def check(self) -> None:
        self._require_packages()
        from al_ray.retrieval import manifest

        manifest.require_fresh(self._folder, self._corpus, self._settings)

    def _require_packages(self) -> None:
        """Raises ``UserError``: they come with an extra, which a recipe may need for nothing else."""
        needed = ["bm25s", "faiss", *["sentence_transformers"] * bool(self._settings.encoder)]
        if missing := [package for package in needed if find_spec(package) is None]:
            cure = "needed to search, and not installed: pip install 'al_ray[musique]'"
            raise UserError(Problem("retrieval", ", ".join(missing), cure))

    async def start(self) -> None:
        import ray

        from al_ray.machines.placement import beside_the_driver
        from al_ray.retrieval.index import Searcher

        self._searcher = await asyncio.to_thread(Searcher, self._folder)
        shard = ray.remote(ShardActor).options(**SHARD_OPTIONS, **beside_the_driver())  # the files are here
        self._shards = [shard.remote(str(self._folder), n) for n in range(self._searcher.shards)]
        # Loads and compiles what the first question would wait for.
        await self._search([(self._searcher.passage(0).whole, 1)])

    async def answer(self, question: JSON) -> JSON:
        query = question.get("query") if isinstance(question, dict) else None
        if not isinstance(query, str) or not query.strip() or len(query) > MAX_QUERY_CHARS:
            raise BadRequestError(f'"query" must be a text of 1 to {MAX_QUERY_CHARS} characters')
        k = question.get("k", 3)
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= DEPTH:
            raise BadRequestError(f'"k" must be a whole number from 1 to {DEPTH}')
        return await self._ask((query, k))

    async def probe(self) -> None:
        await asyncio.gather(*(shard.ping.remote() for shard in self._shards))

    async def _search(self, questions: list[tuple[str, int]]) -> list[JSON]:
        """All together, to the depth of the deepest, which changes nothing of what the others find."""
        most = max(k for _, k in questions)
        asked = await asyncio.to_thread(self._searcher.ask, [query for query, _ in questions], most)
        found = await asyncio.gather(*(shard.search.remote(asked) for shard in self._shards))
        ranked = self._searcher.rank(asked, found, most)
        return [
            {"passages": [asdict(self._searcher.passage(number)) for number, _ in ranking[:k]]}
            for ranking, (_, k) in zip(ranked, questions, strict=True)
        ]


class ShardActor:
    """Make it an actor with ``SHARD_OPTIONS``."""

    def __init__(self, index: str, number: int) -> None:
        from al_ray.retrieval.index import Shard

        self._number = number
        self._shard = Shard(Path(index), number)

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return f"shard {self._number} of an index"

    def ping(self) -> None:
        """Answers once the shard is there."""

    def search(self, asked: PreparedQueries) -> Found:
        return self._shard.search(asked)
