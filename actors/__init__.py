"""Ray actors, a room a part: engine, gateway, learner, runner, service, store; and what they share.

A room has the same furniture: ``actor``, the Ray class; ``pool`` or ``group``, the driver's handle on all of
them; what else it needs. The driver speaks with the handles, actors with actors.

The import name is ``al_ray.actors``. Under its bare name the package would be loaded a second time,
with a second set of classes, so that is refused.
"""

if __name__ == "actors":
    raise ImportError("this package is al_ray.actors: write `import al_ray.actors`, not `import actors`")
