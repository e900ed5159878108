"""Messages of calls, as they are compared."""

from __future__ import annotations

from al_ray.traces import messages


def test_messages_that_differ_in_the_ids_of_their_tool_calls_alone_are_the_same_without_them() -> None:
    """Nothing else is left out, however deep it lies."""

    def conversation(id: str) -> list[messages.Message]:
        call = {"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "3"}]},
        ]

    function = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    for id in ("a", "b"):
        assert messages.without_ids(conversation(id)) == [
            {"role": "assistant", "content": None, "tool_calls": [function]},
            {"role": "tool", "content": [{"type": "text", "text": "3"}]},
        ]
