"""Environments: one folder each, with task loading, agent, tools, reward and a few sample rows.

Recipes name what is in them by its dotted path; no other room imports one."""

if __name__ != "al_ray.envs":
    raise ImportError(f"{__name__!r} would be a second copy of these classes: import al_ray.envs")
