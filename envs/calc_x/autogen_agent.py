"""The agent in AutoGen: an ``AssistantAgent`` whose tool is a calculator, an MCP server's or in-process.

It needs ``autogen-agentchat``, ``autogen-ext[openai,mcp]`` and ``mcp`` 1.x, and of al_ray only the
calculator, so it runs in an interpreter of its own (``recipes/calc_x.yaml``), and finds the model where
any OpenAI client does. By hand, against any endpoint::

    OPENAI_BASE_URL=... OPENAI_API_KEY=... OPENAI_MODEL=... \\
        python -m al_ray.envs.calc_x.autogen_agent "A pen costs 3 dollars. What do 4 pens cost?"
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily
from autogen_core.tools import FunctionTool, StaticWorkbench, Workbench
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

from al_ray.envs.calc_x.calculator import ARGUMENT, DESCRIPTION, answer

FORMAT = "When you know the answer, write it in this form: ### ANSWER: <answer> ###"
ABILITIES: dict[str, Any] = {
    "function_calling": True,
    "vision": False,
    "json_output": False,
    "structured_output": False,
    "family": ModelFamily.UNKNOWN,
}
_SERVER_SECONDS = 120.0


async def solve(task: Mapping[str, Any]) -> str:
    """The model's last message. The calculator is an MCP server, started for this rollout alone: its
    process ends with the agent's, and no rollout meets what another did to it."""
    server = StdioServerParams(
        command=sys.executable,
        args=["-m", "al_ray.envs.calc_x.mcp_server"],
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},  # MCP hands on nothing else of ours: no key
        read_timeout_seconds=_SERVER_SECONDS,
    )
    async with McpWorkbench(server) as workbench:
        return await _converse(task["question"], workbench)


async def solve_in_process(task: Mapping[str, Any]) -> str:
    """As ``solve``, and the same to the model, without the server's process and its start."""
    tool = FunctionTool(_calculate, description=DESCRIPTION, name="calculate")
    async with StaticWorkbench([tool]) as workbench:
        return await _converse(task["question"], workbench)


async def _converse(question: str, workbench: Workbench) -> str:
    """One call, in which tools may be asked for, and if they are, a second that tells the answer."""
    client = OpenAIChatCompletionClient(
        model=os.environ["OPENAI_MODEL"], model_info=ABILITIES, timeout=600, max_retries=0
    )
    try:
        agent = AssistantAgent("calc", client, workbench=workbench, reflect_on_tool_use=True)
        result = await agent.run(task=f"{question} {FORMAT}")
    finally:
        await client.close()
    return result.messages[-1].to_text()


async def _calculate(expression: Annotated[str, ARGUMENT]) -> str:
    return answer(expression)


if __name__ == "__main__":
    print(asyncio.run(solve({"question": sys.argv[1]})))
