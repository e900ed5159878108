"""Pure functions from what agents did to what the model should become.

``credit`` gives every call of a rollout its return, ``advantage`` compares the rollouts of a group,
``rows`` turns calls into token rows, ``batching`` packs rows into tensors, ``losses`` scores the
tokens, ``optimization`` moves the weights, ``supervised`` feeds demonstrations into the same path.
Nothing here knows of Ray, actors or environments.
"""

if __name__ == "algorithms":
    raise ImportError("the package algorithms was imported by its bare name: import al_ray.algorithms")
