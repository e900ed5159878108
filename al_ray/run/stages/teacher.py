"""A teacher: a larger model at a vLLM server, which tells how likely it thinks tokens of ours.

They are sent as token ids, so its tokenizer must be ours; that is looked at before a run starts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp
import numpy as np

from al_ray.errors import Problem, RecipeError, UserError
from al_ray.recipe import OnPolicyDistillationStage, Recipe, UpstreamSection

_AT_ONCE: Final = 32
"""Rows that are asked about at the same time."""
_PATIENCE_SECONDS: Final = 300.0
"""How long a server that cannot be reached or is overburdened is asked again."""
_PATIENCE_BEFORE_SECONDS: Final = 10.0
"""Before a run has started, when somebody sits there."""
_ANSWER_SECONDS: Final = 600.0
_PAUSE_SECONDS: Final = 1.0
"""Before it is asked again; twice as long each time."""
_LONGEST_PAUSE_SECONDS: Final = 30.0


class Teacher:
    """An async context, in which its server may be asked. ``name`` is that of the recipe's upstream."""

    def __init__(
        self, name: str, upstream: UpstreamSection, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        self._place = f"upstreams.{name}"
        self._upstream = upstream
        self._patience = patience_seconds
        key = os.environ[upstream.api_key_env] if upstream.api_key_env else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Teacher:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def logprobs(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each row of token ids the natural log-probability of each token after those before it, float32
        of the row's length; 0 for the first. Raises ``UserError`` if the server does not tell."""
        return list(await asyncio.gather(*map(self._of_row, rows)))

    async def _of_row(self, tokens: Sequence[int]) -> np.ndarray:
        asked = {
            "model": self._upstream.model,
            "prompt": list(map(int, tokens)),
            "echo": True,
            "max_tokens": 0,
            "logprobs": 0,
        }
        async with self._room:
            answer = await self._ask("/completions", asked)
        try:
            first, *others = answer["choices"][0]["logprobs"]["token_logprobs"]
            told = np.array([0.0, *others], np.float32)
        except (LookupError, TypeError, ValueError) as error:
            raise self._problem(f"its answer has no log-probabilities of the prompt: {error!r}") from error
        if len(told) != len(tokens) or first is not None or not np.isfinite(told).all():
            raise self._problem(
                f"it told {len(told)} log-probabilities of {len(tokens)} tokens, or no numbers"
            )
        return told

    async def require_same_tokens(self, model: Path, max_length: int) -> None:
        """Raises ``RecipeError`` unless every token of the ``model`` in that folder is the same token there,
        and a row of ``max_length`` tokens can be told of."""
        from transformers import AutoTokenizer  # takes seconds, and only such a recipe needs it

        listed = await self._ask("/models", None)
        there = {each.get("id"): each for each in listed.get("data", ())}
        if self._upstream.model not in there:
            cure = f"the server has no such model; it has {', '.join(map(str, there))}"
            raise RecipeError(Problem(f"{self._place}.model", self._upstream.model, cure))
        longest = there[self._upstream.model].get("max_model_len")
        if longest is not None and longest <= max_length:  # it insists on room for one token more
            cure = (
                f"sees {longest} tokens; with model.max_length {max_length}, serve it with one more at least"
            )
            raise RecipeError(Problem(f"{self._place}.model", self._upstream.model, cure))
        tokenizer = await asyncio.to_thread(AutoTokenizer.from_pretrained, model)
        ids = list(range(len(tokenizer)))
        asked = {"model": self._upstream.model, "tokens": ids}
        told = await self._ask("/detokenize", asked, root=True)
        ours = tokenizer.decode(ids)
        if told.get("prompt") != ours:
            cure = (
                f"its tokens are not those of {model.name}, of which all {len(ids)} must be the same there, "
                "for a teacher is told token ids; take one of the same family"
            )
            raise RecipeError(Problem(f"{self._place}.model", self._upstream.model, cure))
        await self.logprobs([ids[:2]])

    async def _ask(self, path: str, body: Any, *, root: bool = False) -> Any:
        """POST, or GET without a body; as JSON. A server that cannot be reached, or says that it is the fault
        of its own, is asked again for a while. Raises ``UserError``."""
        base = self._upstream.base_url.rstrip("/")
        url = (base.removesuffix("/v1") if root else base) + path
        deadline = asyncio.get_running_loop().time() + self._patience
        pause = _PAUSE_SECONDS
        while True:
            try:
                method = "GET" if body is None else "POST"
                async with self._session.request(method, url, json=body) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        return await answer.json()
                    said = f"{method} {url} gave {answer.status}: {text[:300]}"
                    if answer.status < 500 and answer.status != 429:
                        raise self._problem(f"is no vLLM server that can teach: {said}")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                said = f"{url}: {type(error).__name__}: {error}"
            if asyncio.get_running_loop().time() + pause > deadline:
                raise self._problem(f"did not answer for {self._patience:g} s: {said}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _problem(self, cure: str) -> UserError:
        return UserError(Problem(f"{self._place}.base_url", self._upstream.base_url, cure))


def require_teachers(recipe: Recipe, model: Path) -> None:
    """Raises ``UserError`` where a teacher of the recipe's stages cannot teach the model in that folder."""
    stages = (stage for stage in recipe.stages if isinstance(stage, OnPolicyDistillationStage))
    if names := list(dict.fromkeys(stage.teacher for stage in stages)):
        # In a thread: the caller may be in an event loop, which waits until a run can start.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _require(recipe, names, model)).result()


async def _require(recipe: Recipe, names: Sequence[str], model: Path) -> None:
    for name in names:
        async with Teacher(name, recipe.upstreams[name], _PATIENCE_BEFORE_SECONDS) as teacher:
            await teacher.require_same_tokens(model, recipe.model.max_length)
