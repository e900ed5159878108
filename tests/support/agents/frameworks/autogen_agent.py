"""AutoGen: a team of an agent with a tool and of one without. It knows nothing of al_ray."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelFamily
from autogen_ext.models.openai import OpenAIChatCompletionClient


def add(x: int) -> int:
    """Adds one."""
    return x + 1


async def main() -> None:
    client = OpenAIChatCompletionClient(
        model="toy",
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "structured_output": False,
            "family": ModelFamily.UNKNOWN,
        },
    )
    writer = AssistantAgent("writer", client, tools=[add], reflect_on_tool_use=True)
    checker = AssistantAgent("checker", client)
    team = RoundRobinGroupChat([writer, checker], termination_condition=MaxMessageTermination(3))
    print((await team.run(task="1+1?")).messages[-1].to_text())


asyncio.run(main())
