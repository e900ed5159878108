"""The reward, 0.9 x answer F1 + 0.1 x format, and MuSiQue's metrics as its official script has them.

An answer is compared in lower case, without ASCII punctuation and English articles; F1 is over the words
that are left, and the best of answer and aliases counts. See README.md for where this was checked.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

F1_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_OPEN, _CLOSE = "<answer>", "</answer>"
# Up to the next tag, whichever it is, so that no text of a model takes more than linear time.
_PART = r"((?:(?!</?(?:think|answer)>).)++)"
_LAST_MESSAGE = re.compile(rf"\s*<think>{_PART}</think>\s*{_OPEN}{_PART}{_CLOSE}\s*", re.DOTALL)


def score(task: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, float]:
    """``reward``, which is learnt from, and the metrics by name. ``output`` is what the agent returned.

    Of the gold passages: where the task brings its paragraphs, ``support_em`` and ``support_f1`` of those
    that the searches showed; where its passages are known by id, ``hop_recall``, the share of hops for
    which one was shown.
    """
    golds = [task["answer"], *task["answer_aliases"]]
    predicted = answer(output["text"])
    best = f1(predicted, golds)
    form = float(bool(output["searches"]) and well_formed(output["text"]))
    metrics = {"reward": F1_WEIGHT * best + FORMAT_WEIGHT * form, "f1": best, "format": form}
    metrics["em"] = exact_match(predicted, golds)
    shown = {passage for search in output["searches"] for passage in search["found"]}
    if "paragraphs" in task:
        gold = {passage for hop in task["gold"] for passage in hop}
        metrics["support_em"], metrics["support_f1"] = support(shown, gold)
    elif task["gold"]:
        metrics["hop_recall"] = sum(not shown.isdisjoint(hop) for hop in task["gold"]) / len(task["gold"])
    return metrics


def answer(text: str) -> str:
    """What stands in the last ``<answer>`` that has an end; nothing where there is none."""
    before_last_end, _, _ = text.rpartition(_CLOSE)
    _, begun, rest = before_last_end.rpartition(_OPEN)
    return rest.partition(_CLOSE)[0].strip() if begun else ""


def well_formed(text: str) -> bool:
    """Whether it is a thought and then an answer, each in its tags, and nothing else."""
    match = _LAST_MESSAGE.fullmatch(text)
    return match is not None and all(part.strip() for part in match.groups())


def exact_match(predicted: str, golds: Sequence[str]) -> float:
    """1 if it equals one of the golds, both normalised."""
    return float(normalized(predicted) in map(normalized, golds))


def f1(predicted: str, golds: Sequence[str]) -> float:
    """Of the normalised words, with the gold that it is nearest to."""
    return max(_f1(normalized(predicted).split(), normalized(gold).split()) for gold in golds)


def support(predicted: Iterable[Any], gold: Iterable[Any]) -> tuple[float, float]:
    """Exact match and F1 of a set of paragraphs."""
    found, wanted = set(predicted), set(gold)
    if not found and not wanted:
        return 1.0, 1.0
    right = len(found & wanted)
    return float(found == wanted), 2 * right / (len(found) + len(wanted))


def normalized(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces; in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    right = (Counter(predicted) & Counter(gold)).total()
    return 2 * right / (len(predicted) + len(gold))
