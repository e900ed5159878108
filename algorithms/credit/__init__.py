"""Credit assignment, level 1: from the rewards of an episode to the return of each of its calls."""
