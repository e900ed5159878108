"""Pure functions from what agents did to what the model should become.

``named`` makes what a recipe's stage chooses by name: ``shaping`` adds to the rewards of a rollout,
``credit`` gives every call of it its return, ``advantages`` compares the calls of a group, ``losses`` scores
the tokens; a method is a file in one of these. ``measured`` is what learners tell of calls before they are
given credit, ``critic`` expects their returns. ``rows`` turns calls into token rows, ``passes`` makes
optimizer steps of them, ``batching`` packs them into tensors, ``optimization`` moves the weights.
``demonstration``, ``rejection`` and ``distillation`` feed demonstrations, the best rollouts and what a
teacher says into the same path. The run uses ``named``, the learner ``batching``, ``critic``,
``optimization`` and ``losses.token``. Nothing here knows of Ray, actors or environments.
"""

if __name__ == "algorithms":
    raise ImportError("the package algorithms was imported by its bare name: import al_ray.algorithms")
