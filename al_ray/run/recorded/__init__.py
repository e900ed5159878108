"""The steps of a run as its store has recorded them, made again by the recipe without agents and engines.

``audit`` accounts for their tokens, ``replay`` computes one once more, ``measure`` chooses what is measured
of one, ``worth`` tells what its calls were worth. The command line takes each, ``viewing`` ``worth``."""
