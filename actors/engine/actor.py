"""One vLLM engine as a Ray actor: chat calls in, messages with their exact tokens out.

``Engine`` answers calls with the policy version it holds and says which version sampled each
token. Its weights change in place and only while it is paused; a paused engine keeps the calls
under way and takes new ones, and advances them when it is resumed.

vLLM is imported when the engine starts, so whoever only holds a handle does not load it.
"""

from __future__ import annotations

import asyncio
import gc
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psutil

from al_ray.actors.engine.continuation import Continuation, Prompt
from al_ray.actors.engine.lineage import LineageMemory
from al_ray.actors.engine.sampling import sampling_params
from al_ray.actors.engine.schema_trial import SchemaTrials
from al_ray.actors.engine.spec import EngineSpec, engine_args
from al_ray.actors.line import OnLine
from al_ray.actors.weights.stored import adapters_of, as_file, local_files
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import AlRayError, BadRequestError, ContextLengthError, EngineUnavailableError
from al_ray.models import adapters
from al_ray.models.imports import transformers_alone
from al_ray.recipe import LoraSection
from al_ray.types import (
    JSON,
    ChatDelta,
    ChatReply,
    Choice,
    CompletionRequest,
    Lineage,
    LineageOutcome,
    ModelRequest,
)

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

    from al_ray.actors.engine.rendering import ChatRendering


_Answer = TypeVar("_Answer")

_LOOK_SECONDS: Final = 0.5
"""After which it is seen, at the latest, that vLLM's core has died."""
_KILLED: Final = re.compile(rf"Failed core proc\(s\): \{{(\}}|.*: -{signal.SIGKILL.value}\b)")
"""In what vLLM tells of processes that ended as it started: the exit code of one that was killed, or none,
where it looked too early."""


