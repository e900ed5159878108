"""Messages to tokens and tokens to messages, both by vLLM's own code for its OpenAI server.

``ChatRendering`` renders a request with the model's chat template; ``Answer`` collects what was
generated for one choice and parses reasoning and tool calls out of it, at once or as it streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from vllm.entrypoints.generate.base.protocol import structured_outputs_from_response_format
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.parser import Parser, ParserManager
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.renderers.online_renderer import OnlineRenderer

from al_ray.errors import BadRequestError, ContextLengthError
from al_ray.types import JSON, ChatDelta, ChatRequest, Choice, CompletionRequest, TokenLogprob, VersionSpan

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from al_ray.actors.engine import EngineSpec

Message = Mapping[str, JSON]


class ChatRendering:
    """One model's chat template, tokenizer and parsers."""

    def __init__(self, llm: AsyncLLM, spec: EngineSpec) -> None:
        self._model_config = llm.model_config
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
        )
        self._plain_parser = ParserManager.get_parser(
            reasoning_parser_name=spec.reasoning_parser,
            model_name=llm.model_config.model,
            tokenizer=self._tokenizer,
        )
        self._parses_tools = spec.tool_parser is not None

    def request(self, request: ChatRequest) -> ChatCompletionRequest:
        """vLLM's form of ``request``; its sampling stays with us."""
        fields: dict[str, Any] = {"messages": [dict(message) for message in request.messages]}
        if request.tools is not None:
            fields["tools"] = [dict(tool) for tool in request.tools]
        if request.tool_choice is not None:
            fields["tool_choice"] = request.tool_choice
        if request.response_format is not None:
            fields["response_format"] = request.response_format
        if request.tools and request.tool_choice != "none" and not self._parses_tools:
            raise BadRequestError(
                "tools: this model's tool calls cannot be parsed; set model.tool_parser in the recipe, "
                "or send tool_choice 'none'"
            )
        return _validated(fields)

    async def tokens(self, request: ChatCompletionRequest) -> list[int]:
        """The prompt. Parsers may adjust ``request`` on the way, as vLLM lets them."""
        try:
            rendered = await self._renderer.render_chat(request)
        except VLLMValidationError as error:
            too_long = error.parameter == "input_tokens"
            raise (ContextLengthError if too_long else BadRequestError)(f"messages: {error}") from error
        except (VLLMClientError, ValueError, TypeError) as error:
            raise BadRequestError(f"messages: the chat template cannot render them: {error}") from error
        if isinstance(rendered, ErrorResponse):
            raise BadRequestError(rendered.error.message)
        _, (prompt,) = rendered
        return list(prompt["prompt_token_ids"])

    def structured_outputs(
        self, openai: ChatCompletionRequest, *, has_format: bool
    ) -> StructuredOutputsParams | None:
        """The grammar that the response is held to, where the agent demands a tool or a format.

        A tool's ``strict`` would mask tokens also where the policy may choose whether to call it; only
        what is demanded is worth sampling from another distribution than the policy's.
        """
        if not has_format and openai.tool_choice in (None, "none", "auto"):
            return None
        return structured_outputs_from_response_format(openai.structured_outputs, openai.response_format)

    def raw_tokens(self, request: CompletionRequest) -> list[int]:
        """The prompt of a call that brings its own: text as the tokenizer takes it, or ids as they are."""
        if isinstance(request.prompt, str):
            return list(self._tokenizer.encode(request.prompt))
        beyond = self._model_config.get_vocab_size()
        wrong = next((token for token in request.prompt if not 0 <= token < beyond), None)
        if wrong is not None:
            raise BadRequestError(f"prompt: {wrong} is no token id: the model has {beyond} tokens")
        return list(request.prompt)

    async def conversation_tokens(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, add_generation_prompt: bool
    ) -> list[int]:
        """The tokens of a whole conversation, as ``tokens`` would render its beginning."""
        fields: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "tool_choice": "none",
            "add_generation_prompt": add_generation_prompt,
        }
        return await self.tokens(_validated(fields))

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


def _validated(fields: dict[str, Any]) -> ChatCompletionRequest:
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "request"
        raise BadRequestError(f"{where}: {problem['msg']}") from error
    except VLLMClientError as error:
        raise BadRequestError(str(error)) from error


