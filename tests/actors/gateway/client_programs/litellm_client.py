"""litellm: its completion function with the base URL of an OpenAI-compatible server."""

import json
import os

import litellm

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        },
    }
]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}


def ask(messages, **options):
    return litellm.completion("openai/toy", messages, api_base=os.environ["OPENAI_BASE_URL"], **options)


def say(content):
    return [{"role": "user", "content": content}]


seen = {"answer": ask(say("hello")).choices[0].message.content}
chunks = ask(say("hello"), stream=True)
seen["stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
calling = ask(say("add"), tools=TOOLS).choices[0].message
(call,) = calling.tool_calls
arguments = json.loads(call.function.arguments)
seen["tool"] = [call.function.name, arguments]
result = {"role": "tool", "tool_call_id": call.id, "content": str(arguments["x"] + 1)}
seen["after_tool"] = ask([*say("add"), calling, result], tools=TOOLS).choices[0].message.content
seen["object"] = json.loads(ask(say("is it?"), response_format=FORMAT).choices[0].message.content)
try:
    ask(say("too long"))
except litellm.BadRequestError as error:
    seen["error"] = [type(error).__name__, error.status_code, error.code]
print(json.dumps(seen))
