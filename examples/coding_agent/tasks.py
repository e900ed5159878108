"""Functions to be written, each with its tests: arguments and what is to come of them."""

from al_ray.types import Task

KINDS = {
    "returns x plus {n}": lambda n: lambda x: x + n,
    "returns x times {n}": lambda n: lambda x: x * n,
    "returns {n} minus x": lambda n: lambda x: n - x,
    "returns True if x is greater than {n}, else False": lambda n: lambda x: x > n,
    "returns the larger of x and {n}": lambda n: lambda x: max(x, n),
    "returns the remainder of x divided by {n}": lambda n: lambda x: x % n,
}


def load(path, split):
    numbers = range(2, 12) if split == "train" else range(12, 16)
    return [
        Task(f"{kind} {n}", {"question": question(kind, n), "tests": tests(make(n))}, split)
        for kind, make in KINDS.items()
        for n in numbers
    ]


def question(kind, n):
    return f"Write a Python function `f(x)` that {kind.format(n=n)}."


def tests(function):
    return [[[x], function(x)] for x in (0, 1, 7, 12, 25)]
