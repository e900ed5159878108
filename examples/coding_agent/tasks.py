"""Functions to be written, each with its tests: arguments and what is to come of them."""

from al_ray.types import Task

NUMBERS = [0, 1, 7, 12, 25, 120]
LISTS = [[], [1], [3, 9, 4], [12, 5, 7, 7, 2, 30], [10, 20, 6, 8, 1, 3, 5]]
TEXTS = ["", "a", "an example of it", "considerable nonsense", "we go on and on", "letters in several words"]
KINDS = {
    "returns the greatest multiple of {n} that is not greater than x": (lambda x, n: x // n * n, NUMBERS),
    "returns the sum of the decimal digits of x, times {n}": (
        lambda x, n: n * sum(map(int, str(x))),
        NUMBERS,
    ),
    "returns the sum of those numbers from 1 to x, inclusive, that {n} divides": (
        lambda x, n: sum(range(n, x + 1, n)),
        NUMBERS,
    ),
    "returns those elements of the list x that are greater than {n}, each doubled": (
        lambda x, n: [2 * each for each in x if each > n],
        LISTS,
    ),
    "returns every element of the list x at an index that {n} divides": (lambda x, n: x[::n], LISTS),
    "returns how many words of the string x have more than {n} letters": (
        lambda x, n: sum(len(word) > n for word in x.split()),
        TEXTS,
    ),
}


def load(path, split):
    numbers = range(2, 7) if split == "train" else range(7, 11)
    return [
        Task(f"{kind} {n}", {"question": question(kind, n), "tests": tests(kind, n)}, split)
        for kind in KINDS
        for n in numbers
    ]


def question(kind, n):
    return f"Write a Python function `f(x)` that {kind.format(n=n)}."


def tests(kind, n):
    function, arguments = KINDS[kind]
    return [[[x], function(x, n)] for x in arguments]
