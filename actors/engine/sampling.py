"""How vLLM is to sample the answer to a call. vLLM is imported where that is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from al_ray.errors import BadRequestError
from al_ray.types import CompletionRequest, ModelRequest

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.sampling_params import StructuredOutputsParams

    from al_ray.actors.engine.rendering import ChatRendering

_MAX_STOPS: Final = 64
_MAX_STOP_LENGTH: Final = 2**13
"""Characters of all of them."""


def sampling_params(
    request: ModelRequest,
    openai: ChatCompletionRequest | None,
    rendering: ChatRendering,
    *,
    room: int,
    seeded: bool,
    streaming: bool,
) -> SamplingParams:
    """``openai`` is vLLM's form of the call, which a raw prompt has none of; ``room``, the tokens that the
    prompt leaves. Where it is not ``seeded``, the call's seed is left out: vLLM 0.32 on CPU dies when the
    prompt of a seeded request is computed in chunks, as it winds the request's generator back ("CPU Generator
    does not use offset"). Raises ``BadRequestError`` for what vLLM does not take."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    asked = request.sampling
    if len(asked.stop) > _MAX_STOPS or sum(map(len, asked.stop)) > _MAX_STOP_LENGTH:
        raise BadRequestError(
            f"stop: at most {_MAX_STOPS} sequences of {_MAX_STOP_LENGTH} characters together can be "
            f"looked for after each token, not {len(asked.stop)}"
        )
    try:
        return SamplingParams(
            n=asked.n if asked.temperature else 1,  # greedy choices are all the same
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_tokens=min(asked.max_tokens, room),
            stop=list(asked.stop),
            seed=asked.seed if seeded else None,
            logprobs=request.top_logprobs or 0,
            flat_logprobs=True,
            skip_special_tokens=openai is None or openai.skip_special_tokens,
            structured_outputs=_held_to(request, openai, rendering),
            output_kind=RequestOutputKind.DELTA if streaming else RequestOutputKind.FINAL_ONLY,
        )
    except (VLLMClientError, ValueError) as error:
        raise BadRequestError(f"sampling: {error}") from error


def _held_to(
    request: ModelRequest, openai: ChatCompletionRequest | None, rendering: ChatRendering
) -> StructuredOutputsParams | None:
    if openai is None or isinstance(request, CompletionRequest):
        return None
    return rendering.structured_outputs(openai, has_format=request.response_format is not None)
