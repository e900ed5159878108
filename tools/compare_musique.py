"""Compares our MuSiQue metrics with the official script's, on thousands of predictions.

    python tools/compare_musique.py CLONE      a clone of github.com/StonyBrookNLP/musique

Takes the rows of AL_RAY_DATA where there are any, and the samples. Prints every disagreement; the exit
code is 1 if there is one.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from al_ray.data import files
from al_ray.data.files import DataRow
from al_ray.envs.musique import data, predictions, scoring

ODDITIES = [
    *("", " ", "the", "a an the", "The.", "...", "!?", "\u00a0", "\u2019", "don't", "dont", "U.S.A.", "usa"),
    *("3", "3.0", "1,000", "1000", "\u0663", "\u00bd", "IX", "ix", "Stra\u00dfe", "STRASSE", "\u0130stanbul"),
    *(
        "istanbul",
        "caf\u00e9",
        "cafe\u0301",
        "\uff21\uff22",
        "a-b",
        "ab",
        "a b",
        "theatre",
        "anthem",
        "the-the",
    ),
    *("\u2014the\u2014", "an_a", "x\ty\nz", "\U0001d4d0", "\u200bzero", '"quoted"', "<answer>", "#1"),
]


def near_misses(gold: str, rng: random.Random) -> Iterator[str]:
    """The gold itself, and what is nearly it."""
    words = gold.split()
    yield gold
    yield from (gold.upper(), gold.lower(), gold.title(), f" {gold}\n", f"{gold}.", f"'{gold}'")
    yield from (f"the {gold}", f"{gold} a", f"An {gold}", gold.replace(" ", "  "), gold.replace(" ", "-"))
    yield from (gold.replace("e", "\u00e9"), gold.replace("s", "\u017f"), gold[:-1], gold[1:], gold * 2)
    yield from (" ".join(words[:-1]), " ".join(words[1:]), " ".join(reversed(words)), " ".join(words * 2))
    yield " ".join([*words, *words[:1], "and more"])
    yield " ".join(rng.sample(words, len(words)))
    yield f"{gold} {rng.choice(ODDITIES)}"
    yield f"I think it is {gold}"


def pairs(rows: Sequence[Mapping[str, Any]], rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Predictions with their golds."""
    for row in rows:
        golds = [row["answer"], *row["answer_aliases"]]
        for gold in golds:
            yield from ((prediction, golds) for prediction in near_misses(gold, rng))
        yield rng.choice(rows)["answer"], golds
    yield from ((one, [other]) for one in ODDITIES for other in ODDITIES)
    yield from ((rng.choice(ODDITIES), rng.sample(ODDITIES, 3)) for _ in range(500))


def sets_of_paragraphs(rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
    """Predicted and gold, with duplicates and empty ones among them."""
    for _ in range(2000):
        yield [rng.randrange(20) for _ in range(rng.randrange(6))], rng.sample(range(20), rng.randrange(5))


def answers_differ(official: Any, rows: Sequence[Mapping[str, Any]], rng: random.Random) -> tuple[int, int]:
    """How many pairs there are, and how many disagree."""
    count = wrong = 0
    for prediction, golds in pairs(rows, rng):
        metric = official.AnswerMetric()
        metric(prediction, golds)
        theirs = metric.get_metric()
        ours = scoring.exact_match(prediction, golds), scoring.f1(prediction, golds)
        count += 1
        if any(abs(a - b) > 1e-12 for a, b in zip(ours, theirs, strict=True)):
            wrong += 1
            print(f"answer {prediction!r} for {golds!r}: ours {ours}, theirs {theirs}")
    return count, wrong


def supports_differ(official: Any, rng: random.Random) -> tuple[int, int]:
    count = wrong = 0
    for predicted, gold in sets_of_paragraphs(rng):
        metric = official.SupportMetric()
        metric(predicted, gold)
        ours, theirs = scoring.support(predicted, gold), metric.get_metric()
        count += 1
        if any(abs(a - b) > 1e-12 for a, b in zip(ours, theirs, strict=True)):
            wrong += 1
            print(f"support {predicted} for {gold}: ours {ours}, theirs {theirs}")
    return count, wrong


def files_differ(official: Any, where: Path, rng: random.Random) -> tuple[int, int]:
    """The official script on a file of ours, against our means, over the dev rows of a folder."""
    tasks = [task.data for task in data.load(str(where), "validation", setting="paragraphs").tasks]
    results = [(task, _output(task, rng)) for task in tasks]
    rng.shuffle(results)
    with tempfile.TemporaryDirectory() as folder:
        file = predictions.write(results, Path(folder))
        gold = files.file(files.directory(str(where), samples=where, folder=data.FOLDER),
                               ["musique_ans_v1.0_dev"])  # fmt: skip
        theirs = official.evaluate(str(file), str(gold))
    scored = [scoring.score(task, output) for task, output in results]
    names = {"answer_f1": "f1", "answer_em": "em", "support_f1": "support_f1"}
    ours = {name: round(sum(s[key] for s in scored) / len(scored), 3) for name, key in names.items()}
    if ours != theirs:
        print(f"{where}: ours {ours}, theirs {theirs}")
    return 1, int(ours != theirs)


def _output(task: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    said = rng.choice(list(near_misses(task["answer"], rng)))
    return {
        "text": f"<think>so</think><answer>{said}</answer>",
        "searches": [{"query": "q", "found": [rng.randrange(20)]} for _ in range(rng.randrange(4))],
    }


def main(clone: Path) -> int:
    sys.path.insert(0, str(clone))
    spec = importlib.util.spec_from_file_location("evaluate_musique", clone / "evaluate_v1.0.py")
    assert spec is not None and spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    rng = random.Random(0)
    folders = [data.SAMPLES]
    if "AL_RAY_DATA" in os.environ:
        folders.append(Path(os.environ["AL_RAY_DATA"]))
    rows = [row.values for folder in folders for row in _rows(folder)]
    compared = {
        "answers": answers_differ(official, rows, rng),
        "sets of paragraphs": supports_differ(official, rng),
        "prediction files": _sum(files_differ(official, folder, rng) for folder in folders),
    }
    for what, (count, wrong) in compared.items():
        print(f"{count} {what}: {wrong} disagreements")
    return int(any(wrong for _, wrong in compared.values()))


def _rows(folder: Path) -> Iterator[DataRow]:
    for name in ("musique_ans_v1.0_train", "musique_ans_v1.0_dev", "open_retrieval_train"):
        yield from files.rows(str(folder), [name], samples=data.SAMPLES, folder=data.FOLDER)


def _sum(counts: Iterator[tuple[int, int]]) -> tuple[int, int]:
    found = list(counts)
    return sum(count for count, _ in found), sum(wrong for _, wrong in found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
