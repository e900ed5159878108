"""A model call from its body to its record. ``routes`` is its way: ``sampling`` says how it is sampled, one
of three rooms answers it (``engines``, ``hosted``, ``recorded``), and it becomes a span (``call``).

The gateway's ``actor`` puts them together; a run's ``launch.specs`` makes their settings."""
