"""The calculator as an MCP server over standard input and output: one tool, ``calculate``.

    python -m al_ray.envs.calc_x.mcp_server

It needs ``mcp`` 1.x, which AutoGen pins, and of al_ray only the calculator.
"""

from __future__ import annotations

from typing import Annotated

from mcp.server.fastmcp import FastMCP
from pydantic import Field

from al_ray.envs.calc_x.calculator import ARGUMENT, DESCRIPTION, answer

server = FastMCP("calculator", log_level="WARNING")


@server.tool(description=DESCRIPTION)
def calculate(expression: Annotated[str, Field(description=ARGUMENT)]) -> str:
    return answer(expression)


if __name__ == "__main__":
    server.run(transport="stdio")
