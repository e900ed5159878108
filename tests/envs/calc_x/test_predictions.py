"""The predictions are in the columns and the markup that Calc-X's own script reads."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from al_ray.envs.calc_x.predictions import write

TASK = {"id": "t", "question": "How many?", "chain": "", "result": "51", "source": "made"}


def test_each_output_is_a_line_with_its_answer_in_result_tags(tmp_path: Path) -> None:
    """One without an answer has an empty one; what would be markup stays text."""
    outputs = ["It is ### 51 ###", "no idea", "### ANSWER: 1 < 2 ###"]
    file = write([(TASK, output) for output in outputs], tmp_path)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["output"] for line in lines] == outputs
    assert {(line["result"], line["source_ds"]) for line in lines} == {("51", "made")}
    between = [re.fullmatch(r"<result>([^<>]*)</result>", line["prediction"]) for line in lines]
    assert [html.unescape(found[1]) for found in between if found] == ["51", "", "1 < 2"]
