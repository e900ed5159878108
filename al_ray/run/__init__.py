"""A run, from a recipe to the end of its last stage. ``driver`` is the loop, and the page to read first: it
holds the ``agents``, which run rollouts, and the ``policy``, which learns from them.

Before the loop stand ``preparation`` (everything that can be told before anything starts), ``specs`` (what
each actor is started with) and ``start``; what is left behind is in ``folder``. The command line starts here;
nothing else may import this room."""
