"""The embedded tracer against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy
import pytest

from al_ray import tracing
from al_ray.traces import otlp_in
from al_ray.types import Endpoint, Span


class Collector:
    """Answers as told and keeps what it was sent, as spans of one attempt."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.keys: set[str | None] = set()
        self.answers: list[int | bytes] = []
        """Of the next: statuses, or all that is written to the socket, which is then closed; then 200."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = collector.answers.pop(0) if collector.answers else 200
                if isinstance(status, bytes):
                    self.wfile.write(status)
                    self.close_connection = True
                    return
                if status == 200:
                    collector.keep(body)
                    collector.keys.add(self.headers["Authorization"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.llm = Endpoint(f"http://127.0.0.1:{self.server.server_port}/v1", "alr-key", "toy")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def keep(self, body: bytes) -> None:
        for resource in otlp_in.parse(body, is_json=True).resource_spans:
            for scope in resource.scope_spans:
                owner = otlp_in.Owner("r", 1)
                self.spans += [otlp_in.span_of(span, {}, owner, 2e9) for span in scope.spans]

    def named(self, name: str) -> Span:
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def parent(self, name: str) -> str | None:
        parent = self.named(name).attributes.get("al_ray.parent_id")
        return next((span.name for span in self.spans if span.id == parent), None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


@tracing.tool
def add(a: int, b: int = 2) -> int:
    return a + b


@tracing.tool
async def ask(question: str) -> dict[str, str]:
    await asyncio.sleep(0)
    tracing.annotate("asked", again=False)
    return {"answer": question}


@tracing.tool
def count(to: int) -> Iterator[int]:
    yield from range(to)


@tracing.traced
def plan() -> int:
    return add(1)


def test_operations_nest_and_tools_keep_their_arguments_and_results(collector: Collector) -> None:
    with tracing.attempt(collector.llm), tracing.agent("writer"):
        with tracing.operation("think", depth=2) as thinking:
            thinking["steps"] = ["a", "b"]
            assert plan() == 3
        assert list(count(3)) == [0, 1, 2]
    assert collector.keys == {"Bearer alr-key"}
    assert collector.parent("execute_tool add") == "plan"
    assert collector.parent("plan") == "think"
    assert collector.parent("think") == "invoke_agent writer"
    assert collector.parent("execute_tool count") == "invoke_agent writer"
    assert collector.parent("invoke_agent writer") is None
    told = collector.named("execute_tool add").attributes
    assert told["gen_ai.tool.name"] == "add"
    assert json.loads(told["gen_ai.tool.call.arguments"]) == {"a": 1}
    assert told["gen_ai.tool.call.result"] == "3"
    assert collector.named("think").attributes["steps"] == ["a", "b"]
    assert collector.named("think").attributes["depth"] == 2
    assert collector.named("invoke_agent writer").attributes["gen_ai.agent.name"] == "writer"


async def test_tasks_that_run_at_once_keep_their_own_places(collector: Collector) -> None:
    async def sub_agent(name: str) -> None:
        with tracing.agent(name), tracing.operation(f"work of {name}"):
            await asyncio.sleep(0.01)
            await ask(name)

    async with tracing.attempt(collector.llm):
        await asyncio.gather(*(sub_agent(name) for name in "abc"))
    for name in "abc":
        assert collector.parent(f"work of {name}") == f"invoke_agent {name}"
    asked = [span for span in collector.spans if span.name == "execute_tool ask"]
    works = {span.id: span.name for span in collector.spans if span.name.startswith("work")}
    for span in asked:
        answer = json.loads(span.attributes["gen_ai.tool.call.result"])["answer"]
        assert works[span.attributes["al_ray.parent_id"]] == f"work of {answer}"


def test_a_request_can_tell_the_operation_that_it_is_made_in(collector: Collector) -> None:
    assert tracing.headers() == {}
    with tracing.attempt(collector.llm):
        assert tracing.headers() == {}
        with tracing.agent("writer"):
            told = otlp_in.trace_context(tracing.headers()["traceparent"], otlp_in.Owner("r", 1))
    assert told["al_ray.parent_id"] == collector.named("invoke_agent writer").id


def test_threads_record_at_once_and_nothing_is_lost(collector: Collector) -> None:
    def work(number: int) -> None:
        with tracing.attempt(collector.llm):
            for step in range(50):
                tracing.annotate(f"{number}/{step}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(span.name for span in collector.spans) == sorted(
        f"{n}/{s}" for n in range(8) for s in range(50)
    )


def test_rewards_have_dimensions_and_the_call_that_earned_them(collector: Collector) -> None:
    with tracing.attempt(collector.llm):
        tracing.reward({"style": 0.5, "reward": 1}, call="chatcmpl-1")
        tracing.reward(0.25)
        tracing.reward({"reward": numpy.True_, "style": numpy.float32(0.5)})
    first, second, third = (span.attributes for span in collector.spans)
    assert (first["al_ray.reward"], first["al_ray.reward.call"]) == (1.0, "chatcmpl-1")
    assert first["al_ray.reward.dimensions"] == {"reward": 1.0, "style": 0.5}
    assert second["al_ray.reward"] == 0.25
    assert third["al_ray.reward.dimensions"] == {"reward": 1.0, "style": 0.5}
    huge = ({"style": float("inf")}, 1e308, 10**400, {"reward": 1.0, "style": 10**400})
    for wrong in (float("nan"), {}, *huge):
        with pytest.raises(ValueError, match="finite"):
            tracing.reward(wrong)


async def test_a_reward_that_names_no_call_is_there_before_anything_is_called_next(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a thread or a task, and within an operation that goes on; where that fails, it is told."""
    async with tracing.attempt(collector.llm):
        with tracing.agent("writer"):
            tracing.annotate("before")
            tracing.reward(1.0)
            assert [span.name for span in collector.spans] == ["before", "reward"]
            await asyncio.to_thread(tracing.reward, 0.5)
            assert len(collector.spans) == 3 and not caplog.text
            monkeypatch.setattr(tracing, "flush", lambda seconds=5.0: False)
            tracing.reward(0.25, call="chatcmpl-1")
            assert not caplog.text
            tracing.reward(0.25)
    assert "it may count for a later call; give its call" in caplog.text


