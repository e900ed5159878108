"""What each verb of the command line takes, as Typer reads it: a function each, kindred verbs in one module,
each of which calls what does the work. ``shared`` has the arguments of several verbs.

Only ``app`` imports these. They import what they call when they run, so that ``--help`` is quick."""
