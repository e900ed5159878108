"""A served model that knows most answers of a quiz, and an agent that asks it with its recipe: what an
evaluation needs where nothing is trained.

The model says ``yes``; of questions that 3 divides, ``no``; every second time that it is asked an odd one,
``no``; and question 7 is an error of the server's.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from openai import AsyncOpenAI

from al_ray.types import Endpoint, Task


def load(path: str | None, split: str, *, count: int = 12) -> list[Task]:
    name = "t" if split == "validation" else "u"
    return [Task(f"{name}{i}", {"question": str(i), "hops": 2 + i % 2}, split) for i in range(count)]


async def solve(task: Mapping[str, Any], llm: Endpoint) -> str | None:
    async with AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
        question: Any = [{"role": "user", "content": task["question"]}]
        reply = await client.chat.completions.create(model=llm.model, messages=question)
    return reply.choices[0].message.content


async def solve_slowly(task: Mapping[str, Any], llm: Endpoint) -> str | None:
    await asyncio.sleep(0.5)
    return await solve(task, llm)


def score(task: Mapping[str, Any], output: str) -> dict[str, float]:
    right = float(output == "yes")
    return {"reward": 0.9 * right + 0.1, "em": right, "f1": 0.5 + right / 2}


def write(results: Sequence[tuple[Mapping[str, Any], Any]], folder: Path) -> Path:
    path = folder / "predictions.json"
    path.write_text(json.dumps({task["question"]: output for task, output in results}))
    return path


def recipe(output: Path, **evaluation: Any) -> dict[str, Any]:
    """Its model is never loaded."""
    return {
        "name": "quiz",
        "output": str(output),
        "model": {"path": "nobody/none", "max_length": 128},
        "data": {"load": f"{__name__}:load"},
        "agent": {"run": f"{__name__}:solve", "evaluate": f"{__name__}:score", "timeout": 60,
                  "sampling": {"max_tokens": 8}},
        "stages": [{"algorithm": "grpo", "steps": 1, "optimizer": {"learning_rate": 1e-3}}],
        "evaluation": {"by": ["hops"], "predictions": f"{__name__}:write",
                       "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 8}, **evaluation},
    }  # fmt: skip


def write_recipe(folder: Path, content: Mapping[str, Any]) -> Path:
    """With a link by which the workers of a cluster find this module where a command runs in ``folder``."""
    (folder / "tests").symlink_to(Path(__file__).parents[2])
    path = folder / "quiz.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class Server:
    """The served model, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[Mapping[str, Any]] = []
        self.keys: set[str | None] = set()
        self.asked = Counter[str]()
        self._lock = threading.Lock()

    def answer(self, body: Mapping[str, Any], key: str | None) -> tuple[int, Any]:
        question = body["messages"][-1]["content"]
        with self._lock:
            self.bodies.append(body)
            self.keys.add(key)
            self.asked[question] += 1
            number, again = int(question), self.asked[question] % 2 == 0
        if number == 7:
            return 500, {"error": {"message": "the server has no idea"}}
        right = number % 3 != 0 and not (again and number % 2)
        message = {"role": "assistant", "content": "yes" if right else "no"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


@contextmanager
def served() -> Iterator[Server]:
    """In a thread of this process, on a port of this machine."""
    model = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply = model.answer(body, self.headers.get("Authorization"))
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