def test_an_exception_is_recorded_where_it_passes_and_goes_on(collector: Collector) -> None:
    with tracing.attempt(collector.llm):
        with pytest.raises(TypeError, match="missing"):
            add()  # type: ignore[call-arg]
        with pytest.raises(KeyError), tracing.operation("look"):
            raise KeyError("x")
        tracing.exception(ZeroDivisionError("caught"))
        for _ in count(3):
            break
    add_told = collector.named("execute_tool add").attributes
    assert (add_told["error.type"], add_told["otel.status_code"]) == ("TypeError", "ERROR")
    assert collector.named("look").attributes["exception.type"] == "KeyError"
    assert collector.named("exception").attributes["exception.message"] == "caught"
    assert "error.type" not in collector.named("execute_tool count").attributes, "left early, not failed"


def test_what_cannot_be_told_is_no_reason_to_fail(collector: Collector) -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    class Untold(Exception):
        def __str__(self) -> str:
            return self.args[0]  # type: ignore[no-any-return]

    class Changing(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    circle: list[Any] = []
    circle.append(circle)
    with tracing.attempt(collector.llm):
        tracing.annotate("odd", a=Unprintable(), b=float("nan"), c=2**70, d=circle, e="\ud800", f="x" * 10**6)
        tracing.annotate("keys", of={Unprintable(): 1})
        with pytest.raises(Untold), tracing.operation("fails"):
            raise Untold({"code": 7})
        assert tracing.tool(lambda changing: len(changing))(Changing(a=1)) == 1
    assert "cannot be printed" in collector.named("fails").attributes["exception.message"]
    assert "Untold" in collector.named("fails").attributes["exception.stacktrace"]
    told = collector.named("odd").attributes
    assert "cannot be printed" in told["a"]
    assert (told["b"], told["c"], told["e"]) == ("nan", str(2**70), "\\ud800")
    assert len(told["f"]) == tracing.MAX_TEXT


def test_a_busy_gateway_is_asked_again_and_a_refusal_is_counted(collector: Collector) -> None:
    collector.answers = [503, 429]
    with tracing.attempt(collector.llm):
        tracing.annotate("patient")
    assert collector.named("patient")
    before = tracing.dropped()
    collector.answers = [401]
    with tracing.attempt(collector.llm):
        tracing.annotate("late")
    assert tracing.dropped() == before + 1


TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    "answer",
    [
        TAKEN % (21, b'{"part'),  # it was killed meanwhile
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nbu",
    ],
)
def test_an_answer_that_is_cut_off_is_asked_for_again(collector: Collector, answer: bytes) -> None:
    before = tracing.dropped()
    collector.answers = [answer]
    with tracing.attempt(collector.llm):
        tracing.annotate("first")
    with tracing.attempt(collector.llm):
        tracing.annotate("second")
    assert [span.name for span in collector.spans] == ["first", "second"]
    assert tracing.dropped() == before


