"""A rollout after its end: from spans to trajectories with rewards and signals, and as a person reads,
searches and exports it.

The learner's side takes ``trajectory``, the reader's ``reading`` and ``exporting``; ``requests`` asks for
rollouts, ``rewards`` sums what one was given, and ``outcome`` says how it ended, by the ``agent_error`` that
ended it, and ``blame`` whose doing that is."""
