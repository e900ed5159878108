"""Programs of one function with a fault in it, each with its tests: arguments and what is to come of them."""

from al_ray.types import Task

OPERATORS = {"+": lambda x, n: x + n, "-": lambda x, n: x - n, "*": lambda x, n: x * n}
NUMBERS = [0, 1, 5, 12, 40]


def load(path, split):
    numbers = range(2, 8) if split == "train" else range(8, 12)
    return [
        Task(f"{right} {n}, not {wrong}", data(right, wrong, n), split)
        for right in OPERATORS
        for wrong in OPERATORS
        if right != wrong
        for n in numbers
    ]


def data(right, wrong, n):
    return {
        "question": f"`f(x)` in program.py must return x {right} {n}. Mend it.",
        "program": f"def f(x):\n    return x {wrong} {n}\n",
        "tests": [[[x], OPERATORS[right](x, n)] for x in NUMBERS],
    }
