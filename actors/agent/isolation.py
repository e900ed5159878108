"""The ways to run an agent, by the name that a recipe gives them.

| isolation | the agent is | what ends it |
|---|---|---|
| ``async`` | an async callable, in the runner's event loop | its cancellation |
| ``thread`` | a plain callable, in a thread of the runner | nothing: a thread cannot be ended |
| ``process`` | either callable, in a process and, where asked for, an interpreter of its own | SIGKILL |
| ``command`` | any program, within walls where the recipe asks for them | SIGKILL |

One that could not be ended goes on in the runner's process; its key is refused all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from al_ray.actors.agent.in_process import AsyncAgent, ThreadAgent
from al_ray.actors.agent.job import ReadyAgent
from al_ray.actors.agent.sub_process import CommandAgent, ProcessAgent
from al_ray.actors.agent.walls.sandboxed import SandboxedAgent
from al_ray.recipe import AgentSection, Isolation

ISOLATIONS: Final[Mapping[Isolation, Callable[[AgentSection], ReadyAgent]]] = {
    "async": AsyncAgent,
    "thread": ThreadAgent,
    "process": ProcessAgent,
    "command": lambda section: SandboxedAgent(section) if section.sandbox else CommandAgent(section),
}
"""Each makes the agent ready, or raises ``RecipeError``."""
