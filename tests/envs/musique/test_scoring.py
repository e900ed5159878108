"""The reward and MuSiQue's metrics."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.envs.musique import demonstrations, scoring
from al_ray.envs.musique.data import load

SEARCHED = [{"query": "q", "found": ["p1"]}]


def task(**values: Any) -> dict[str, Any]:
    return {"answer": "Lake Erie", "answer_aliases": ["Erie"], "gold": [["p1", "p2"], ["p3"]], **values}


def said(answer: str, think: str = "so") -> dict[str, Any]:
    return {"text": f"<think>{think}</think><answer>{answer}</answer>", "searches": SEARCHED}


@pytest.mark.parametrize(
    ("answer", "em", "f1"),
    [
        ("Lake Erie", 1, 1),
        ("the  LAKE erie.", 1, 1),
        ("Erie", 1, 1),
        ("Lake", 0, 2 / 3),
        ("Lake Erie, Ohio", 0, 0.8),
        ("Erie Erie", 0, 2 / 3),
        ("Ohio", 0, 0),
        ("the", 0, 0),
    ],
)
def test_an_answer_is_compared_by_its_words_with_the_nearest_gold(answer: str, em: float, f1: float) -> None:
    metrics = scoring.score(task(), said(answer))
    assert (metrics["em"], metrics["f1"]) == (em, pytest.approx(f1))
    assert metrics["reward"] == pytest.approx(0.9 * f1 + 0.1)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>Erie</answer>",
        "<answer>Erie</answer><think>so</think>",
        "<think></think><answer>Erie</answer>",
        "<think>so</think> hence <answer>Erie</answer>",
        "<think>so</think><answer>Erie</answer> done",
        "<think>so</think><answer>Ohio</answer><answer>Erie</answer>",
    ],
)
def test_a_right_answer_in_the_wrong_form_loses_the_tenth_for_form(text: str) -> None:
    metrics = scoring.score(task(), {"text": text, "searches": SEARCHED})
    assert (metrics["f1"], metrics["format"], metrics["reward"]) == (1, 0, pytest.approx(0.9))


@pytest.mark.parametrize(
    "text",
    [
        "<think>I end with <answer> tags</think><answer>Erie</answer>",
        "<answer>Ohio <answer>Erie</answer>",
        "<answer>Erie</answer></answer>",
        "<answer>Erie</answer> in <answer>",
    ],
)
def test_a_tag_that_is_only_spoken_of_costs_the_form_alone(text: str) -> None:
    """The answer is what the last ``<answer>`` that has an end holds, up to that."""
    metrics = scoring.score(task(), {"text": text, "searches": SEARCHED})
    assert (metrics["em"], metrics["format"]) == (1, 0)


TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " ", "\n", "<"]), max_size=12
).map("".join)
FORMED = st.tuples(TEXTS, TEXTS).map(lambda parts: "<think>{}</think> <answer>{}</answer>".format(*parts))


@settings(max_examples=500)
@given(TEXTS | FORMED)
def test_answer_and_form_are_those_of_the_plain_expressions(text: str) -> None:
    """Which say what is meant, and take a time that grows with the square of the text."""
    answers = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL)
    assert scoring.answer(text) == (answers[-1].strip() if answers else "")
    form = re.fullmatch(r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", text, re.DOTALL)
    parts = form.groups() if form else [""]
    assert scoring.well_formed(text) is all(
        part.strip() and not re.search("</?(think|answer)>", part) for part in parts
    )


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 20_000,
        "<answer>x" + "</answer>" * 20_000,
        "<answer>x</answer>" * 20_000,
        "<think>" * 20_000,
        "<think>" + "</think><answer>x</answer>" * 20_000 + "y",
        "<think>x</think>" + " " * 100_000,
        "<think>" + "<" * 100_000,
        "<think>" + "x" * 100_000,
    ],
)
def test_no_text_of_a_model_is_slow_to_score(text: str) -> None:
    start = time.perf_counter()
    scoring.score(task(), {"text": text, "searches": SEARCHED})
    assert time.perf_counter() - start < 0.5


def test_who_has_not_searched_has_not_kept_to_the_form() -> None:
    assert scoring.score(task(), {**said("Erie"), "searches": []})["format"] == 0


@pytest.mark.parametrize("text", ["", "Erie", "<answer>Erie", "<answer></answer>", "<query>Erie</query>"])
def test_without_an_answer_in_its_tags_nothing_is_earned(text: str) -> None:
    assert scoring.score(task(), {"text": text, "searches": SEARCHED})["reward"] == 0


def test_hops_count_where_one_of_their_passages_was_shown() -> None:
    assert scoring.score(task(), said("x"))["hop_recall"] == 0.5
    assert "support_f1" not in scoring.score(task(), said("x"))


def test_where_the_task_brings_paragraphs_those_that_were_shown_are_the_support() -> None:
    output = {"text": "", "searches": [{"query": "q", "found": [3, 4]}, {"query": "q", "found": [4, 5]}]}
    metrics = scoring.score(task(paragraphs=[], gold=[[3], [9]]), output)
    assert (metrics["support_em"], metrics["support_f1"]) == (0, pytest.approx(0.4))


def test_no_paragraphs_where_none_are_wanted_are_wholly_right() -> None:
    assert scoring.support([], []) == (1, 1)
    assert scoring.support([3], []) == (0, 0) == scoring.support([], [3])


@pytest.mark.parametrize("setting", ["open", "paragraphs"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_gold_answers_score_one_on_every_row(rows_path: str | None, setting: Any, split: str) -> None:
    """As a replayed agent gives them, and with each alias as the answer. (The official script agrees on all
    of these rows: ``tools/compare_musique.py``.)"""
    for found in load(rows_path, split, setting=setting).tasks:
        output = {"text": demonstrations.final(found.data), "searches": SEARCHED}
        metrics = scoring.score(found.data, output)
        assert metrics["em"] == metrics["f1"] == 1
        assert metrics["reward"] == pytest.approx(1)
        for alias in found.data["answer_aliases"]:
            assert scoring.score(found.data, said(alias))["f1"] == 1


WORDS = st.lists(st.sampled_from(["the", "a", "lake", "Lake", "erie.", "é", "-"]), max_size=5).map(" ".join)


@settings(max_examples=100)
@given(WORDS, WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(predicted: str, gold: str) -> None:
    ours = scoring.normalized(predicted).split(), scoring.normalized(gold).split()
    same = sum((Counter(ours[0]) & Counter(ours[1])).values())
    if not ours[0] or not ours[1]:
        expected = float(ours[0] == ours[1])
    elif not same:
        expected = 0.0
    else:
        precision, recall = same / len(ours[0]), same / len(ours[1])
        expected = 2 * precision * recall / (precision + recall)
    assert scoring.f1(predicted, [gold]) == pytest.approx(expected)
    assert scoring.f1(predicted, [gold]) == scoring.f1(gold, [predicted])
