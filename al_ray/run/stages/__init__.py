"""The kinds of stages of a run. Each makes the batch of a step from tasks, agents and policy.

The driver takes ``stage``: what a stage is, and the table of those there are. A new kind is a module beside
``reinforcement`` and ``supervision``, and a line in that table; one that learns from groups of rollouts is a
``grouped``. ``launch`` asks ``teacher`` whether it can teach."""
