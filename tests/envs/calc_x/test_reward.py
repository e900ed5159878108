"""The reward is 1 exactly for a right last answer in the agreed form."""

from __future__ import annotations

import pytest

from al_ray.envs.calc_x.reward import score


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
    ],
)
def test_a_right_answer_is_worth_one(output: str, result: str) -> None:
    """Numbers within one percent, however they are written, and equal option letters."""
    assert score({"result": result}, output) == 1.0


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
    ],
)
def test_anything_else_is_worth_nothing(output: str, result: str) -> None:
    """Wrong, unmarked, unreadable or uncalculated answers, and right ones that were taken back."""
    assert score({"result": result}, output) == 0.0
