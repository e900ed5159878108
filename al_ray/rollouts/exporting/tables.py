"""The tables that can be exported of a run's records: a schema each, and its rows, made as they are read.

JSON of no fixed shape is text, which is never null: a reader that guesses a schema from the first lines
guesses right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

import pyarrow as pa

from al_ray.database.query import Condition, Query
from al_ray.database.reader import Records
from al_ray.errors import UnreadableError
from al_ray.recipe import TransitionsSection
from al_ray.rollouts.exporting.dialogues import dialogues, preference
from al_ray.rollouts.exporting.row import head, json_text, rollout_row
from al_ray.rollouts.reading.search import READ, Search, every, matching
from al_ray.rollouts.rewards import rewards
from al_ray.rollouts.trajectory import trajectory
from al_ray.types import JSON, Signals, SpanKind

_log = logging.getLogger(__name__)

Row = Mapping[str, JSON | bytes]

SPANS_READ: Final = 32
"""At once; the span of a call holds its whole conversation."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported of a run."""

    records: Records
    search: Search
    settings: TransitionsSection


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
    for rollout in matching(source.records, source.search):
        query = Query([Condition("rollout_id", "=", rollout.id)], limit=SPANS_READ)
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
    "policy": pa.string(),
    "policy_version": pa.int64(),
    "reward": pa.float64(),
    "call_reward": pa.float64(),
    "finish_reason": pa.string(),
}


def _transitions(source: Export) -> Iterator[Row]:
    """Of each rollout's last attempt; ``return`` is null where nothing was rewarded. With ``n > 1``,
    ``call_reward`` is what a call earned as a whole, beside the ``reward`` of each of its choices: the same
    in all of them, earned once. A judge's calls are nobody's to learn from."""
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
    """Of each rollout's last attempt; without those of judges, which are nobody's to learn from."""
    for rollout in matching(source.records, source.search, with_calls=True):
        if rollout.request.mode == "judge":
            continue
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
    """One of each group in which a rollout is better than another. A run that goes on asks anew for what had
    not ended, so that a group's rollouts may lie far apart: each group is read by its name."""
    search, find = source.search, source.records.find_rollouts
    asked = every(find, Query(search.conditions(), limit=READ))
    for batch, group in dict.fromkeys((each.request.batch, each.request.group) for each in asked):
        of_group = [Condition("batch", "=", batch), Condition("group", "=", group)]
        members = find(Query([*search.conditions(), *of_group]), tuple(SpanKind)).items
        found = preference([each for each in members if search.fits(each)], source.settings.reward)
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


TABLES: Final[Mapping[str, tuple[pa.Schema, Callable[[Export], Iterator[Row]]]]] = {
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
