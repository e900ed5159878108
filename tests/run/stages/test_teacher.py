"""A teacher is asked again while its server is down, and refused where it cannot teach; a real one in
``test_stages``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from al_ray.errors import UserError
from al_ray.recipe import UpstreamSection
from al_ray.run.stages import teacher as module
from al_ray.run.stages.teacher import Teacher


class Server:
    """Answers like vLLM's: a token's log-probability is a hundredth of its id, and less than 0."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.max_length = 512
        self.failures: list[int] = []
        """Statuses of the next answers."""
        self.changed: dict[str, str] = {}
        self.answer: Any = None
        self.keys: set[str | None] = set()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "large", "max_model_len": self.max_length}]})

    async def detokenize(self, request: web.Request) -> web.Response:
        from transformers import AutoTokenizer

        text = AutoTokenizer.from_pretrained(self.model).decode((await request.json())["tokens"])
        for old, new in self.changed.items():
            text = text.replace(old, new)
        return web.json_response({"prompt": text})

    async def completions(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        if self.failures:
            return web.json_response({"error": "not now"}, status=self.failures.pop())
        if self.answer is not None:
            return web.json_response(self.answer)
        asked = await request.json()
        assert (asked["echo"], asked["max_tokens"], asked["logprobs"]) == (True, 0, 0)
        told = [None, *(-token / 100 for token in asked["prompt"][1:])]
        return web.json_response({"choices": [{"logprobs": {"token_logprobs": told}}]})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[UpstreamSection]:
    application = web.Application()
    application.router.add_get("/v1/models", server.models)
    application.router.add_post("/v1/completions", server.completions)
    application.router.add_post("/detokenize", server.detokenize)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield UpstreamSection(base_url=f"http://127.0.0.1:{port}/v1", model="large", api_key_env="TEACHERS_KEY")
    await runner.cleanup()


@pytest.fixture
def server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("TEACHERS_KEY", "secret")
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)
    return Server(tiny_model)


async def test_each_token_of_each_row_has_its_log_probability(server: Server) -> None:
    rows = [list(range(length, 2 * length)) for length in range(1, 80)]
    async with serving(server) as upstream, Teacher("wise", upstream) as teacher:
        told = await teacher.logprobs(rows)
    for row, found in zip(rows, told, strict=True):
        assert found == pytest.approx(np.array([0, *row[1:]], np.float32) / -100)
    assert server.keys == {"Bearer secret"}


async def test_a_server_that_is_down_for_a_while_is_asked_again(server: Server) -> None:
    server.failures = [503, 429, 500]
    async with serving(server) as upstream, Teacher("wise", upstream) as teacher:
        (told,) = await teacher.logprobs([[1, 2]])
    assert told.tolist() == pytest.approx([0, -0.02]) and not server.failures


@pytest.mark.parametrize(
    ("failures", "answer", "says"),
    [
        ([503] * 99, None, r"did not answer for 0\.2 s: POST http.*/v1/completions gave 503"),
        ([400], None, "is no vLLM server that can teach: POST .* gave 400: .*not now"),
        ([], {"choices": [{"text": "a"}]}, "its answer has no log-probabilities of the prompt"),
        ([], {"choices": [{"logprobs": {"token_logprobs": [None]}}]}, "it told 1 .* of 2 tokens"),
    ],
)
async def test_a_server_that_does_not_tell_is_the_users_problem(
    server: Server, failures: list[int], answer: Any, says: str
) -> None:
    server.failures, server.answer = failures, answer
    async with serving(server) as upstream, Teacher("wise", upstream, 0.2) as teacher:
        with pytest.raises(UserError, match=f"^upstreams.wise.base_url: 'http.*{says}"):
            await teacher.logprobs([[1, 2]])


async def test_a_teacher_with_other_tokens_a_smaller_context_or_another_name_is_refused(
    server: Server,
) -> None:
    """Before anything starts: one different token of all is enough."""
    async with serving(server) as upstream, Teacher("wise", upstream) as teacher:
        await teacher.require_same_tokens(server.model, 511)
        with pytest.raises(UserError, match=r"upstreams\.wise\.model: 'large': sees 512 tokens"):
            await teacher.require_same_tokens(server.model, 512)
        server.changed = {"</tool_call>": "<pad>"}
        with pytest.raises(UserError, match=r"its tokens are not those of tiny_model\d+, of which all 261"):
            await teacher.require_same_tokens(server.model, 128)
        other = upstream.model_copy(update={"model": "small"})
        async with Teacher("wise", other) as absent:
            with pytest.raises(UserError, match="'small': the server has no such model; it has large"):
                await absent.require_same_tokens(server.model, 128)
