"""The rows: MuSiQue's official files, or questions over a corpus, as tasks.

Official rows (``musique_ans_v1.0_{train,dev}``) bring 20 paragraphs and the single questions that theirs
is composed of. Rows over a corpus (``open_retrieval_train``) name the gold passages of each hop by their
ids in ``corpus.jsonl``; they have no validation split of their own (``data.validation_share``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from al_ray.data import files
from al_ray.data.files import DataRow, checked
from al_ray.errors import DataError, Problem
from al_ray.retrieval.vocabulary import words
from al_ray.types import Task, TaskSet

SAMPLES = Path(__file__).parent / "samples"
FOLDER = "musique"
Setting = Literal["open", "paragraphs"]

UNANSWERABLE = "that cannot be answered"
"""Why a row of MuSiQue-Full may be left out."""

OPEN = "open_retrieval_train"
"""The stem of the training file of the setting ``open``."""
FILES = {
    "train": ["musique_ans_v1.0_train", "train"],
    "validation": ["musique_ans_v1.0_dev", "dev", "validation"],
}
_DISAMBIGUATION = re.compile(r"\s*\([^()]*\)$")


class Paragraph(TypedDict):
    idx: int
    title: str
    paragraph_text: str
    is_supporting: bool


class SingleQuestion(TypedDict):
    question: str
    answer: str
    paragraph_support_idx: int | None


class OfficialRow(TypedDict):
    id: str
    question: str
    paragraphs: list[Paragraph]
    question_decomposition: list[SingleQuestion]
    answer: str
    answer_aliases: list[str]
    answerable: bool


class OpenRow(TypedDict):
    id: str
    question: str
    answer: str
    answer_aliases: list[str]
    gold_pids_per_hop: list[list[str]]


class CorpusRow(TypedDict):
    pid: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Options:
    """What of the rows becomes tasks, and what searches show."""

    setting: Setting
    top_k: int
    passage_chars: int
    hops: Sequence[int] | None
    max_question_chars: int | None
    readable: bool


def load(
    path: str | None,
    split: str,
    *,
    setting: Setting = "open",
    top_k: int = 3,
    passage_chars: int = 1000,
    hops: Sequence[int] | None = None,
    max_question_chars: int | None = None,
    readable: bool = False,
) -> TaskSet:
    """The tasks of a split, in the order of the file.

    ``setting`` is ``paragraphs`` (the row's 20 are all there is to search) or ``open`` (a service
    searches). A search shows ``top_k`` passages, the first ``passage_chars`` characters of each. ``hops``
    and ``max_question_chars`` keep shorter rows; ``readable`` keeps those that could be answered by
    reading: most words of each search were shown before it, and the answer is shown. Of the training rows
    those are left out whose question is in the file for validation too: the published rows over a corpus have
    all of them.
    """
    options = Options(setting, top_k, passage_chars, hops, max_question_chars, readable)
    if setting not in ("open", "paragraphs"):
        raise DataError(Problem("data.options.setting", setting, "is open or paragraphs"))
    held_out = held_out_questions(path) if split == "train" else frozenset()
    tasks, left_out, known = [], Counter[str](), list[str]()
    for number, data in enumerate(_tasks(path, split, options)):
        known.append(data["id"])
        if files.asked(data["question"]) in held_out:
            left_out[files.HELD_OUT] += 1
        elif reason := _reason_to_leave_out(data, options):
            left_out[reason] += 1
        else:
            shown = {"row": number, "top_k": top_k, "passage_chars": passage_chars}
            tasks.append(Task(data["id"], data | shown, split))
    return TaskSet(tasks, left_out, families(known))


def held_out_questions(path: str | None) -> frozenset[str]:
    """Those of the file for validation; none where there is no such file."""
    return files.questions(path, FILES["validation"], samples=SAMPLES, folder=FOLDER)


def families(ids: Sequence[str]) -> Mapping[str, str]:
    """Of questions that are composed of common single ones: of whose ids theirs are made
    (``2hop__13548_86706``), the last of which has the answer."""
    first: dict[str, str] = {}
    """Another single question of the same family, by a single question; itself for the one that names it."""

    def name(single: str) -> str:
        while first.setdefault(single, single) != single:
            first[single] = single = first[first[single]]
        return single

    singles = {each: each.partition("__")[2].split("_") for each in ids if "__" in each}
    for composed in singles.values():
        for single in composed[1:]:
            first[name(single)] = name(composed[0])
    return {each: name(composed[0]) for each, composed in singles.items()}


def corpus(path: str | None) -> Path:
    """The file of the passages that rows over a corpus are about; for the service's option ``corpus``."""
    return files.directory(path, samples=SAMPLES, folder=FOLDER) / "corpus.jsonl"


def cut(text: str, chars: int) -> str:
    """The beginning of a passage, as searches show it."""
    return text if len(text) <= chars else text[:chars].rsplit(" ", 1)[0] + " ..."


