"""What al_ray costs and carries, measured beside its peers where there are any; ``README.md`` lists them.

A room holds the commands that measure one thing: ``calls``, ``rollouts``, ``learner``, ``learning``,
``faults`` and ``reading``. What several of them need is in ``agents`` and ``peers``."""
