"""The runners: claim rollouts, run the agent, score what it did.

The driver holds ``pool.RunnerPool``, and describes it by ``spec.RunnerSpec``. Who makes an attempt without a
runner takes ``hooks``, ``scoring`` and ``failure``."""
