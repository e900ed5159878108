"""The learners: processes that hold the weights and move them together.

The driver holds ``group.LearnerGroup``."""
