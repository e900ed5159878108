"""A model without a model: real chat templates and a real tokenizer; a test says which tokens are sampled.

``Speaker`` does what ``actors.engine.actor`` does with a call, except that nothing is sampled: place it
in the attempt's history, render it, continue what can be continued, remember the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers.utils.chat_template_utils import render_jinja_template

from al_ray.actors.engine.continuation import Continuation
from al_ray.actors.engine.lineage import LineageMemory, Message, Turn
from al_ray.types import ChatReply, ChatRequest, Choice, Sampling, VersionSpan
from tests.conftest import CHAT_TEMPLATE

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

QWEN3 = """\
{%- set ns = namespace(last_query=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set ns.last_query = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last_query and (loop.last or message.reasoning_content) %}
{{- '<think>\\n' + (message.reasoning_content or '').strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- (message.content or '').lstrip('\\n') }}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""As Qwen3's: thinking stays while tools are called and goes when the user speaks again."""

LLAMA3 = """\
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date + '\\n\\n' }}
{%- set told = messages[0].role == 'system' %}
{{- (messages[0].content | trim if told else '') + '<|eot_id|>' }}
{%- for message in (messages[1:] if told else messages) %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
"""As Llama 3.2's: the day it is, and contents trimmed."""

MISTRAL = """\
{{- bos_token }}
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'user' %}
{{- '[INST] ' }}
{%- if loop.last and messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + '</s>' }}{%- endif %}
{%- endfor %}
"""
"""As Mistral's: the system prompt stands before the last message of the user."""

HERMES = CHAT_TEMPLATE
SMOLLM2_TOOLS = (Path(__file__).parents[3] / "recipes" / "smollm2_tools.jinja").read_text(encoding="utf-8")

ENDS = ["<|im_end|>", "<|eot_id|>", "</s>"]
SPECIAL = [*ENDS, "<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ċ Ċ", "1 2", "2 3", "12 3", "Ã ©"]


def byte_level_tokenizer() -> Tokenizer:
    """All bytes, a few merges, and the special tokens of the templates above."""
    merges = [tuple(merge.split()) for merge in MERGES]
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _with_one_call(choice: Choice) -> Choice:
    calls = choice.message.get("tool_calls") or []
    message = {**choice.message, "tool_calls": calls[:1]}
    return replace(choice, message=message, calls_left_out=len(calls[1:]))


class Speaker:
    """One engine's side of the conversations of an attempt."""

    def __init__(self, template: str, tokenizer: Tokenizer, *, reasons: bool = False) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.reasons = reasons
        self.date = "1 May 2026"
        self.memory = LineageMemory()
        self.continuation = Continuation(self, self.memory)
        self.special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._calls = 0

    @property
    def ends(self) -> Mapping[int, str]:
        known = {self.tokenizer.token_to_id(text): text for text in ENDS}
        return {id: text for id, text in known.items() if id is not None}

    async def call(
        self,
        messages: Sequence[Message],
        *responses: str | Sequence[int],
        tools: Sequence[Message] | None = None,
        attempt: str | None = "r/1",
        stop: str = "",
        one_call: bool = False,
    ) -> ChatReply:
        """The answer to a call of which ``responses`` were sampled: tokens, or text in its usual tokens. With
        ``one_call`` the agent is shown one tool call."""
        sampling = Sampling(stop=(stop,) if stop else (), n=len(responses))
        request = ChatRequest(f"c{self._calls + 1}", messages, sampling, tools, attempt=attempt)
        return await self.answer(request, *responses, stop=stop, one_call=one_call)

    async def answer(
        self, request: ChatRequest, *responses: str | Sequence[int], stop: str = "", one_call: bool = False
    ) -> ChatReply:
        """Likewise, to a call as an engine is asked it."""
        self._calls += 1
        place = self.continuation.place(request)
        text = self.text(place.messages, request.tools, True)
        prompt = await self.continuation.prompt(request, place, text, self.tokenize(text))
        choices = [self._choice(index, response, stop) for index, response in enumerate(responses)]
        if one_call:
            choices = [_with_one_call(choice) for choice in choices]
        self.continuation.remember(request, prompt, choices, self.special)
        return ChatReply(prompt.ids, choices, prompt.lineage)

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def text(self, messages: Sequence[Message], tools: Sequence[Message] | None, generate: bool) -> str:
        """As vLLM does it, which gives the template the arguments of calls as objects."""
        copies = json.loads(json.dumps(list(messages)))
        for message in copies:
            if "reasoning" in message:
                message["reasoning_content"] = message["reasoning"]
            for call in message.get("tool_calls") or []:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        rendered, _ = render_jinja_template(
            [copies],
            tools=list(tools) if tools else None,
            chat_template=self.template,
            add_generation_prompt=generate,
            date=self.date,
            bos_token="<|begin_of_text|>",
        )
        return str(rendered[0])

    async def encode(self, text: str) -> Sequence[int]:
        return self.tokenize(text)

    async def read(self, text: str, request: ChatRequest, turn: Turn) -> Message:
        return self.parse(text)

    def parse(self, text: str) -> dict[str, Any]:
        """A message in the formats of Hermes, of Python calls and, where the model reasons, of Qwen3."""
        message: dict[str, Any] = {"role": "assistant"}
        if self.reasons and (thought := re.match(r"<think>(.*?)</think>(.*)", text, re.DOTALL)):
            message["reasoning"], text = thought[1].strip(), thought[2]
        calls = [json.loads(call) for call in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)]
        content = text.split("<tool_call>")[0]
        if python := re.fullmatch(r"(.*?)\[(\w+)\((\w+)=(\".*?\")\)\]", text, re.DOTALL):
            content = python[1]
            calls = [{"name": python[2], "arguments": {python[3]: json.loads(python[4])}}]
        if calls:
            message["tool_calls"] = [
                {
                    "id": f"call-{index}",
                    "type": "function",
                    "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
                }
                for index, call in enumerate(calls)
            ]
        return {**message, "content": content or (None if calls else "")}

    def _choice(self, index: int, response: str | Sequence[int], stop: str) -> Choice:
        ids = self.tokenize(response) if isinstance(response, str) else list(response)
        ended = bool(ids) and ids[-1] in self.ends
        text = self.decode(id for id in ids if id not in self.special)
        cut = bool(stop) and text.endswith(stop)
        message = self.parse(text.removesuffix(stop) if cut else text)
        logprobs = [-float(self._calls * 1000 + index * 100 + i) for i in range(len(ids))]
        reason = "stop" if ended or cut else "length"
        return Choice(index, message, reason, ids, logprobs, [VersionSpan(0, 0, len(ids))])


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def said(reply: ChatReply, index: int = 0) -> Message:
    """The message that the agent is given."""
    return reply.choices[index].message


def tokens(reply: ChatReply, index: int = 0) -> list[int]:
    """Everything that the call saw and said."""
    return [*reply.prompt_ids, *reply.choices[index].response_ids]


def from_javascript(message: Message) -> Message:
    """As a client in another language sends it back: null and missing fields, ids and JSON of its own."""
    calls = [
        {**call, "id": f"mine-{call['id']}", "index": 0, "function": _compact(call["function"])}
        for call in message.get("tool_calls") or []
    ]
    content = [{"type": "text", "text": message["content"]}] if message["content"] else None
    extra: dict[str, Any] = {"role": "assistant", "refusal": None, "annotations": [], "content": content}
    return extra | ({"tool_calls": calls} if calls else {"tool_calls": None})


def _compact(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(reversed(json.loads(function["arguments"]).items()))
    return {**function, "arguments": json.dumps(arguments, separators=(",", ":"))}
