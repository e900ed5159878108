"""Whether it learns: real recipes by ``arms`` and their ``report``, known decision processes, and another's
value function on the same rollouts."""
