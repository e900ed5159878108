"""How long one waits for a little of much: for passages of an index, for pages of a run."""