def _tasks(path: str | None, split: str, options: Options) -> Iterator[dict[str, Any]]:
    paragraphs = options.setting == "paragraphs"
    open_rows = not paragraphs and split == "train"
    names = [OPEN, *FILES[split]] if open_rows else FILES[split]
    rows = list(files.rows(path, names, samples=SAMPLES, folder=FOLDER))
    if not rows or "gold_pids_per_hop" not in rows[0].values:
        yield from (task_data(checked(row, OfficialRow), row, paragraphs=paragraphs) for row in rows)
        return
    found = [(row, checked(row, OpenRow)) for row in rows]
    passages = passages_of([open_row for _, open_row in found], corpus(path))
    yield from (open_task_data(open_row, row, passages) for row, open_row in found)


def task_data(row: OfficialRow, where: DataRow, *, paragraphs: bool) -> dict[str, Any]:
    """An official row as a task. Raises ``DataError`` where a hop names a paragraph that is not there."""
    by_index = {paragraph["idx"]: paragraph for paragraph in row["paragraphs"]}
    answers = [single["answer"] for single in row["question_decomposition"]]
    steps = []
    for single in row["question_decomposition"]:
        support = single["paragraph_support_idx"]
        paragraph = None if support is None else by_index.get(support)
        if row["answerable"] and paragraph is None:
            cure = "no paragraph has this idx"
            raise DataError(Problem(f"{where.where}, question_decomposition", single, cure))
        if paragraph is not None:
            passage = {key: paragraph[name] for key, name in _PASSAGE_KEYS}
            steps.append(
                {"query": _query(single["question"], answers), "finding": single["answer"], **passage}
            )
    data: dict[str, Any] = {
        "id": row["id"],
        "question": row["question"],
        "answer": row["answer"],
        "answer_aliases": row["answer_aliases"],
        "answerable": row["answerable"],
        "hops": len(row["question_decomposition"]),
        "steps": steps,
        "gold": [],
    }
    if paragraphs:
        data["paragraphs"] = [{key: p[name] for key, name in _PASSAGE_KEYS} for p in row["paragraphs"]]
        data["gold"] = [[p["idx"]] for p in row["paragraphs"] if p["is_supporting"]]
    return data


_PASSAGE_KEYS: Sequence[tuple[str, Literal["idx", "title", "paragraph_text"]]] = (
    ("id", "idx"),
    ("title", "title"),
    ("text", "paragraph_text"),
)


def _query(question: str, answers: Sequence[str]) -> str:
    """A single question as a search: ``#1`` is the answer of the first."""
    filled = re.sub(
        r"#(\d+)", lambda n: answers[int(n[1]) - 1] if int(n[1]) <= len(answers) else n[0], question
    )
    return " ".join(filled.replace(" >> ", " ").split())


def open_task_data(row: OpenRow, where: DataRow, passages: Mapping[str, CorpusRow]) -> dict[str, Any]:
    """A row over a corpus as a task. Raises ``DataError`` where a hop names no passage that is there."""
    gold = row["gold_pids_per_hop"]
    for hop in gold:
        if not hop or hop[0] not in passages:
            cure = "every hop names passages of the corpus"
            raise DataError(Problem(f"{where.where}, gold_pids_per_hop", gold, cure))
    chain = [passages[hop[0]] for hop in gold]
    titles = [_DISAMBIGUATION.sub("", passage["title"]) for passage in chain]
    findings = [*titles[1:], row["answer"]]
    return {
        "id": row["id"],
        "question": row["question"],
        "answer": row["answer"],
        "answer_aliases": row["answer_aliases"],
        "answerable": True,
        "hops": len(gold),
        "steps": [
            {"query": title, "finding": finding, "id": p["pid"], "title": p["title"], "text": p["text"]}
            for title, finding, p in zip(titles, findings, chain, strict=True)
        ],
        "gold": gold,
    }


def passages_of(rows: Sequence[OpenRow], file: Path) -> Mapping[str, CorpusRow]:
    """The first gold passage of each of their hops, from the corpus, by its id."""
    wanted = {hop[0] for row in rows for hop in row["gold_pids_per_hop"] if hop}
    found = {}
    for row in files.read(files.file(file.parent, [file.stem])):
        if isinstance(row, DataError):
            raise row
        if row.values.get("pid") in wanted:
            passage = checked(row, CorpusRow)
            found[passage["pid"]] = passage
    return found


def _reason_to_leave_out(data: Mapping[str, Any], options: Options) -> str | None:
    if not data["answerable"]:
        return UNANSWERABLE
    if options.hops is not None and data["hops"] not in options.hops:
        return "with other hops"
    if options.max_question_chars is not None and len(data["question"]) > options.max_question_chars:
        return "with longer questions"
    if options.readable and not _is_readable(data, options.passage_chars):
        return "that cannot be answered by reading what is shown"
    return None


def _is_readable(data: Mapping[str, Any], chars: int) -> bool:
    known = data["question"]
    for step in data["steps"]:
        if not _is_named(step["query"], known):
            return False
        known += f"\n{step['title']}: {cut(step['text'], chars)}"
    return any(answer.lower() in known.lower() for answer in (data["answer"], *data["answer_aliases"]))


def _is_named(query: str, text: str) -> bool:
    """Whether at least half of the query's words are in the text."""
    wanted, there = words(query), set(words(text))
    return 2 * sum(word in there for word in wanted) >= len(wanted)
