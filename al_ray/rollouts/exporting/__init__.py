"""What a run has recorded, as tables for others to read.

``tables`` names each table with its rows: rollouts (``row``), spans, transitions, conversations and
preferences (``dialogues``); ``files`` writes one to a file. ``steps`` are calls in numbers, without any text,
as a trainer of another kind takes them."""
