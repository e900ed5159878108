"""Pure functions from what agents did to what the model should become.

``named`` chooses, by the name that a recipe uses: ``credit`` gives every call of a rollout its return,
``advantages`` compares the rollouts of a group, ``losses`` scores the tokens; a method is a file in one of
these. ``rows`` turns calls into token rows, ``batching`` packs rows into tensors, ``optimization`` moves
the weights, ``demonstration`` feeds demonstrations into the same path. The run uses ``named``, the learner
``batching``, ``optimization`` and ``losses.token``. Nothing here knows of Ray, actors or environments.
"""

if __name__ == "algorithms":
    raise ImportError("the package algorithms was imported by its bare name: import al_ray.algorithms")
