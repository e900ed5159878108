"""A run, from a recipe to the end of its last stage. ``driver`` is the loop, and the page to read first: it
holds the ``agents``, which run rollouts, and the ``policy``, which learns from them.

Before the loop stands ``launch``; in it, ``stages`` make the batches, ``evaluations`` are made between them,
``notice`` hears of nodes that are to go, ``step_report`` says what is logged, ``forecast`` how long it will
take. What is left behind is in ``folder``, and read again by ``recorded``, step by step, and by ``ended``,
run by run. ``trial`` is one task by hand, ``starter`` a project to begin with. The command line and
``viewing`` start here; nothing else may import this room."""
