"""Ray actors, one class a file: store, gateway, engine, runner, learner; and their placement.

The import name is ``al_ray.actors``. Under its bare name the package would be loaded a second time,
with a second set of classes, so that is refused.
"""

if __name__ == "actors":
    raise ImportError("this package is al_ray.actors: write `import al_ray.actors`, not `import actors`")
