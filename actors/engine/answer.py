"""Generated tokens to a message: what one choice says, parsed by vLLM's own code for its OpenAI server.

``Answer`` collects what was generated and parses reasoning and tool calls out of it, at once or as it
streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vllm.parser import Parser
from vllm.renderers.chat_utils import make_tool_call_id

from al_ray.traces.messages import as_delta
from al_ray.types import JSON, ChatDelta, Choice, TokenLogprob, VersionSpan

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput


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
        self._held = ""
        """Text that is not parsed yet."""
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._response_ids: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[VersionSpan] = []
        self._token_logprobs: list[TokenLogprob] = []
        self._calls_left_out = 0
        self._finish_reason = ""
        self._stop: str | None = None

    @property
    def started(self) -> bool:
        return bool(self._response_ids)

    def complete(self, output: CompletionOutput) -> Choice:
        """The choice whose whole output this is."""
        self._add_tokens(output)
        self._parse(output.text, output.token_ids)
        return self.choice()

    def read(self, text: str, token_ids: Sequence[int]) -> Mapping[str, JSON]:
        """The message that this whole text makes."""
        self._parse(text, token_ids)
        return self.choice().message

    def extend(self, output: CompletionOutput, *, stops: bool) -> ChatDelta:
        """Adds newly generated tokens, which may be ended by stop strings; what that adds to the message that
        the agent sees."""
        known = len(self._token_logprobs)
        self._add_tokens(output)
        delta = self._delta_at_end(output) if stops and self._parser else self._delta(output)
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
        calls = [call for call in delta.pop("tool_calls", ()) if self._is_allowed(call)]
        for call in calls:
            self._extend_tool_call(call)
        if calls:
            delta["tool_calls"] = calls
        return {key: delta[key] for key in ("reasoning", "content", "tool_calls") if key in delta}

    def _delta_at_end(self, output: CompletionOutput) -> dict[str, JSON]:
        """With stop strings, vLLM's text comes later than its tokens and may end before them. Parsers read
        both, so they are given the whole."""
        self._held += output.text
        if output.finish_reason is None:
            return {}
        self._parse(self._held, self._response_ids)
        return as_delta(self.choice().message)

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
            finish_reason="tool_calls" if self._tool_calls and not self._is_cut else self._finish_reason,
            response_ids=self._response_ids,
            logprobs=self._logprobs,
            versions=self._versions,
            stop=self._stop,
            token_logprobs=self._token_logprobs,
            calls_left_out=self._calls_left_out,
        )

    @property
    def _is_cut(self) -> bool:
        """It ended for want of room, perhaps within a tool call."""
        return self._finish_reason == "length"

    def _parse(self, text: str, token_ids: Sequence[int]) -> None:
        if self._parser is None:
            self._content.append(text)
            return
        reasoning, content, calls = self._parser.parse(
            text, self._request, enable_auto_tools=True, model_output_token_ids=token_ids
        )
        self._reasoning.append(reasoning or "")
        self._content.append(content or "")
        made = [_tool_call(call.id or make_tool_call_id(), call.name, call.arguments) for call in calls or ()]
        allowed = 1 if self._may_call_once else len(made)
        self._tool_calls.extend(made[:allowed])
        self._calls_left_out += len(made[allowed:])

    @property
    def _may_call_once(self) -> bool:
        return self._request is not None and self._request.parallel_tool_calls is False

    def _is_allowed(self, delta: Mapping[str, Any]) -> bool:
        """Whether the agent is shown this piece of a tool call."""
        if not self._may_call_once or delta["index"] == 0:
            return True
        self._calls_left_out = max(self._calls_left_out, delta["index"])
        return False

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
        for name in function.keys() & {"name", "arguments"}:
            function[name] = without_half_characters(function[name])
        if delta["index"] == len(self._tool_calls):
            self._tool_calls.append(_tool_call(delta["id"], function["name"], ""))
        self._tool_calls[delta["index"]]["function"]["arguments"] += function.get("arguments", "")


def _token_logprobs(flat: FlatLogprobs, top: int) -> Iterator[TokenLogprob]:
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        texts = [text or "" for text in flat.decoded_tokens[start:end]]
        told = list(zip(texts, flat.logprobs[start:end], strict=True))
        # The sampled token comes first, and again where it is among the likeliest.
        distinct = dict(zip(flat.token_ids[start:end], told, strict=True)).values()
        yield TokenLogprob(*told[0], sorted(distinct, key=lambda entry: -entry[1])[:top])


def _tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": without_half_characters(name), "arguments": without_half_characters(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def without_half_characters(text: str) -> str:
    """Halves of UTF-16's pairs, which JSON can write alone and nothing else can hold, as U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
