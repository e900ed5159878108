"""A run's records as the rows of one file, for other programs: JSON lines or Parquet.

Both formats have the same columns. JSON of no fixed shape is text in both, and text is never null, so
that a reader that guesses a schema from the first lines, as Hugging Face's does, guesses right. The
file's suffix names its format; one that names none needs to be told. Rows are written as they are read,
a page at a time; the file is whole or not there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import groupby, islice
from pathlib import Path
from typing import BinaryIO, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from al_ray.database.query import Query
from al_ray.database.reader import Records
from al_ray.errors import Problem, UnreadableError, UserError
from al_ray.machines.whole import whole_file
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.dialogues import dialogues, preference
from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.row import head, json_text, rollout_row
from al_ray.rollouts.search import Search, every, matching
from al_ray.rollouts.trajectory import trajectory
from al_ray.types import JSON, Signals

_log = logging.getLogger(__name__)

Row = Mapping[str, JSON | bytes]

SPANS_READ: Final = 32
"""At once; the span of a call holds its whole conversation."""
ROWS_CONVERTED: Final = 32
ROW_GROUP_BYTES: Final = 16 * 2**20
"""Of Parquet: what a reader takes at once, and what is held in memory."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported of a run."""

    records: Records
    search: Search
    settings: TransitionsSection


def export(source: Export, what: str, format: str | None, output: Path) -> int:
    """Writes ``output`` and returns its number of rows; without a format, in the one that its suffix
    names. Raises ``UserError``."""
    if what not in _TABLES:
        known = (*_TABLES, "episodes")  # which a higher room writes, since they need Ray
        raise UserError(Problem("--what", what, f"one of {', '.join(known)}"))
    write = _WRITERS[_format(format, output)]
    schema, rows = _TABLES[what]
    with _opened(output) as file:
        return write(rows(source), schema, file)


def write_parquet(rows: Iterable[Row], schema: pa.Schema, output: Path) -> int:
    """Writes ``output``, whole or not at all, and returns its number of rows. Raises ``UserError``."""
    with _opened(output) as file:
        return _write_parquet(rows, schema, file)


def _format(told: str | None, output: Path) -> str:
    """What was told, or what the suffix names; the two never contradict each other."""
    if told not in (None, *_WRITERS):
        raise UserError(Problem("--format", told, f"one of {', '.join(_WRITERS)}"))
    suffix = output.suffix.lower().removeprefix(".")
    if suffix not in _WRITERS:
        if told is not None:
            return told
        endings = " or ".join(f".{name}" for name in _WRITERS)
        cure = f"its suffix names no format: end it with {endings}, or add --format"
        raise UserError(Problem("--output", str(output), cure))
    if told not in (None, suffix):
        cure = f"contradicts the suffix of {output}: leave --format out, or end the file with .{told}"
        raise UserError(Problem("--format", told, cure))
    return suffix


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The output, whose mistakes are the user's."""
    if not path.parent.is_dir():
        raise UserError(Problem("--output", str(path), f"there is no folder {path.parent}; make it first"))
    if path.is_dir():
        raise UserError(Problem("--output", str(path), "is a folder; name a file"))
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise UserError(Problem("--output", str(path), f"cannot be written: {error}")) from error


def _write_jsonl(rows: Iterable[Row], schema: pa.Schema, file: BinaryIO) -> int:
    count = 0
    for row in rows:
        file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        count += 1
    return count


def _write_parquet(rows: Iterable[Row], schema: pa.Schema, file: BinaryIO) -> int:
    count, pending = 0, list[pa.RecordBatch]()
    left = iter(rows)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while taken := list(islice(left, ROWS_CONVERTED)):
            pending.append(pa.RecordBatch.from_pylist(taken, schema))
            count += len(taken)
            if sum(batch.nbytes for batch in pending) >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(pending, schema))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_batches(pending, schema))
    return count


_WRITERS: Final[Mapping[str, Callable[[Iterable[Row], pa.Schema, BinaryIO], int]]] = {
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}

# --- rollouts ------------------------------------------------------------------------------------

_ATTEMPT: Final = pa.struct(
    {
        "number": pa.int64(),
        "status": pa.string(),
        "worker": pa.string(),
        "started_at": pa.float64(),
        "ended_at": pa.float64(),
        "error": pa.string(),
        "output": pa.string(),
    }
)
_ROLLOUT: Final = {
    "rollout_id": pa.string(),
    "batch": pa.string(),
    "group": pa.string(),
    "mode": pa.string(),
    "status": pa.string(),
    "task_id": pa.string(),
}


def _rollouts(source: Export) -> Iterator[Row]:
    for rollout in matching(source.records, source.search):
        yield rollout_row(rollout, source.settings.reward)


# --- spans ---------------------------------------------------------------------------------------

_SPAN: Final = {
    "rollout_id": pa.string(),
    "attempt": pa.int64(),
    "sequence": pa.int64(),
    "id": pa.string(),
    "kind": pa.string(),
    "name": pa.string(),
    "start": pa.float64(),
    "end": pa.float64(),
}


