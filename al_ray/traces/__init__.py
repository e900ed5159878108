"""What an attempt's spans say: names of attributes, OTLP in and out, frameworks' own names, a call seen
twice, who encloses whom, the messages of a call, the words of a span.

Pure functions of spans. ``call_span`` and ``reward_span`` are the codecs of calls and rewards, ``nesting``
says what belongs to what, ``semconv`` is the table of attribute names that everybody uses."""
