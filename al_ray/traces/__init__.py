"""What an attempt's spans say: names of attributes, OTLP in and out, frameworks' own names, a call seen
twice, who encloses whom, the messages of a call.

Pure functions of spans; ``semconv`` is the table of attribute names that everybody uses."""
