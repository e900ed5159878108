"""MuSiQue's rows as tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from al_ray.data.dataset import report
from al_ray.data.task_order import split_by_id
from al_ray.envs.musique import checks, predictions
from al_ray.envs.musique.data import OPEN, SAMPLES, families, load
from al_ray.envs.musique.demonstrations import demonstrate
from al_ray.errors import DataError

OFFICIAL = {
    "id": "2hop__1_2",
    "question": "Where was the author of Kites born?",
    "paragraphs": [
        {"idx": 0, "title": "Fowl", "paragraph_text": "Hens lay.", "is_supporting": False},
        {"idx": 1, "title": "Kites", "paragraph_text": "Kites is by Ada Vale.", "is_supporting": True},
        {"idx": 2, "title": "Ada Vale", "paragraph_text": "Ada Vale is of Elder.", "is_supporting": True},
    ],
    "question_decomposition": [
        {"id": 1, "question": "Kites >> author", "answer": "Ada Vale", "paragraph_support_idx": 1},
        {"id": 2, "question": "Where was #1 born?", "answer": "Elder", "paragraph_support_idx": 2},
    ],
    "answer": "Elder",
    "answer_aliases": ["Elder town"],
    "answerable": True,
}


def written(folder: Path, *rows: Any) -> str:
    lines = [json.dumps(row) for row in rows]
    (folder / "musique_ans_v1.0_train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)


def test_an_official_row_becomes_a_task_with_its_paragraphs(tmp_path: Path) -> None:
    (task,) = load(written(tmp_path, OFFICIAL), "train", setting="paragraphs", top_k=2).tasks
    assert task.id == "2hop__1_2" and task.data["hops"] == 2 and task.data["top_k"] == 2
    assert task.data["paragraphs"][1] == {"id": 1, "title": "Kites", "text": "Kites is by Ada Vale."}
    assert task.data["gold"] == [[1], [2]]
    assert [step["query"] for step in task.data["steps"]] == ["Kites author", "Where was Ada Vale born?"]
    assert [step["finding"] for step in task.data["steps"]] == ["Ada Vale", "Elder"]


def test_in_the_open_setting_the_paragraphs_stay_away(tmp_path: Path) -> None:
    """The service searches; the hops' own passages serve demonstrations alone."""
    (task,) = load(written(tmp_path, OFFICIAL), "train").tasks
    assert "paragraphs" not in task.data and task.data["gold"] == []


def test_rows_over_a_corpus_bring_their_gold_passages() -> None:
    task = load(None, "train", hops=[2]).tasks[0]
    first, last = task.data["steps"]
    assert first["query"] in task.data["question"]
    assert last["query"] == first["finding"] and last["query"] in first["text"]
    assert last["finding"] == task.data["answer"]
    assert [hop[0] for hop in task.data["gold"]] == [first["id"], last["id"]]


def test_the_tasks_are_always_the_same(rows_path: str | None) -> None:
    assert load(rows_path, "train", readable=True) == load(rows_path, "train", readable=True)
    ids = [task.id for task in load(rows_path, "train").tasks]
    assert len(ids) == len(set(ids)) > 100


def test_data_check_finds_nothing_wrong_and_counts_hops(rows_path: str | None) -> None:
    found = report("musique", checks.DATASET, Path(rows_path) if rows_path else SAMPLES)
    assert found is not None and found.sound
    for name, split in found.splits.items():
        assert not split.problem_count and sum(split.kinds["hops"].values()) == split.rows > 10
        assert name == OPEN or split.kinds["paragraphs"]["20"] == split.rows
    assert found.splits[OPEN].left_out["whose question is held out"] > 10


def test_a_question_that_is_held_out_is_not_trained_on(tmp_path: Path, rows_path: str | None) -> None:
    """As the published rows over a corpus have all of them."""
    dev = OFFICIAL | {"id": "dev", "question": "Where was the  author of Kites born?"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(dev), encoding="utf-8")
    found = load(written(tmp_path, OFFICIAL, OFFICIAL | {"id": "a", "question": "Where?"}), "train")
    assert [task.id for task in found.tasks] == ["a"]
    assert found.left_out == {"whose question is held out": 1}
    assert [task.id for task in load(str(tmp_path), "validation").tasks] == ["dev"]
    train, dev_ids = load(rows_path, "train").tasks, {task.id for task in load(rows_path, "validation").tasks}
    assert dev_ids and not dev_ids & {task.id for task in train}


