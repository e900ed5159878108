"""Agent Lightning on Ray: reinforcement learning for the language model inside any agent."""

from al_ray import _linked_rooms

__version__ = "0.1.0"

_linked_rooms.install()
