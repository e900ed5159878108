"""Hardness as the official rule has it, oddities included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from al_ray.envs.spider.hardness import hardness
from al_ray.types import Task


@pytest.mark.parametrize(
    ("query", "level"),
    [
        ("SELECT count(*) FROM a", "easy"),
        ("SELECT x FROM a WHERE y = 'limit'", "easy"),
        ("SELECT x FROM a WHERE y BETWEEN 1 AND 2", "easy"),
        ("SELECT x, y FROM a", "medium"),
        ("SELECT x FROM a WHERE y = 1 AND z = 2", "medium"),
        ("SELECT x FROM a WHERE y = 1 OR z = 2", "medium"),
        ("SELECT x FROM a ORDER BY y LIMIT 1", "medium"),
        ("SELECT x FROM a WHERE y LIKE '%b%'", "medium"),
        ("SELECT T1.x FROM a AS T1 JOIN b AS T2 ON T1.i = T2.i WHERE T2.y = 1", "medium"),
        ("SELECT x FROM a GROUP BY x HAVING count(*) > 1 AND avg(y) > 2", "easy"),  # as odd as that
        ("SELECT x, y FROM a WHERE y = 1 AND z = 2", "medium"),
        ("SELECT x FROM a WHERE y NOT IN (1, 2)", "easy"),
        ("SELECT max(x) FROM a WHERE y NOT IN (1, 2)", "medium"),
        ("SELECT x FROM a WHERE y IN (SELECT y FROM b)", "hard"),
        ("SELECT max(x), min(x) FROM a WHERE y = 1 AND z = 2 ORDER BY x", "hard"),
        ("SELECT x FROM a WHERE y NOT LIKE 'b' AND z NOT LIKE 'c'", "hard"),
        ("SELECT max(x), min(x), y FROM a WHERE y = 1 AND z = 2", "hard"),
        ("SELECT x FROM a UNION SELECT y FROM b", "hard"),
        ("SELECT x, y FROM a WHERE y = 1 AND z = 2 ORDER BY x", "extra"),
        ("SELECT x FROM a WHERE y IN (SELECT y FROM b) OR z > (SELECT avg(z) FROM a)", "extra"),
        ("SELECT x FROM a JOIN b ON a.i = b.i GROUP BY x ORDER BY count(*) LIMIT 1", "extra"),
        ("SELECT x FROM (SELECT x FROM a WHERE y = 1 ORDER BY z LIMIT 1)", "easy"),
    ],
)
def test_levels(query: str, level: str) -> None:
    """By what stands outside of parentheses in the first SELECT."""
    assert hardness(query) == level


def test_the_samples_have_every_level(sample_tasks: Sequence[Task]) -> None:
    """Most are easy."""
    assert Counter(task.data["hardness"] for task in sample_tasks) == {
        "easy": 60,
        "medium": 18,
        "hard": 12,
        "extra": 6,
    }
