"""Functions to be written, each with its tests: arguments and what is to come of them.

Of such kinds that SmolLM2-135M-Instruct writes right now and then: where a group's rewards are all the same,
there is nothing to learn.
"""

from al_ray.types import Task

NUMBERS = [0, 1, 7, 12, 25, 120]
KINDS = {
    "returns x plus {n}": lambda x, n: x + n,
    "returns {n} minus x": lambda x, n: n - x,
    "returns x times {n}, plus 1": lambda x, n: x * n + 1,
    "returns the square of x, plus {n}": lambda x, n: x * x + n,
    "returns the remainder when x is divided by {n}": lambda x, n: x % n,
    "returns the larger one of x and {n}": max,
}


def load(path, split):
    numbers = range(2, 10) if split == "train" else range(10, 14)
    return [
        Task(f"{kind} {n}", {"question": question(kind, n), "tests": tests(kind, n), "kind": kind}, split)
        for kind in KINDS
        for n in numbers
    ]


def question(kind, n):
    return f"Write a Python function `f(x)` that {kind.format(n=n)}."


def tests(kind, n):
    return [[[x], KINDS[kind](x, n)] for x in NUMBERS]
