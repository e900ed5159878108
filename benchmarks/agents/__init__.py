"""Agents that benchmarks run, and what a process of theirs holds. ``scripted`` is the soak's, with its
engine; ``waiting`` are those of ``rollouts.runners``, which takes ``memory`` too, as does
``rollouts.environments``."""