@pytest.mark.parametrize("body", [b'{"partialSuccess": null}', b"[]", b'{"partialSuccess": []}', b"null"])
def test_an_answer_that_rejects_nothing_may_have_any_shape(collector: Collector, body: bytes) -> None:
    before = tracing.dropped()
    collector.answers = [TAKEN % (len(body), body)]
    with tracing.attempt(collector.llm):
        tracing.annotate("first")
    with tracing.attempt(collector.llm):
        tracing.annotate("second")
    assert [span.name for span in collector.spans] == ["second"]
    assert tracing.dropped() == before


def test_whatever_befalls_one_batch_later_ones_are_sent(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, counted and said."""
    before = tracing.dropped()
    odd = b'{"partialSuccess": {"rejectedSpans": [1]}}'
    collector.answers = [TAKEN % (len(odd), odd)]
    with tracing.attempt(collector.llm):
        tracing.annotate("first")
    assert tracing.dropped() == before + 1
    assert "TypeError" in caplog.text
    with tracing.attempt(collector.llm):
        tracing.annotate("second")
    assert collector.named("second")


CHILDREN = """
import multiprocessing, sys, tracing
def work(): tracing.annotate("in a child")
if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    child.start()
    child.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_a_child_of_multiprocessing_records_last_is_sent_as_it_ends(
    collector: Collector, tmp_path: Path, method: str
) -> None:
    """Those that are forked end without ``atexit``."""
    (tmp_path / "tracing.py").write_bytes(Path(tracing.__file__).read_bytes())
    (tmp_path / "agent.py").write_text(CHILDREN)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.llm.base_url.removesuffix("/v1")}
    command = [sys.executable, "-S", str(tmp_path / "agent.py"), method]
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert collector.named("in a child")


def test_a_gateway_that_is_away_costs_neither_time_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    away = Endpoint("http://127.0.0.1:9/v1", "alr-key", "toy")
    before = tracing.dropped()
    with tracing.attempt(away, flush_seconds=0.01):
        for number in range(tracing.QUEUE_SPANS + 1000):
            tracing.annotate(str(number))
    assert tracing.dropped() - before >= 1000 - 256
    assert "more spans wait than may wait" in caplog.text
    assert tracing.flush(60), "what cannot be sent does not wait for ever"


def test_without_an_endpoint_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    tracing._target_of_environment.cache_clear()
    with contextlib.suppress(KeyError), tracing.operation("alone"):
        tracing.reward(1.0)
        assert add(1) == 3
        raise KeyError
    assert tracing.flush(0)


def test_a_copy_of_the_file_needs_only_the_standard_library_and_opentelemetrys_variables(
    collector: Collector, tmp_path: Path
) -> None:
    """In an interpreter without site-packages; what is recorded last is sent as the process ends."""
    (tmp_path / "tracing.py").write_bytes(Path(tracing.__file__).read_bytes())
    agent = "import sys; sys.path.insert(0, '.'); import tracing\n@tracing.tool\ndef hi(): return 'hi'\nhi()"
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.llm.base_url.removesuffix("/v1"),
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20alr-key",
    }
    command = [sys.executable, "-I", "-S", "-c", agent]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)
    assert collector.named("execute_tool hi").attributes["gen_ai.tool.call.result"] == "hi"
    assert collector.keys == {"Bearer alr-key"}
