"""Whether bubblewrap builds walls here: it may be missing, and some machines let nobody make a namespace."""

from __future__ import annotations

from functools import cache

from al_ray.actors.agent.walls.wall import try_out
from al_ray.errors import RecipeError
from al_ray.recipe import AgentSection

NOT_HERE = "bubblewrap builds no walls here"


@cache
def builds_walls() -> bool:
    try:
        try_out(AgentSection(isolation="command", command=["true"], sandbox={"wall": "bubblewrap"}))
    except RecipeError:
        return False
    return True