class Answer:
    """The tokens and the message of one choice, growing while it is generated."""

    def __init__(
        self,
        request: ChatCompletionRequest | None,
        prompt_ids: Sequence[int],
        index: int,
        parser: Parser | None,
        top_logprobs: int | None,
    ) -> None:
        self._request = request
        self._top_logprobs = top_logprobs
        self._prompt_ids = list(prompt_ids)
        self._index = index
        self._parser = parser
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._response_ids: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[VersionSpan] = []
        self._token_logprobs: list[TokenLogprob] = []
        self._finish_reason = ""
        self._stop: str | None = None

    @property
    def started(self) -> bool:
        return bool(self._response_ids)

    def complete(self, output: CompletionOutput) -> Choice:
        """The choice whose whole output this is."""
        self._add_tokens(output)
        if self._parser is None:
            self._content.append(output.text)
            return self.choice()
        reasoning, content, calls = self._parser.parse(
            output.text, self._request, enable_auto_tools=True, model_output_token_ids=output.token_ids
        )
        self._reasoning.append(reasoning or "")
        self._content.append(content or "")
        self._tool_calls.extend(
            _tool_call(call.id or make_tool_call_id(), call.name, call.arguments) for call in calls or ()
        )
        return self.choice()

    def extend(self, output: CompletionOutput) -> ChatDelta:
        """Adds newly generated tokens; what they add to the message that the agent sees."""
        known = len(self._token_logprobs)
        self._add_tokens(output)
        delta = self._delta(output)
        return ChatDelta(self._index, delta, len(output.token_ids), self._token_logprobs[known:])

    def _delta(self, output: CompletionOutput) -> dict[str, JSON]:
        """As OpenAI has it; empty while the parser cannot tell yet what the text is."""
        if self._parser is None:
            self._content.append(output.text)
            return {"content": output.text} if output.text else {}
        message = self._parser.parse_delta(
            output.text,
            list(output.token_ids),
            self._request,
            self._prompt_ids,
            finished=output.finish_reason is not None,
        )
        if message is None:
            return {}
        delta = {key: value for key, value in message.model_dump(exclude_none=True).items() if value}
        self._content.append(delta.get("content", ""))
        self._reasoning.append(delta.get("reasoning", ""))
        for call in delta.get("tool_calls", ()):
            self._extend_tool_call(call)
        return {key: delta[key] for key in ("reasoning", "content", "tool_calls") if key in delta}

    def choice(self) -> Choice:
        """What was collected, as the caller sees it."""
        content = "".join(self._content)
        message: dict[str, JSON] = {"role": "assistant", "content": content}
        if reasoning := "".join(self._reasoning):
            message["reasoning"] = reasoning
        if self._tool_calls:
            message["content"] = content or None
            message["tool_calls"] = self._tool_calls
        return Choice(
            index=self._index,
            message=message,
            finish_reason="tool_calls" if self._tool_calls else self._finish_reason,
            response_ids=self._response_ids,
            logprobs=self._logprobs,
            versions=self._versions,
            stop=self._stop,
            token_logprobs=self._token_logprobs,
        )

    def _add_tokens(self, output: CompletionOutput) -> None:
        self._response_ids.extend(output.token_ids)
        # At each position the sampled token comes first, then the alternatives that were asked for.
        flat = output.logprobs
        self._logprobs.extend(flat.logprobs[start] for start in flat.start_indices)
        if self._top_logprobs is not None:
            self._token_logprobs.extend(_token_logprobs(flat, self._top_logprobs))
        self._finish_reason = output.finish_reason or ""
        self._stop = output.stop_reason if isinstance(output.stop_reason, str) else None
        if output.weight_versions is not None:
            self._versions = [
                VersionSpan(int(span.version), span.start, span.end) for span in output.weight_versions
            ]

    def _extend_tool_call(self, delta: Mapping[str, Any]) -> None:
        function = delta.get("function", {})
        if delta["index"] == len(self._tool_calls):
            self._tool_calls.append(_tool_call(delta["id"], function["name"], ""))
        self._tool_calls[delta["index"]]["function"]["arguments"] += function.get("arguments", "")


def _token_logprobs(flat: FlatLogprobs, top: int) -> Iterator[TokenLogprob]:
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        told = [
            (text or "", value)
            for text, value in zip(flat.decoded_tokens[start:end], flat.logprobs[start:end], strict=True)
        ]
        # vLLM lists a sampled token that is among the likeliest only once, where it was sampled.
        yield TokenLogprob(*told[0], sorted(told, key=lambda entry: -entry[1])[:top])


def _tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
