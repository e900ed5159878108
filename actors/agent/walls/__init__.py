"""Walls around an agent's program: what it cannot see, reach or use up, whatever a model makes it run.

``sandboxed`` is the agent as runners know it. ``wall`` chooses walls and writes their command line; ``relay``
is the only way out, to the gateway and the recipe's services; ``inside`` is the first process within, a
script that needs no al_ray.
"""
