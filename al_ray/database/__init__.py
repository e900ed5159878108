"""The store's tables, on SQLite and PostgreSQL alike: ``writer.Database`` changes them, ``reader.Records``
reads them, from any process.

Others give both a URL of ``backends``; ``query`` says what may be asked for, ``retry`` who is tried again,
``lone_insert`` is the quick way for one row, ``log`` keeps SQLite's log short.
"""
