"""pydantic-ai: an agent with a tool, an agent whose answer is an object, and one whose answer streams."""

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

kind = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[sys.argv[1]]
model = kind("toy")


class Verdict(BaseModel):
    ok: bool


def add(x: int) -> int:
    """Adds one."""
    return x + 1


async def main():
    plain = Agent(model)
    seen = {"answer": (await plain.run("hello")).output}
    async with plain.run_stream("hello") as streamed:
        seen["stream"] = await streamed.get_output()
    answered = await Agent(model, tools=[add]).run("add")
    responses = [message for message in answered.all_messages() if isinstance(message, ModelResponse)]
    (call,) = (part for part in responses[0].parts if isinstance(part, ToolCallPart))
    seen["tool"] = [call.tool_name, call.args_as_dict()]
    seen["after_tool"] = answered.output
    judge = Agent(model, output_type=NativeOutput(Verdict))
    seen["object"] = (await judge.run("is it?")).output.model_dump()
    try:
        await plain.run("too long")
    except ModelHTTPError as error:  # of which there are classes by what went wrong
        seen["error"] = [type(error).__name__, error.status_code, error.body.get("code")]
    return seen


print(json.dumps(asyncio.run(main())))
