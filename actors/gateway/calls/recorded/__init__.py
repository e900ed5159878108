"""Calls that are answered from the run's database: what an attempt has said before (``earlier``), calls that
a client repeats (``repeated``), rollouts that begin as another did (``replays``)."""
