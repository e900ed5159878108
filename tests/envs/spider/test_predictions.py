"""Predictions are written as the official evaluator reads them."""

from __future__ import annotations

from pathlib import Path

from al_ray.envs.spider import predictions


def test_each_answer_is_one_line_beside_its_gold_query(tmp_path: Path) -> None:
    """Line breaks, tabs and comments would end the query early, an empty line the conversation."""
    task = {"query": "SELECT a\tFROM b", "db_id": "c"}
    outputs = ["SELECT a -- all\nFROM b", "", " \n", "SELECT 'é'\u2028"]
    written = predictions.write([(task, output) for output in outputs], tmp_path / "new")
    assert written.read_text(encoding="utf-8").split("\n") == [
        *("SELECT a   FROM b", "SELECT", "SELECT", "SELECT 'é'"),
        "",
    ]
    gold = written.with_name("gold.txt").read_text(encoding="utf-8")
    assert gold == "SELECT a FROM b\tc\n" * 4
