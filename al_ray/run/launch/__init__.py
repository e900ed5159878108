"""The way from a recipe to a run whose parts are there. ``preparation`` is everything that can be told before
anything starts, ``specs`` what each actor is started with, ``start`` starts them and ends them; ``footprint``
and ``lengths`` say what will not fit. The command line takes ``preparation`` and ``start``."""
