"""How a runner runs an agent: in its own process, a thread, a process or a program, ended in time and with
nothing left behind.

Runners use ``isolation`` alone; ``interpreter`` also serves the checks before a run. No Ray here."""
