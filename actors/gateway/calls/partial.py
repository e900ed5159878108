"""What an agent has seen of a streamed answer when it hangs up."""

from __future__ import annotations

from al_ray.types import JSON, ChatDelta


class PartialAnswer:
    """Grows with each piece."""

    def __init__(self) -> None:
        self.tokens = 0
        self._text: dict[int, dict[str, str]] = {}
        self._calls: dict[int, dict[int, dict[str, JSON]]] = {}

    def add(self, delta: ChatDelta) -> None:
        self.tokens += delta.tokens
        text = self._text.setdefault(delta.index, {})
        for name in ("reasoning", "reasoning_content", "content", "refusal"):
            if delta.delta.get(name):
                text[name] = text.get(name, "") + str(delta.delta[name])
        for call in delta.delta.get("tool_calls") or ():
            function = call.get("function") or {}
            calls = self._calls.setdefault(delta.index, {})
            known = calls.setdefault(
                call["index"],
                {"id": call.get("id"), "type": "function", "function": {"name": "", "arguments": ""}},
            )
            for name in ("name", "arguments"):
                known["function"][name] += function.get(name) or ""

    def message(self, index: int) -> dict[str, JSON]:
        """Of one choice, in OpenAI's shape."""
        message: dict[str, JSON] = {"role": "assistant", "content": None} | self._text.get(index, {})
        if index in self._calls:
            message["tool_calls"] = list(self._calls[index].values())
        elif message["content"] is None:
            message["content"] = ""
        return message

    def messages(self, count: int) -> list[dict[str, JSON]]:
        return [self.message(index) for index in range(count)]
