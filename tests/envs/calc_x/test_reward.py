"""The reward is 1 exactly for a right last answer in the agreed form."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from al_ray.envs.calc_x import reward
from al_ray.envs.calc_x.reward import MAX_LENGTH, same, score
from al_ray.types import Task

README = (Path(reward.__file__).parent / "README.md").read_text(encoding="utf-8")
DISAGREEMENTS = re.findall(r"^\| .+ \| `(.+)` \| `(.+)` \| (right|wrong) \| (?:right|wrong) \|", README, re.M)


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ("### 51 ###", "51"),
        ("It is 3 times 17, so\n### 51 ###", "51"),
        ("### 7 ### no: ### 51 ###", "51"),
        ("###51.0###", "51"),
        ("### 1,020 ###", "1020"),
        ("### 1015 ###", "1020"),
        ("### 2/3 ###", "2/3 = around 0.666667"),
        ("### 0.67 ###", "2/3"),
        ("### 20% ###", "0.2"),
        ("### -4 ###", "-4"),
        ("### 0 ###", "0"),
        ("### (B) ###", "B"),
        ("### B ###", "B)"),
        ("### ANSWER: 51 ###", "51"),
        ("It is 51.\n### ANSWER: 51", "51"),
        ("### (2/3) ###", "2/3"),
        ("### -(2/3) ###", "-2/3"),
        ("### 1250 ###", "1_250"),
        ("### 0.8 ###", "319_999/400_000"),
        ("### 1.02e3 ###", "1020"),
        ("### 2 : 3 ###", "2 : 3"),
        ("### Solution\n### 51 ###", "51"),
        ("### Answer\n\n### 51 ###", "51"),
    ],
)
def test_a_right_answer_is_worth_one(output: str, result: str) -> None:
    """Numbers within one percent, however they are written, and equal option letters."""
    assert score({"result": result}, output) == {"reward": 1.0, "correct_results": 1.0, "answered": 1.0}


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ("51", "51"),
        ("### 51", "51"),
        ("", "51"),
        ("### 51 ### no: ### 7 ###", "51"),
        ("### 52 ###", "51"),
        ("### -51 ###", "51"),
        ("### 0.001 ###", "0"),
        ("### 17*3 ###", "51"),
        ("### answer ###", "51"),
        ("### 1/0 ###", "51"),
        ("### " + "9" * 5000 + " ###", "51"),
        ("### ... ###", "51"),
        ("### b ###", "B"),
        ("### A ###", "51"),
        ("### 5\n1 ###", "51"),
        ("### 51\n###", "51"),
        ("### ANSWER: 52 ###", "51"),
        ("### ANSWER: ###", "51"),
        ("### 1e999 ###", "51"),
        ("### twelve ###", "12"),
    ],
)
def test_anything_else_is_worth_nothing(output: str, result: str) -> None:
    """Wrong, unmarked, unreadable or uncalculated answers, and right ones that were taken back."""
    assert score({"result": result}, output)["reward"] == 0.0


@pytest.mark.parametrize(("given", "result", "verdict"), DISAGREEMENTS)
def test_where_ours_differs_from_calc_xs_own_comparison_is_as_the_readme_says(
    given: str, result: str, verdict: str
) -> None:
    assert same(given, result) is (verdict == "right")


def test_a_number_is_read_up_to_a_length() -> None:
    assert same("51".rjust(MAX_LENGTH, "0"), "51")
    assert not same("51".rjust(MAX_LENGTH + 1, "0"), "51")


@pytest.mark.parametrize(
    "output",
    [
        "###" + " " * 100_000,
        "###\n" * 20_000,
        "### ANSWER:" + " " * 100_000,
        "#" * 100_000,
        "### a " * 20_000,
    ],
)
def test_no_text_of_a_model_is_slow_to_score(output: str) -> None:
    start = time.perf_counter()
    score({"result": "51"}, output)
    assert time.perf_counter() - start < 0.5


def test_an_output_without_an_answer_is_told_apart_from_a_wrong_one() -> None:
    told = [score({"result": "51"}, output)["answered"] for output in ("51", "### 7 ###")]
    assert told == [0.0, 1.0]


def test_every_real_row_is_answered_by_its_own_result(real_tasks: Sequence[Task]) -> None:
    """A perfect agent has a reward of 1 everywhere, in either form of the answer."""
    for task in real_tasks:
        for form in ("### {} ###", "### ANSWER: {} ###"):
            assert score(task.data, form.format(task.data["result"]))["reward"] == 1.0, task.id
            assert reward.understood(task.data["result"]), task.id
