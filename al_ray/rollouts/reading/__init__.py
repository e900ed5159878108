"""Rollouts as a person reads them: found (``search``), told in order (``story``, drawn by ``terminal``), by
what is new in each call (``conversation``), and where two part (``diverging``). All but ``terminal`` are free
of rich: the web page shows the same."""
