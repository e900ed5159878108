"""The runners: claim rollouts, run the agent, score what it did.

The driver holds ``pool.RunnerPool``."""
