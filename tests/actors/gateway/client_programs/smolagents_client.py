"""smolagents: its model of an OpenAI-compatible server, and the messages of its own kind."""

import json
import os

import openai
from smolagents import ChatMessage, MessageRole, OpenAIModel, tool

model = OpenAIModel(
    "toy",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    flatten_messages_as_text=True,
)
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}


@tool
def add(x: int) -> int:
    """Adds one.

    Args:
        x: The number.
    """
    return x + 1


def say(content):
    return [ChatMessage(MessageRole.USER, [{"type": "text", "text": content}])]


seen = {"answer": model.generate(say("hello")).content}
seen["stream"] = "".join(delta.content or "" for delta in model.generate_stream(say("hello")))
(call,) = model.generate(say("add"), tools_to_call_from=[add]).tool_calls
arguments = json.loads(call.function.arguments)
seen["tool"] = [call.function.name, arguments]
calling = ChatMessage(MessageRole.TOOL_CALL, [{"type": "text", "text": f"Calling tools: {arguments}"}])
observed = f"Observation: {add(**arguments)}"
result = ChatMessage(MessageRole.TOOL_RESPONSE, [{"type": "text", "text": observed}])
seen["after_tool"] = model.generate([*say("add"), calling, result]).content
seen["object"] = json.loads(model.generate(say("is it?"), response_format=FORMAT).content)
try:
    model.generate(say("too long"))
except openai.BadRequestError as error:
    seen["error"] = [type(error).__name__, error.status_code, error.code]
print(json.dumps(seen))
