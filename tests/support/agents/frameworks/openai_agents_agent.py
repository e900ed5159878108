"""OpenAI Agents SDK: an agent with a tool hands over to another. It knows nothing of al_ray."""

import asyncio

from agents import Agent, Runner, function_tool, set_default_openai_api

set_default_openai_api("chat_completions")


@function_tool
def add(x: int) -> int:
    """Adds one."""
    return x + 1


writer = Agent(name="writer", instructions="write", model="toy", tools=[add])
checker = Agent(name="checker", instructions="check", model="toy")


async def main() -> None:
    written = await Runner.run(writer, "1+1?")
    checked = await Runner.run(checker, str(written.final_output))
    print(checked.final_output)


asyncio.run(main())
