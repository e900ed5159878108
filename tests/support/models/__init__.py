"""Models that are small: of every architecture (``architectures``), and the specs and rows of the tests'
engines and learners (``engine_inputs``, ``learner_inputs``). And models that are none: ``fake_engine`` does
what it is told, ``speaker`` samples what a test says; ``watched_engine`` tells what a real one is given."""
