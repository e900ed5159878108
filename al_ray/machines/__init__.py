"""What there is to compute on: this machine, a Ray cluster, model folders; and who goes where.

``plan`` is pure, ``placement`` makes Ray's placement groups from a plan, ``cluster`` connects to Ray,
``models`` finds a model's folder, ``doctor`` says what a machine lacks, ``devices`` sees what computes,
``precision`` chooses in which numbers, ``memory`` reckons how much a run will hold; ``home`` is where al_ray
keeps things, ``whole`` how it writes them. Ray is imported by ``cluster`` and ``placement`` alone."""
