"""A model in files: where it lies, what its files tell of it, and what it will hold in memory.

``folders`` makes a model's name a folder and says whether what it holds can be sampled and trained; ``hub``
is where most come from. ``adapters`` are those of low rank, ``tensors`` the headers of weights, ``beside``
what a folder holds beside these, ``limits`` the lengths that a config names, ``memory`` reckons how much a
run will hold, and ``imports`` is for who imports transformers. Nothing here knows Ray, and torch is imported
only where weights are converted or merged."""
