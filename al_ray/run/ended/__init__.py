"""What is asked of runs that have ended, or are under way: which there are, how two compare, what a recipe
did over several seeds; and what is made of their records and checkpoints: episodes for RLlib, a server, a
model for others. What is made again of single steps is in ``recorded``."""
