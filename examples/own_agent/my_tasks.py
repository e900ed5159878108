"""Its tasks. What is in ``data`` is what the agent is given."""

from al_ray.types import Task


def load(path, split):
    numbers = range(1, 65) if split == "train" else range(65, 97)
    return [Task(str(n), {"question": f"What is {n} + 1?", "answer": str(n + 1)}, split) for n in numbers]
