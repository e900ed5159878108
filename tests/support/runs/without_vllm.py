"""``python -m tests.support.runs.without_vllm`` is ``al-ray`` with engines that have no model, for what does
not depend on what a model says: importing vLLM twice is most of a small run's computing.

They say ``abcdefgh``, one token a letter, and refuse prompts of more characters than ``model.max_length``.
Each part that is started is told, however quickly it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from al_ray.actors.engine.pool import EnginePool
from al_ray.actors.engine.spec import EngineSpec
from al_ray.actors.line import OnLine
from al_ray.actors.weights.stored import local_files
from al_ray.actors.weights.update import WeightUpdate
from al_ray.cli.app import main
from al_ray.errors import ContextLengthError
from al_ray.reports import console
from al_ray.run.launch import start
from al_ray.types import JSON, ChatReply, ChatRequest, Choice, VersionSpan
from tests.support.models.fake_engine import TOO_LONG

SAID = "abcdefgh"


class SpeakingEngine(OnLine):
    """What a run asks of an engine, when nothing is streamed."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._version = 0

    async def alive(self) -> None: ...

    async def start(self) -> None: ...

    async def ping(self) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def shutdown(self) -> None: ...

    async def remember(self, request: ChatRequest, reply: ChatReply) -> None: ...

    async def render_calls(
        self, messages: Sequence[Mapping[str, JSON]], tools: Sequence[Mapping[str, JSON]] | None = None
    ) -> list[tuple[list[int], list[int]]]:
        told = [list(str(message.get("content")).encode()) for message in messages]
        said = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return [([*chain.from_iterable(told[:place])], told[place]) for place in said]

    async def load(self, update: WeightUpdate) -> None:
        async for path in local_files(update):
            assert Path(path).stat().st_size
        self._version = update.version

    async def chat(self, request: ChatRequest) -> ChatReply:
        prompt = "".join(str(message.get("content")) for message in request.messages)
        if len(prompt) > self._spec.max_length:
            raise ContextLengthError(TOO_LONG)
        count = len(SAID)
        said = {"role": "assistant", "content": SAID}
        versions = [VersionSpan(self._version, 0, count)]
        choice = Choice(0, said, "stop", list(range(5, 5 + count)), [-1.0] * count, versions)
        return ChatReply(list(prompt.encode()), [choice])


if __name__ == "__main__":
    start.EnginePool = partial(EnginePool, engine_class=SpeakingEngine)  # type: ignore[assignment,misc]
    console.TOLD_SECONDS = 0.0  # type: ignore[misc]
    main()
