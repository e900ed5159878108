"""What an engine makes of vLLM's outputs: as many choices as were asked for, or why there are none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from al_ray.errors import BadRequestError, EngineUnavailableError
from al_ray.types import ChatDelta, ChatReply, CompletionRequest, Sampling
from tests.support.models.engine_inputs import engine_spec

if TYPE_CHECKING:  # imported where it is used: every worker that collects the tests would import it
    from al_ray.actors.engine.actor import Engine


class ScriptedLlm:
    """Says each of the texts, a token each, to whatever it is asked; the last one's end has a reason."""

    def __init__(self, texts: Sequence[str], reason: str) -> None:
        self._texts, self._reason = texts, reason

    async def generate(self, prompt: Any, params: Any, *others: Any, **named: Any) -> AsyncIterator[Any]:
        from vllm.logprobs import FlatLogprobs
        from vllm.outputs import CompletionOutput
        from vllm.sampling_params import RequestOutputKind

        whole = params.output_kind is RequestOutputKind.FINAL_ONLY
        for place, text in enumerate(["".join(self._texts)] if whole else self._texts):
            ids = list(range(len(self._texts))) if whole else [place]
            flat = FlatLogprobs()
            for token in ids:
                flat.append_fast([token], [-1.0], iter([1]), [text])
            reason = self._reason if whole or place == len(self._texts) - 1 else None
            yield SimpleNamespace(
                outputs=[
                    CompletionOutput(index, text, ids, 0.0, flat, finish_reason=reason)
                    for index in range(params.n)
                ]
            )


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """One over a vLLM that ends with ``reason``."""
    from al_ray.actors.engine.actor import Engine
    from al_ray.actors.engine.answer import Answer

    def of(reason: str) -> Engine:
        async def tokens(request: CompletionRequest) -> list[int]:
            return [1, 2]

        made = Engine(engine_spec(tmp_path))
        made._llm = ScriptedLlm(["so ", "it is"], reason)
        made._rendering = SimpleNamespace(
            raw_tokens=tokens, answer=lambda openai, ids, top, index: Answer(openai, ids, index, None, top)
        )
        return made

    return of


def asked(n: int, temperature: float) -> CompletionRequest:
    return CompletionRequest("c", "x", Sampling(temperature=temperature, n=n))


async def told(engine: Engine, request: CompletionRequest, *, stream: bool) -> tuple[list[Any], ChatReply]:
    """By choice, what was streamed of it; and the reply."""
    if not stream:
        return [], await engine.chat(request)
    *pieces, reply = [piece async for piece in engine.stream(request)]
    assert isinstance(reply, ChatReply) and all(isinstance(piece, ChatDelta) for piece in pieces)
    return [
        [(dict(piece.delta), piece.tokens) for piece in pieces if piece.index == choice.index]
        for choice in reply.choices
    ], reply


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 3])
async def test_as_many_choices_are_told_as_were_asked_for(
    engine: Any, n: int, temperature: float, stream: bool
) -> None:
    """vLLM samples no more than one greedily: that is all of them."""
    pieces, reply = await told(engine("stop"), asked(n, temperature), stream=stream)
    assert [choice.index for choice in reply.choices] == list(range(n))
    for choice in reply.choices:
        assert (choice.message["content"], choice.response_ids) == ("so it is", [0, 1])
    begun = ({"role": "assistant", "content": ""}, 0)
    assert pieces == [[begun, ({"content": "so "}, 1), ({"content": "it is"}, 1)]] * (n if stream else 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("reason", "error"), [("error", BadRequestError), ("abort", EngineUnavailableError)])
async def test_what_vllm_cannot_answer_is_that_calls_own_fault_unless_the_engine_ends(
    engine: Any, reason: str, error: type[Exception], stream: bool
) -> None:
    """Else a gateway would take the engine for dead, and each call beside it for what it may have died of."""
    with pytest.raises(error, match="gave"):
        await told(engine(reason), asked(1, 1.0), stream=stream)
