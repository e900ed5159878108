"""Task data: files and their rows, the splits of a run, the order in which tasks are taken, reports on
datasets.

Loaders of environments read with ``files``; ``tasks`` loads what a recipe names."""
