"""Messages to tokens, by the model's chat template and tokenizer, as vLLM's own OpenAI server does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from vllm.entrypoints.generate.base.protocol import structured_outputs_from_response_format
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.parser import ParserManager
from vllm.renderers import TokenizeParams
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from al_ray.actors.engine.answer import Answer, without_half_characters
from al_ray.actors.engine.lineage import Turn
from al_ray.errors import BadRequestError, ContextLengthError
from al_ray.traces.messages import Message
from al_ray.types import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from al_ray.actors.engine.spec import EngineSpec

_NOT_DEMANDED: Final = (None, "none", "auto")
"""Tool choices that leave it to the model whether it calls a tool."""
_SAYS_TYPE: Final = {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
"""The keys by which a JSON schema may say what type it is of."""


class ChatRendering:
    """One model's chat template, tokenizer and parsers; a ``Renderer`` of ``continuation``."""

    def __init__(self, llm: AsyncLLM, spec: EngineSpec) -> None:
        self._model_config = llm.model_config
        self._vllm_config = llm.vllm_config
        self._tokenizer = llm.get_tokenizer()
        self._template = spec.chat_template
        self._renderer = OnlineRenderer(
            llm.model_config,
            llm.renderer,
            request_logger=None,
            chat_template=spec.chat_template,
            chat_template_content_format="auto",
            enable_auto_tools=spec.tool_parser is not None,
            tool_parser=spec.tool_parser,
            reasoning_parser=spec.reasoning_parser,
            # Of grammars alone, and ``structured_outputs`` decides where there is one.
            tool_strict_level="parameter",
        )
        self._plain_parser = ParserManager.get_parser(
            reasoning_parser_name=spec.reasoning_parser,
            model_name=llm.model_config.model,
            tokenizer=self._tokenizer,
        )
        self._parses_tools = spec.tool_parser is not None
        # Those of Mistral's have no such table, and no text that could be continued.
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        self._special = frozenset(id for id, token in added.items() if token.special)
        self._ends = {id: self._tokenizer.decode([id]) for id in self._end_ids()}

    def request(self, request: ChatRequest) -> ChatCompletionRequest:
        """vLLM's form of ``request``; its sampling stays with us."""
        fields: dict[str, Any] = {"messages": [_readable(message) for message in request.messages]}
        if request.tools is not None:
            fields["tools"] = [dict(tool) for tool in request.tools]
        if request.tool_choice is not None:
            fields["tool_choice"] = request.tool_choice
        if request.response_format is not None:
            fields["response_format"] = request.response_format
        if not request.parallel_tool_calls:
            fields["parallel_tool_calls"] = False
        if request.tools and request.tool_choice != "none" and not self._parses_tools:
            raise BadRequestError(
                "tools: this model's tool calls cannot be parsed; set model.tool_parser in the recipe, "
                "or send tool_choice 'none'"
            )
        return _validated(fields)

    def vocabulary(self) -> str:
        """xgrammar's ``TokenizerInfo``, serialised, as vLLM compiles grammars with it."""
        vocabulary_size = self._model_config.get_vocab_size()
        backend = XgrammarBackend(self._vllm_config, self._tokenizer, vocabulary_size)
        # It tells it only with a grammar that it has compiled.
        serialised: str = backend.compiler.compile_regex("a").tokenizer_info.serialize_json()
        return serialised

    async def rendered(self, request: ChatCompletionRequest) -> tuple[str | None, list[int]]:
        """The prompt as text, where the tokenizer works on text, and as tokens.

        Parsers may adjust ``request`` on the way, as vLLM lets them.
        """
        one_call = request.parallel_tool_calls is False
        if request.tool_choice in _NOT_DEMANDED:
            # Of what the policy calls freely the first is told; some parsers refuse what a grammar would have
            # to hold to one.
            request.parallel_tool_calls = True
        try:
            rendered = await self._renderer.render_chat(request)
        except VLLMValidationError as error:
            raise _refused("messages", error) from error
        except (VLLMClientError, ValueError, TypeError, RecursionError) as error:
            raise BadRequestError(f"messages: the chat template cannot render them: {error}") from error
        finally:
            request.parallel_tool_calls = not one_call
        if isinstance(rendered, ErrorResponse):
            raise BadRequestError(rendered.error.message)
        _, (prompt,) = rendered
        return prompt.get("prompt"), list(prompt["prompt_token_ids"])

    def structured_outputs(
        self, openai: ChatCompletionRequest, *, has_format: bool
    ) -> StructuredOutputsParams | None:
        """The grammar that the response is held to, where the agent demands a tool or a format.

        A tool's ``strict`` would mask tokens also where the policy may choose whether to call it; only
        what is demanded is worth sampling from another distribution than the policy's.
        """
        if not has_format and openai.tool_choice in _NOT_DEMANDED:
            return None
        held = structured_outputs_from_response_format(openai.structured_outputs, openai.response_format)
        if held is not None and isinstance(held.structural_tag, str):
            tag = json.loads(held.structural_tag)
            _hold_arguments_to_objects(tag)
            held = replace(held, structural_tag=json.dumps(tag))
        return held

    async def raw_tokens(self, request: CompletionRequest) -> list[int]:
        """The prompt of a call that brings its own: text as the tokenizer takes it, or ids as they are."""
        if isinstance(request.prompt, str):
            return await self._tokens(request.prompt, special=True)
        beyond = self._model_config.get_vocab_size()
        wrong = next((token for token in request.prompt if not 0 <= token < beyond), None)
        if wrong is not None:
            raise BadRequestError(f"prompt: {wrong} is no token id: the model has {beyond} tokens")
        return list(request.prompt)

    async def conversation_tokens(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, add_generation_prompt: bool
    ) -> list[int]:
        """The tokens of a whole conversation, as ``rendered`` gives its beginning."""
        fields: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "tool_choice": "none",
            "add_generation_prompt": add_generation_prompt,
        }
        _, tokens = await self.rendered(_validated(fields))
        return tokens

    async def call_tokens(
        self, messages: Sequence[Message], tools: Sequence[Message] | None
    ) -> list[tuple[list[int], list[int]]]:
        """For every assistant message, the prompt before it and the response that it is.

        A response ends with the end of turn; what the template writes after that is nobody's action.
        Raises ``BadRequestError`` where the template renders a message differently once it is there.
        """
        calls = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = await self.conversation_tokens(messages[:index], tools, True)
            whole = await self.conversation_tokens(messages[: index + 1], tools, False)
            added = whole[len(prompt) :]
            end = self._tokenizer.eos_token_id
            if whole[: len(prompt)] != prompt or end not in added:
                raise BadRequestError(
                    f"messages.{index}: the chat template does not extend the prompt by this message and an "
                    f"end of turn ({self._tokenizer.eos_token!r}), so it cannot be imitated"
                )
            calls.append((prompt, added[: added.index(end) + 1]))
        return calls

    def answer(
        self,
        request: ChatCompletionRequest | None,
        prompt_ids: Sequence[int],
        top_logprobs: int | None,
        index: int,
    ) -> Answer:
        """An empty answer to ``request``, or to a raw prompt, whose answer is nothing but text.

        Tool calls are looked for only where they may be made.
        """
        if request is None:
            return Answer(None, prompt_ids, index, None, top_logprobs)
        with_tools = request.tools is not None and request.tool_choice != "none"
        parser_class = self._renderer.parser if with_tools else self._plain_parser
        if parser_class is None:
            return Answer(request, prompt_ids, index, None, top_logprobs)
        parser = parser_class(
            self._tokenizer,
            request.tools if with_tools else None,
            chat_template_kwargs=self._renderer.effective_chat_template_kwargs(request),
            model_config=self._model_config,
        )
        parser.set_prompt_token_ids(prompt_ids)
        return Answer(request, prompt_ids, index, parser, top_logprobs)

    # --- what a continuation is proved by

    @property
    def ends(self) -> Mapping[int, str]:
        """The tokens with which the model may end its turn, as they stand in text."""
        return self._ends

    async def encode(self, text: str) -> list[int]:
        """The tokens of a piece of a rendered conversation."""
        return await self._tokens(text, special=False)

    async def read(self, text: str, request: ChatRequest, turn: Turn) -> Message:
        """``text`` as the message that an agent would be given if ``turn`` had been that text."""
        tool_choice = "auto" if turn.message.get("tool_calls") else "none"
        openai = self.request(replace(request, tool_choice=tool_choice, parallel_tool_calls=True))
        answer = self.answer(openai, turn.prompt_ids.tolist(), top_logprobs=None, index=0)
        return answer.read(text, await self.encode(text))

    def hidden(self, request: ChatCompletionRequest) -> Set[int]:
        """The tokens that the agent is not shown where they are sampled in mid-answer."""
        return self._special if request.skip_special_tokens else frozenset()

    async def _tokens(self, text: str, *, special: bool) -> list[int]:
        """On vLLM's thread; a text that is too long by its length alone is not looked at."""
        params = TokenizeParams(self._model_config.max_model_len, add_special_tokens=special)
        try:
            encoded = await self._renderer.renderer.tokenize_prompt_async({"prompt": text}, params)
        except VLLMValidationError as error:
            raise _refused("prompt", error) from error
        return list(encoded["prompt_token_ids"])

    def _end_ids(self) -> set[int]:
        configured = self._model_config.try_get_generation_config().get("eos_token_id") or []
        ends = {configured} if isinstance(configured, int) else set(configured)
        return ends | {self._tokenizer.eos_token_id}


