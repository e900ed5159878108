"""A real HTTP server in place of the model: it answers with prepared messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Message = Mapping[str, Any]


def call(arguments: str, name: str = "search", call_id: str = "call_0") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def say(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@asynccontextmanager
async def model(replies: Sequence[Message | int]) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Its base URL and the requests it got. It gives the replies in turn, the last one for ever; a number
    is a status."""
    received: list[dict[str, Any]] = []

    async def complete(request: web.Request) -> web.Response:
        received.append(await request.json())
        reply = replies[min(len(received), len(replies)) - 1]
        if isinstance(reply, int):
            code = "context_length_exceeded" if reply == 400 else None
            return web.json_response({"error": {"message": "no", "code": code}}, status=reply)
        choice = {"index": 0, "message": reply, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response(head | {"choices": [choice]})

    async with server(("/v1/chat/completions", complete)) as url:
        yield f"{url}/v1", received


@asynccontextmanager
async def server(*routes: tuple[str, Any]) -> AsyncIterator[str]:
    app = web.Application()
    for path, handler in routes:
        app.router.add_post(path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
