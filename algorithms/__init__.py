"""Pure functions from what agents did to what the model should become.

``named`` makes what a recipe's stage chooses by name: ``credit`` gives every call of a rollout its return,
``advantages`` compares the calls of a group, ``losses`` scores the tokens; a method is a file in one of
these. ``overlong`` shapes the reward. ``rows`` turns calls into token rows, ``batching`` packs rows into
tensors, ``optimization`` moves the weights, ``demonstration`` feeds demonstrations into the same path. The
run uses ``named``, the learner ``batching``, ``optimization`` and ``losses.token``. Nothing here knows of
Ray, actors or environments.
"""

if __name__ == "algorithms":
    raise ImportError("the package algorithms was imported by its bare name: import al_ray.algorithms")