def _refused(place: str, error: VLLMValidationError) -> BadRequestError:
    """vLLM counts a text's characters before its tokens."""
    too_long = error.parameter in ("input_text", "input_tokens")
    return (ContextLengthError if too_long else BadRequestError)(f"{place}: {error}")


def _readable(message: Message) -> dict[str, Any]:
    """The message without half a surrogate pair in its tool calls' JSON: vLLM reads that JSON, and then no
    tokenizer the text."""
    readable = dict(message)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and any("\\ud" in str(call).lower() for call in calls):
        readable["tool_calls"] = [_readable_call(call) for call in calls]
    return readable


def _readable_call(call: Any) -> Any:
    try:
        function = call["function"]
        arguments = json.loads(function["arguments"])
    except (LookupError, TypeError, ValueError):
        return call  # vLLM says what is wrong with it
    written = without_half_characters(json.dumps(arguments, ensure_ascii=False))
    return {**call, "function": {**function, "arguments": written}}


def _hold_arguments_to_objects(node: Any) -> None:
    """In place. To vLLM, the arguments of a tool that describes none are any JSON; to OpenAI, an object."""
    if isinstance(node, list):
        for item in node:
            _hold_arguments_to_objects(item)
    if not isinstance(node, dict):
        return
    content = node.get("content")
    if node.get("type") == "tag" and isinstance(content, dict) and "json_schema" in content:
        schema = content["json_schema"]
        if schema is True or not schema.keys() & _SAYS_TYPE:
            content["json_schema"] = {"type": "object"} | ({} if schema is True else schema)
        return
    for item in node.values():
        _hold_arguments_to_objects(item)


def _validated(fields: dict[str, Any]) -> ChatCompletionRequest:
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "request"
        raise BadRequestError(f"{where}: {problem['msg']}") from error
    except VLLMClientError as error:
        raise BadRequestError(str(error)) from error
