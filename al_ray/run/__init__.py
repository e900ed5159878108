"""A run: its folder, its parts, and the loop over them. ``driver`` is that loop, and the page to read first.

The command line starts here; nothing else may import this room."""
