"""A coding agent of the command line that others wrote, within its recipe's walls, at a real gateway.

What the model says is scripted; templates, tokens and what becomes of them from call to call are real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray.actors.gateway.actor import GATEWAY_OPTIONS, Gateway
from al_ray.actors.line import OnLine
from al_ray.actors.runner.pool import RunnerPool
from al_ray.actors.runner.spec import RunnerSpec
from al_ray.errors import ContextLengthError
from al_ray.recipe import loading
from al_ray.traces import call_span, semconv
from al_ray.types import (
    ChatDelta,
    ChatReply,
    ChatRequest,
    Rollout,
    RolloutRequest,
    RolloutStatus,
    Span,
    SpanKind,
)
from examples.cli_agent import tasks
from tests.support.agents.client_environments import node_environment
from tests.support.houses.beside_the_store import finished
from tests.support.houses.gateway import SPEC
from tests.support.machines.bubblewrap import NOT_HERE, builds_walls
from tests.support.models.fake_engine import TOO_LONG
from tests.support.models.speaker import QWEN3, SMOLLM2_TOOLS, Speaker, byte_level_tokenizer, tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not builds_walls(), reason=NOT_HERE),
]

ROOT = Path(__file__).resolve().parents[4]
EXAMPLE = ROOT / "examples" / "cli_agent"
RECIPE = ROOT / "recipes" / "cli_agent.yaml"
MEND = "sed -i 's/x - 3/x + 3/' program.py && cat program.py"
FULL = "the context is full"
PYTHON = "calls as Python has them"
SCRIPTS = {
    PYTHON: [
        'I look first.[exec_command(cmd="cat program.py")]<|im_end|>',
        f"[exec_command(cmd={json.dumps(MEND)})]<|im_end|>",
        "It is right now.<|im_end|>",
    ],
    "calls as Hermes has them, after some thought": [
        "<think>\nWhat is there?\n</think>\n\nI look first."
        '<tool_call>{"name": "exec_command", "arguments": {"cmd": "cat program.py"}}</tool_call><|im_end|>',
        "<think>\nA minus.\n</think>\n\n"
        f'<tool_call>{{"name": "exec_command", "arguments": {{"cmd": {json.dumps(MEND)}}}}}</tool_call>'
        "<|im_end|>",
        "<think>\nDone.\n</think>\n\nIt is right now.<|im_end|>",
    ],
}
TEMPLATES = dict(zip(SCRIPTS, [SMOLLM2_TOOLS, QWEN3], strict=True))


class SpeakingEngine(OnLine):
    """Says the lines of a script, one after each result of a tool; ``FULL`` refuses the call."""

    def __init__(self, template: str, script: Sequence[str]) -> None:
        self._speaker = Speaker(template, byte_level_tokenizer(), reasons=template == QWEN3)
        self._script = script

    async def chat(self, request: ChatRequest) -> ChatReply:
        answered = sum(message["role"] == "tool" for message in request.messages)
        if self._script[answered] == FULL:
            raise ContextLengthError(TOO_LONG)
        return await self._speaker.answer(request, self._script[answered])

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatDelta | ChatReply]:
        reply = await self.chat(request)
        message = reply.choices[0].message
        if "reasoning" in message:
            yield ChatDelta(0, {"reasoning": message["reasoning"]}, 1)
        if message["content"]:
            yield ChatDelta(0, {"content": message["content"]}, 1)
        if calls := message.get("tool_calls"):
            yield ChatDelta(0, {"tool_calls": [{"index": 0, **calls[0]}]}, 1)
        yield reply


@pytest.fixture(scope="module")
def folder() -> Path:
    """The example's, with what npm puts there."""
    manifest = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))
    packages = [f"{name}@{version}" for name, version in manifest["dependencies"].items()]
    place = node_environment("cli_agent", packages)
    shutil.copy(EXAMPLE / "agent.py", place)
    return place


class Rollouts:
    """Of the example's recipe."""

    def __init__(self, store: Any, store_place: str, folder: Path) -> None:
        self._store = store
        self._store_place = store_place
        self._folder = folder

    async def one(self, template: str, script: Sequence[str]) -> Rollout:
        """While the engine says the lines of ``script``."""
        await self._store.ping.remote()
        gateway = ray.remote(Gateway).options(**GATEWAY_OPTIONS).remote(SPEC, self._store_place)
        url = await gateway.start.remote()
        engine = ray.remote(SpeakingEngine).options(num_cpus=0, max_concurrency=10).remote(template, script)
        await gateway.admit.remote([engine])
        agent = loading.load(RECIPE).agent.model_copy(update={"folder": str(self._folder)})
        pool = RunnerPool(RunnerSpec("runner", agent, [url], "toy"), 1, self._store, {})
        pool.start()
        (task,) = (task for task in tasks.load("", "train") if task.id == "+ 3, not -")
        await self._store.enqueue.remote([RolloutRequest("r", "b", "g", task)])
        (group,) = await finished(self._store, "b", 300)
        await pool.stop()
        ray.kill(gateway)
        ray.kill(engine)
        (rollout,) = group.rollouts
        assert rollout.status is RolloutStatus.SUCCEEDED, rollout.attempts[0].error
        return rollout


@pytest.fixture
def rollouts(start_store: Callable[..., Any], store_place: str, folder: Path) -> Rollouts:
    return Rollouts(start_store(), store_place, folder)


def calls(rollout: Rollout) -> list[Span]:
    return [span for span in rollout.spans if span.kind is SpanKind.CALL]


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_codex_mends_a_file_and_each_of_its_calls_continues_the_last_token_for_token(
    rollouts: Rollouts, kind: str
) -> None:
    """It keeps no reasoning: that is put back as the model thought it."""
    rollout = await rollouts.one(TEMPLATES[kind], SCRIPTS[kind])
    assert rollout.spans[-1].attributes[semconv.REWARD] == 1.0
    replies = [call_span.reply(call) for call in calls(rollout)]
    assert [reply.lineage.outcome for reply in replies] == ["new", "continued", "continued"]
    tokenizer = byte_level_tokenizer()
    for reply, line in zip(replies, SCRIPTS[kind], strict=True):
        assert reply.choices[0].response_ids == tokenizer.encode(line, add_special_tokens=False).ids
    for earlier, later in pairwise(replies):
        so_far = tokens(earlier)
        assert later.prompt_ids[: len(so_far)] == so_far
        assert later.lineage.reused_tokens == len(so_far)


@pytest.mark.parametrize(("last", "recorded"), [(FULL, 1), ("It is right", 2)], ids=["full", "cut off"])
async def test_what_codex_has_done_when_the_model_can_say_no_more_is_what_counts(
    rollouts: Rollouts, last: str, recorded: int
) -> None:
    """It ends with an exit code. A call that was refused is not recorded."""
    _, mend, _ = SCRIPTS[PYTHON]
    rollout = await rollouts.one(SMOLLM2_TOOLS, [mend, last])
    assert rollout.spans[-1].attributes[semconv.REWARD] == 1.0
    assert len(calls(rollout)) == recorded
