"""How new weights travel from learners to engines.

``update`` says what travels and which transport to take where; a learner takes its end from
``publisher.PUBLISHERS`` (``stored`` in files or ``pushed`` over devices), an engine reads what is stored
with ``stored.local_files`` and runs ``receiver`` in its workers."""
