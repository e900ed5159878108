"""What a peer's Python runs: its side of a benchmark, and the load that is the same for all sides. So nothing
here imports al_ray."""
