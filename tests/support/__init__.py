"""What tests are made with; none is in here. Nothing outside of ``tests`` and ``benchmarks`` imports it.

``machines`` starts and ends what a test needs of a machine, ``runs`` are small runs and what they leave,
``models`` are small or none, ``agents`` do as a task says, and ``houses`` put a few real actors together.
What the tests of one room alone use stands beside them."""
