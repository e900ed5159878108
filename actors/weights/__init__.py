"""How new weights travel from learners to engines."""