def test_rows_that_are_left_out_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [
        OFFICIAL,
        OFFICIAL | {"id": "a", "answerable": False},
        OFFICIAL | {"id": "b", "question": "Where " * 30},
        OFFICIAL | {"id": "c", "question_decomposition": OFFICIAL["question_decomposition"][:1]},
        OFFICIAL | {"id": "d", "question": "Where was she born?"},
    ]
    found = load(written(tmp_path, *rows), "train", hops=[2], max_question_chars=100, readable=True)
    assert [task.id for task in found.tasks] == ["2hop__1_2"]
    assert found.left_out == {
        "that cannot be answered": 1,
        "with longer questions": 1,
        "with other hops": 1,
        "that cannot be answered by reading what is shown": 1,
    }


def test_what_is_cut_away_cannot_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, OFFICIAL)
    assert load(path, "train", readable=True, passage_chars=30).tasks
    assert not load(path, "train", readable=True, passage_chars=10).tasks


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": 3}, "answer"),
        ({"answer_aliases": None}, "answer_aliases"),
        ({"paragraphs": [{"idx": 0, "title": "x", "is_supporting": True}]}, "paragraphs.0.paragraph_text"),
        ({"paragraphs": OFFICIAL["paragraphs"][:2]}, "question_decomposition"),
    ],
)
def test_a_row_of_another_shape_is_told_with_its_place_and_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError, match=rf"row 2, {field}"):
        load(written(tmp_path, OFFICIAL, OFFICIAL | change), "train", setting="paragraphs")


def test_a_hop_without_a_passage_of_the_corpus_is_told(tmp_path: Path) -> None:
    row = {"id": "x", "question": "q", "answer": "a", "answer_aliases": [], "gold_pids_per_hop": [["p9"]]}
    (tmp_path / "open_retrieval_train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "corpus.jsonl").write_text('{"pid": "p1", "title": "t", "text": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match="row 1, gold_pids_per_hop"):
        load(str(tmp_path), "train")
    found = report("musique", checks.DATASET, tmp_path)
    assert found is not None and "row 1, gold_pids_per_hop" in found.splits[OPEN].problems[0].where


def test_questions_with_a_common_single_question_are_a_family(tmp_path: Path) -> None:
    """Or what is held out would be trained on: the answer is that of the last one."""
    found = families(["2hop__1_2", "3hop1__5_2_9", "2hop__9_4", "2hop__7_8", "4hop2__8_1000_3_2000", "own"])
    assert found["2hop__1_2"] == found["3hop1__5_2_9"] == found["2hop__9_4"]
    assert found["2hop__7_8"] == found["4hop2__8_1000_3_2000"] != found["2hop__1_2"]
    assert "own" not in found
    rows = [OFFICIAL | {"id": f"2hop__{number // 2}_{number + 100}"} for number in range(40)]
    loaded = load(written(tmp_path, *rows), "train", setting="paragraphs", hops=[2])
    train, held_out = split_by_id(loaded.tasks, 0.3, loaded.families)
    first, second = ({task.id.split("_")[2] for task in side} for side in (train, held_out))
    assert first and second and not first & second


def test_an_unknown_setting_is_told() -> None:
    with pytest.raises(DataError, match=r"data\.options\.setting: 'closed': is open or paragraphs"):
        load(None, "train", setting="closed")  # type: ignore[arg-type]


def test_a_demonstration_searches_each_hop_and_answers() -> None:
    """Each search could be known from what was shown before it."""
    for task in load(None, "train", readable=True).tasks:
        shown = demonstrate(task.data)
        assert [m["role"] for m in shown.messages] == [
            *("system", "user"),
            *(["assistant", "tool"] * task.data["hops"]),
            "assistant",
        ]
        assert shown.messages[-1]["content"].endswith(f"<answer>{task.data['answer']}</answer>")


def test_predictions_are_in_the_order_of_the_rows_one_for_each_task(tmp_path: Path) -> None:
    tasks = load(None, "validation", setting="paragraphs").tasks
    searches = [{"query": "q", "found": [7, 3]}, {"query": "r", "found": [3]}]
    results = [
        (t.data, {"text": f"<answer>{t.data['answer']}</answer>", "searches": searches}) for t in tasks
    ]
    results += [(tasks[0].data, {"text": "<answer>another try</answer>", "searches": []})]
    path = predictions.write([*reversed(results[1:-1]), results[0], results[-1]], tmp_path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [t.id for t in tasks]
    assert [line["predicted_answer"] for line in lines] == [t.data["answer"] for t in tasks]
    assert lines[0]["predicted_support_idxs"] == [3, 7] and lines[0]["predicted_answerable"] is True
