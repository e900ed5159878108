"""What there is to compute on: this machine and a Ray cluster; and who goes where.

``plan`` is pure, ``placement`` makes Ray's placement groups from a plan, ``cluster`` connects to Ray,
``doctor`` says what a machine lacks and ``node_doctor`` what a cluster's nodes do, ``devices`` sees what
computes, ``precision`` chooses in which numbers; ``home`` is where al_ray keeps things, ``whole`` how it
writes them, and ``turns`` keeps two processes from making one at once. ``jobs`` submits a training to a
cluster. Ray is imported by ``cluster``, ``jobs``, ``placement`` and ``node_doctor`` alone."""
