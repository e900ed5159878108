"""One task by hand: an attempt as a run makes it, in the process of whoever tries it, without Ray.

``house.opened`` is what an agent calls, ``attempt.attempted`` runs it and records what happens."""