def _spans(source: Export) -> Iterator[Row]:
    """Of every attempt."""
    query = Query(source.search.conditions(), limit=SPANS_READ)
    for span in every(source.records.find_spans, query):
        yield {name: getattr(span, name) for name in _SPAN} | {"attributes": json_text(span.attributes)}


# --- transitions ---------------------------------------------------------------------------------

_TRANSITION: Final = {
    "id": pa.string(),
    "agent": pa.string(),
    "trained": pa.bool_(),
    "prompt_ids": pa.list_(pa.int64()),
    "response_ids": pa.list_(pa.int64()),
    "logprobs": pa.list_(pa.float64()),
    "policy_version": pa.int64(),
    "reward": pa.float64(),
    "finish_reason": pa.string(),
}


def _transitions(source: Export) -> Iterator[Row]:
    """Of each rollout's last attempt; ``return`` is null where nothing was rewarded. A judge's calls are
    nobody's to learn from."""
    for rollout in matching(source.records, source.search, with_calls=True):
        if rollout.request.mode == "judge":
            continue
        try:
            episode = trajectory(rollout, source.settings)
        except UnreadableError as error:
            _log.warning("left out: %s", error)
            continue
        returned = episode.reward if source.settings.reward in episode.rewards else None
        for transition in episode.transitions:
            yield {
                **head(rollout),
                **{name: getattr(transition, name) for name in _TRANSITION},
                "signals": asdict(transition.signals),
                "return": returned,
            }


# --- conversations and preferences ---------------------------------------------------------------

_FUNCTION: Final = pa.struct({"name": pa.string(), "arguments": pa.string()})
_TOOL_CALL: Final = pa.struct({"id": pa.string(), "type": pa.string(), "function": _FUNCTION})
_MESSAGES: Final = pa.list_(
    pa.struct(
        {
            "role": pa.string(),
            "content": pa.string(),
            "tool_calls": pa.list_(_TOOL_CALL),
            "tool_call_id": pa.string(),
            "name": pa.string(),
            "reasoning_content": pa.string(),
        }
    )
)
"""What a message has not is left out, and null in Parquet: chat templates ask whether it is there."""


def _conversations(source: Export) -> Iterator[Row]:
    """Of each rollout's last attempt."""
    for rollout in matching(source.records, source.search, with_calls=True):
        given = rewards(rollout)
        for dialogue in dialogues(rollout):
            yield {
                **head(rollout),
                "agent": dialogue.agent,
                "messages": dialogue.messages,
                "tools": json_text(dialogue.tools),
                "reward": given.get(source.settings.reward),
            }


def _preferences(source: Export) -> Iterator[Row]:
    """One of each group in which a rollout is better than another; those of one were asked for together."""
    rollouts = matching(source.records, source.search, with_calls=True)
    for (batch, group), members in groupby(rollouts, lambda each: (each.request.batch, each.request.group)):
        found = preference([*members], source.settings.reward)
        if found is None:
            continue
        scores = [rewards(each)[source.settings.reward] for each in (found.better, found.worse)]
        yield {
            "batch": batch,
            "group": group,
            "task_id": found.better.request.task.id,
            "prompt": found.prompt,
            "chosen": found.chosen,
            "rejected": found.rejected,
            "score_chosen": scores[0],
            "score_rejected": scores[1],
            "chosen_rollout_id": found.better.id,
            "rejected_rollout_id": found.worse.id,
        }


_TABLES: Final[Mapping[str, tuple[pa.Schema, Callable[[Export], Iterator[Row]]]]] = {
    "rollouts": (
        pa.schema(
            {
                **_ROLLOUT,
                "task_split": pa.string(),
                "task_data": pa.string(),
                "reward": pa.float64(),
                "rewards": pa.string(),
                "attempts": pa.list_(_ATTEMPT),
            }
        ),
        _rollouts,
    ),
    "spans": (pa.schema({**_SPAN, "attributes": pa.string()}), _spans),
    "transitions": (
        pa.schema(
            {
                **_ROLLOUT,
                **_TRANSITION,
                "signals": pa.struct({field.name: pa.int64() for field in fields(Signals)}),
                "return": pa.float64(),
            }
        ),
        _transitions,
    ),
    "conversations": (
        pa.schema(
            {
                **_ROLLOUT,
                "agent": pa.string(),
                "messages": _MESSAGES,
                "tools": pa.string(),
                "reward": pa.float64(),
            }
        ),
        _conversations,
    ),
    "preferences": (
        pa.schema(
            {
                **dict.fromkeys(("batch", "group", "task_id"), pa.string()),
                **dict.fromkeys(("prompt", "chosen", "rejected"), _MESSAGES),
                **dict.fromkeys(("score_chosen", "score_rejected"), pa.float64()),
                **dict.fromkeys(("chosen_rollout_id", "rejected_rollout_id"), pa.string()),
            }
        ),
        _preferences,
    ),
}