class Engine(OnLine):
    """Made an actor by ``EnginePool``; call ``start`` before anything else."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._version = 0
        self._adapters: dict[str, LoRARequest] = {}
        """By policy; one that has none is the model itself."""
        self._llm: AsyncLLM
        self._rendering: ChatRendering
        self._continuation: Continuation
        self._trials: SchemaTrials

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return f"engine of {Path(self._spec.model_path).name}"

    async def alive(self) -> None:
        """Answers also while the engine starts. Raises ``EngineUnavailableError`` where a process that this
        waits for is stopped."""
        stopped = await asyncio.to_thread(_stopped_descendants)
        if stopped:
            raise EngineUnavailableError(f"stopped while the engine starts: {', '.join(stopped)}")

    async def start(self) -> None:
        """Loads the model; returns when the engine can answer. Raises ``EngineUnavailableError`` where vLLM's
        core was killed meanwhile, for all that is known."""
        try:
            await asyncio.to_thread(self._start)
        except RuntimeError as error:
            if _KILLED.search(str(error)) is None:
                raise
            raise EngineUnavailableError(f"ended while the engine started: {error}") from error
        await self._llm.update_weight_version(str(self._version))
        for policy, folder in self._spec.adapters.items():
            await self._adapt(policy, Path(folder))
        gc.collect()
        gc.freeze()  # what was started lives as long too
        gc.enable()

    def _start(self) -> None:
        """In a thread: it takes long, and ``alive`` answers meanwhile."""
        gc.disable()  # a fifth of the time of vLLM's imports goes into looking for garbage among them
        with transformers_alone():
            from vllm.v1.engine.async_llm import AsyncLLM

            from al_ray.actors.engine.rendering import ChatRendering

        # What vLLM's modules made lives as long as the engine: looking through it takes half a second.
        gc.freeze()
        self._llm = AsyncLLM.from_engine_args(engine_args(self._spec))
        self._rendering = ChatRendering(self._llm, self._spec)
        self._continuation = Continuation(self._rendering, LineageMemory())
        self._trials = SchemaTrials(self._rendering.vocabulary)

    async def chat(self, request: ModelRequest, /) -> ChatReply:
        """Answers one call. Raises ``BadRequestError`` where no engine could."""
        openai, prompt = await self._render(request)
        params = self._params(request, openai, prompt, streaming=False)
        answer = partial(self._rendering.answer, openai, prompt.ids, request.top_logprobs)
        async for output in self._generate(request.id, prompt.ids, params, request.policy):
            choices = [answer(choice.index).complete(choice) for choice in output.outputs]
        constrained = params.structured_outputs is not None
        return self._reply(request, openai, prompt, choices, constrained=constrained)

    async def stream(self, request: ModelRequest, /) -> AsyncGenerator[ChatDelta | ChatReply, None]:
        """Answers one call piece by piece; the last item is the reply that the pieces add up to. With stop
        strings, what a parser reads comes in one piece."""
        openai, prompt = await self._render(request)
        params = self._params(request, openai, prompt, streaming=True)
        answer = partial(self._rendering.answer, openai, prompt.ids, request.top_logprobs)
        answers = [answer(index) for index in range(params.n)]
        async for output in self._generate(request.id, prompt.ids, params, request.policy):
            for piece in output.outputs:
                begins = not answers[piece.index].started
                delta = answers[piece.index].extend(piece, stops=bool(request.sampling.stop))
                for index in range(request.sampling.n) if params.n == 1 else [piece.index]:
                    if begins:
                        yield ChatDelta(index, {"role": "assistant", "content": ""})
                    yield replace(delta, index=index)
        choices = [answer.choice() for answer in answers]
        constrained = params.structured_outputs is not None
        yield self._reply(request, openai, prompt, choices, constrained=constrained)

    async def remember(self, request: ModelRequest, reply: ChatReply) -> None:
        """Takes over a call that was answered elsewhere: one that continues it begins with its tokens."""
        if isinstance(request, CompletionRequest):
            return
        place = self._continuation.place(request)
        request = replace(request, messages=place.messages)
        openai = self._rendering.request(request)
        text, _ = await self._rendering.rendered(openai)
        prompt = Prompt(reply.prompt_ids, text, place, reply.lineage)
        self._continuation.remember(request, prompt, reply.choices, self._rendering.hidden(openai))

    async def render(
        self,
        messages: Sequence[Mapping[str, JSON]],
        tools: Sequence[Mapping[str, JSON]] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The tokens of a conversation, rendered as ``chat`` renders prompts."""
        return await self._rendering.conversation_tokens(messages, tools, add_generation_prompt)

    async def render_calls(
        self, messages: Sequence[Mapping[str, JSON]], tools: Sequence[Mapping[str, JSON]] | None = None
    ) -> list[tuple[list[int], list[int]]] | None:
        """Prompt and response tokens of every assistant message, as if this engine had sampled them.

        None for a conversation that is longer than ``max_length``: it could not have.
        """
        try:
            return await self._rendering.call_tokens(messages, tools)
        except ContextLengthError:
            return None

    async def logprobs(self, token_ids: list[int], policy: str = "") -> list[float]:
        """log p(token | tokens before it) for each token but the first, at temperature 1, by a policy."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        async for output in self._generate("logprobs", token_ids, params, policy):
            last = output
        return list(last.prompt_logprobs.logprobs)

    async def pause(self) -> None:
        """Freezes the calls under way and holds new ones."""
        await self._of_core(self._llm.pause_generation(mode="keep", clear_cache=False))

    async def resume(self) -> None:
        """Goes on with every call."""
        await self._of_core(self._llm.resume_generation())

    async def load(self, update: WeightUpdate) -> None:
        """Replaces the weights, or the adapters, by those that ``update`` points to."""
        if self._spec.lora is None:
            await self._load_weights(update)
        else:
            await self._load_adapters(update, self._spec.lora)
        await self.admit(update.version)

    async def _load_weights(self, update: WeightUpdate) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self.start_weight_update()
        async for path in local_files(update):
            await self.update_weights(WeightTransferUpdateRequest({"path": path}))
        await self.finish_weight_update()

    async def _load_adapters(self, update: WeightUpdate, section: LoraSection) -> None:
        await self._require_paused()
        for policy, weights in (await adapters_of(update)).items():
            with (
                as_file(weights) as file,
                adapters.folder_of(file, section, self._spec.model_path) as folder,
            ):
                await self._adapt(policy, folder)

    async def _adapt(self, policy: str, folder: Path) -> None:
        """In the place of the policy's adapter before, which calls under way name by the same number. vLLM
        tells what it has computed with one from what it has with another by name and folder."""
        from vllm.lora.request import LoRARequest

        known = self._adapters.get(policy)
        number = known.lora_int_id if known else len(self._adapters) + 1
        told = policy or "policy", number, str(folder)
        await self._of_core(self._llm.add_lora(LoRARequest(*told, load_inplace=True)))
        self._adapters[policy] = LoRARequest(*told)

    async def admit(self, version: int) -> None:
        """Declares the weights just loaded to be policy ``version``."""
        # Keys and values of the old weights are worthless, those of frozen calls included: these are
        # computed anew from their tokens when the engine resumes.
        if not await self._of_core(self._llm.reset_prefix_cache(reset_running_requests=True)):
            raise AlRayError(f"policy version {version}: vLLM could not drop the prefix cache")
        await self._of_core(self._llm.update_weight_version(str(version)))
        self._version = version

    async def policy_version(self) -> int:
        return self._version

    async def ping(self) -> None:
        """Raises unless the engine can compute. vLLM's core answers between two steps of the model: one that
        is stopped or stuck does not, though vLLM calls it healthy."""
        await self._of_core(self._llm.is_paused())

    async def shutdown(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown()

    # --- vLLM's ``RayVLLMWeightSyncClient``, which the learner drives over nccl and ipc, calls these

    async def init_weight_transfer_engine(self, request: WeightTransferInitRequest) -> None:
        await self._llm.init_weight_transfer_engine(request)

    async def start_weight_update(self) -> None:
        await self._require_paused()
        await self._of_core(self._llm.start_weight_update())

    async def update_weights(self, request: WeightTransferUpdateRequest) -> None:
        await self._of_core(self._llm.update_weights(request))

    async def finish_weight_update(self) -> None:
        await self._of_core(self._llm.finish_weight_update())

    async def _of_core(self, asked: Coroutine[Any, Any, _Answer]) -> _Answer:
        """What vLLM's core answers. Of its death, vLLM does not tell whoever waits for it."""
        answer = asyncio.ensure_future(asked)
        while not answer.done():
            await asyncio.wait({answer}, timeout=_LOOK_SECONDS)
            if not answer.done():
                try:
                    await self._llm.check_health()
                except BaseException:
                    answer.cancel()
                    raise
        return answer.result()

    async def _require_paused(self) -> None:
        if not await self._of_core(self._llm.is_paused()):
            raise AlRayError("the weights of a running engine cannot be changed; pause it first")

    async def _render(self, request: ModelRequest) -> tuple[ChatCompletionRequest | None, Prompt]:
        """vLLM's form of the call, which a raw prompt has none of, and the prompt."""
        if isinstance(request, CompletionRequest):
            ids = await self._rendering.raw_tokens(request)
            openai, prompt = None, Prompt(ids, None, None, Lineage(LineageOutcome.NEW))
        else:
            self._require_room(len(request.messages), "messages, each of a token at least, are")
            await self._trials.admit(request)
            place = self._continuation.place(request)
            request = replace(request, messages=place.messages)
            openai = self._rendering.request(request)
            prompt = await self._continuation.prompt(request, place, *await self._rendering.rendered(openai))
        self._require_room(len(prompt.ids), "tokens of the prompt are")
        return openai, prompt

    def _require_room(self, least: int, what: str) -> None:
        """The prompt has at least so many tokens. Clients know what is too long by vLLM's own first words."""
        if least >= self._spec.max_length:
            raise ContextLengthError(
                f"prompt: This model's maximum context length is {self._spec.max_length} tokens "
                f"(model.max_length). However, the {least} {what} more than it leaves beside a response."
            )

    def _reply(
        self,
        request: ModelRequest,
        openai: ChatCompletionRequest | None,
        prompt: Prompt,
        choices: Sequence[Choice],
        *,
        constrained: bool,
    ) -> ChatReply:
        """Remembered before anyone sees it, so that the next call can continue it."""
        if openai is not None:
            self._continuation.remember(request, prompt, choices, self._rendering.hidden(openai))
        if len(choices) < request.sampling.n:
            choices = [replace(choices[0], index=index) for index in range(request.sampling.n)]
        return ChatReply(prompt.ids, choices, prompt.lineage, constrained=constrained)

    def _params(
        self,
        request: ModelRequest,
        openai: ChatCompletionRequest | None,
        prompt: Prompt,
        *,
        streaming: bool,
    ) -> SamplingParams:
        room, seeded = self._spec.max_length - len(prompt.ids), self._spec.device != "cpu"
        return sampling_params(
            request, openai, self._rendering, room=room, seeded=seeded, streaming=streaming
        )

    async def _generate(
        self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams, policy: str
    ) -> AsyncIterator[RequestOutput]:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": list(prompt_ids)},
                params,
                request_id,
                lora_request=self._adapters.get(policy),
            ):
                reasons = {choice.finish_reason for choice in output.outputs}
                if "error" in reasons:  # of this call alone: the engine goes on with the others
                    raise BadRequestError(
                        "vLLM gave this call up, most likely because it could not hold the answer to the "
                        "response format or the tool's schema; the engine's log has the cause"
                    )
                if "abort" in reasons:
                    raise EngineUnavailableError(f"call {request_id}: the engine, which ends, gave it up")
                yield output
        except VLLMClientError as error:
            raise BadRequestError(str(error)) from error
        except EngineDeadError as error:
            raise EngineUnavailableError(f"call {request_id}: the engine's core process died") from error


def _stopped_descendants() -> list[str]:
    """Of this process, by name."""
    stopped = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_STOPPED:
                stopped.append(f"{process.name()} ({process.pid})")
    return stopped
