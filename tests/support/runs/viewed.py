"""A run as it is left behind, with all that a viewer shows: three steps of reinforcement and two evaluations
of an agent that reasons, calls a tool and hands on to a checker; made-up numbers, by the real writers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from al_ray.database.backends import close_log
from al_ray.database.writer import Ask, Database
from al_ray.machines.plan import Bundle, Plan
from al_ray.recipe import Recipe
from al_ray.reports.jsonl_sink import JsonlSink
from al_ray.run.folder import RunFolder
from al_ray.traces import call_span, semconv
from al_ray.traces.reward_span import reward_attributes
from al_ray.types import (
    JSON,
    Attempt,
    AttemptStatus,
    ChatReply,
    Choice,
    Claim,
    Lineage,
    LineageOutcome,
    Mode,
    RolloutRequest,
    Span,
    SpanKind,
    Task,
    VersionSpan,
    Worker,
    WorkerStatus,
)
from tests.support.runs import toy

HOSTILE = '</div><script>document.title = "owned"</script><img src="x" onerror="document.title=1">'
"""What a model may write."""
STEPS = range(2, 5)
SIZE = 4
"""Of a group."""


BEGUN = 1_800_000_000.0
"""When a run began, in seconds since the epoch."""


def write_run(model: Path, output: Path, name: str = "first", *, server: str | None = None) -> RunFolder:
    """The run ``output/toy/NAME`` of a model whose tokenizer is in ``model``; its store is on the ``server``,
    if one is named."""
    recipe = Recipe.model_validate({**toy.recipe(model, output), "store": {"url": server}})
    folder = RunFolder.create(recipe, name)
    folder.note_placement(Plan("cpu", "colocated", [Bundle(("engine 0", "learner 0"), 2, 0, 0)], 1, 1))
    _log(folder)
    database = Database(folder.store_url)
    writer = _Writer(database, Tokenizer.from_file(str(model / "tokenizer.json")), BEGUN)
    writer.batch("eval/step-000000", 0, "eval")
    for step in STEPS:
        writer.batch(f"step-{step:06d}", step, "train")
    writer.batch("eval/step-000005", 5, "eval")
    with database.begin() as connection:
        database.see(connection, [Worker("runner 0", "runner", WorkerStatus.IDLE, BEGUN + 100)])
    database.close()
    close_log(folder.store_url)
    return folder


def _log(folder: RunFolder) -> None:
    sink = JsonlSink(folder.path, None)
    sink.log(
        0,
        {
            "eval/accuracy": 0.25,
            "eval/stderr": 0.1,
            "eval/tasks": 2,
            "eval/failed": 0,
            "time/evaluation": 3.0,
        },
    )
    for step in range(1, 6):
        phases = {"weights": 0.5, "rollouts": 4.0 + step, "update": 3.0, "step": 7.5 + step}
        sink.log(
            step,
            {
                "stage": float(step > 2),
                "reward/mean": 0.2 + 0.1 * step,
                "reward/std": 0.2,
                "optim/loss": 1.0 / step,
                "policy/entropy": 2.0 - 0.3 * step,
                "health/equal_groups": 0.9 if step == 5 else 0.2,
                "signals/truncated": 0.1,
                **{f"time/{phase}": seconds for phase, seconds in phases.items()},
            },
        )
    sink.log(
        5,
        {
            "eval/accuracy": 0.75,
            "eval/stderr": 0.1,
            "eval/tasks": 2,
            "eval/failed": 1,
            "time/evaluation": 3.0,
        },
    )
    sink.close(True)


class _Writer:
    """Plays rollouts into a store."""

    def __init__(self, database: Database, tokenizer: Tokenizer, begun: float) -> None:
        self._database = database
        self._tokenizer = tokenizer
        self._now = begun

    def batch(self, batch: str, step: int, mode: Mode) -> None:
        """Two tasks of it, ``SIZE`` rollouts each, or one each where it is an evaluation."""
        members = SIZE if mode == "train" else 1
        split = "train" if mode == "train" else "validation"
        requests = [
            RolloutRequest(f"{batch}/{task}/{member}", batch, f"{batch}/{task}", _task(split, task), mode)
            for task in range(2)
            for member in range(members)
        ]
        with self._database.begin() as connection:
            self._database.enqueue(connection, requests)
            for number, request in enumerate(requests):
                ask = Ask("runner 0", request.id, 1)
                ((claim,),) = self._database.claim(connection, [ask], self._now, 30.0, self._now + 30)
                spans = [*self._spans(claim, step, number % members)]
                failed = mode == "train" and number == 3
                kept = spans[:2] if failed else spans
                self._database.append(connection, [kept])
                self._database.finish(connection, [(self._end(claim.attempt, failed, step), ())])
                self._now += 5

    def _end(self, attempt: Attempt, failed: bool, step: int) -> Attempt:
        status = AttemptStatus.FAILED if failed else AttemptStatus.SUCCEEDED
        error = f"ValueError: no number in {HOSTILE}" if failed else None
        return replace(
            attempt,
            status=status,
            ended_at=self._now + 3 + step,
            error=error,
            error_class="ValueError" if failed else None,
            output=None if failed else {"answer": 5},
        )

    def _spans(self, claim: Claim, step: int, member: int) -> Iterator[Span]:
        """An agent's two calls with a tool between, a checker's call, a reward, and what was printed."""
        name, now, version = claim.request.id, self._now, max(0, step - 2)
        question = str(claim.request.task.data["question"])
        said: list[JSON] = [{"role": "system", "content": "Compute."}, {"role": "user", "content": question}]
        asked = {"name": "add", "arguments": f'{{"a": 2, "b": {3 if step > 2 else member}}}'}
        tool = {"id": "t1", "type": "function", "function": asked}
        first = {
            "role": "assistant",
            "reasoning": "I add.\nThen I tell.",
            "content": None,
            "tool_calls": [tool],
        }
        prompt = self._ids(f"system Compute. user {question} assistant")
        shown, response = prompt, self._ids(f"I add.\nadd(2, {member}) é")
        inside = {semconv.PARENT_ID: f"{name}/solver"}
        yield self._call(name, 0, said, first, shown, response, version, LineageOutcome.NEW, inside)
        yield Span(f"{name}/tool", name, 1, SpanKind.EVENT, "execute_tool add", now + 1, now + 1.4, {
            semconv.OPERATION: "execute_tool", semconv.TOOL_NAME: "add", semconv.TOOL_CALL_ID: "t1",
            semconv.TOOL_CALL_ARGUMENTS: asked["arguments"], semconv.TOOL_CALL_RESULT: "5", **inside,
        })  # fmt: skip
        said = [*said, first, {"role": "tool", "tool_call_id": "t1", "content": "5"}]
        answer = {
            "role": "assistant",
            "content": f"The answer is {5 if step > 2 or member else 4}. {HOSTILE}",
        }
        shown = [*shown, *response, *self._ids("tool 5 assistant")]
        again = self._ids("The answer is 5.")
        yield self._call(name, 1, said, answer, shown, again, version, LineageOutcome.CONTINUED, inside)
        yield Span(f"{name}/solver", name, 1, SpanKind.EVENT, "invoke_agent solver", now, now + 2.5, {
            semconv.OPERATION: "invoke_agent", semconv.AGENT_NAME: "solver",
        })  # fmt: skip
        check: list[JSON] = [{"role": "user", "content": "Is 5 right?"}]
        verdict = {"role": "assistant", "content": "Yes."}
        other = self._ids("user Is 5 right? assistant"), self._ids("Yes.")
        yield self._call(
            name, 2, check, verdict, *other, version, LineageOutcome.NEW, {semconv.AGENT_NAME: "checker"}
        )
        printed = {semconv.STDOUT: "checked\n"}
        yield Span(f"{name}/out", name, 1, SpanKind.EVENT, semconv.AGENT_OUTPUT, now + 3, now + 3, printed)
        given = reward_attributes({"reward": member / 4 + 0.05 * step, "style": 0.5})
        yield Span(f"{name}/reward", name, 1, SpanKind.REWARD, "score", now + 3, now + 3, given)

    def _call(
        self,
        rollout: str,
        number: int,
        said: Sequence[JSON],
        answer: Mapping[str, JSON],
        prompt: Sequence[int],
        response: Sequence[int],
        version: int,
        outcome: LineageOutcome,
        place: Mapping[str, JSON],
    ) -> Span:
        half = len(response) // 2
        versions = [VersionSpan(version, 0, half), VersionSpan(version + 1, half, len(response))]
        logprobs = [-6.0 * math.sin(place_of) ** 8 for place_of in range(len(response))]
        choice = Choice(
            0, answer, "tool_calls" if "tool_calls" in answer else "stop", response, logprobs, versions
        )
        parent = f"{rollout}/c{number - 1}/0" if outcome is LineageOutcome.CONTINUED else None
        reply = ChatReply(prompt, [choice], Lineage(outcome, parent, len(prompt) if parent else 0))
        attributes = {
            semconv.REQUEST_MODEL: "policy",
            semconv.INPUT_MESSAGES: list(said),
            **call_span.reply_attributes(reply),
            **place,
        }
        start = self._now + number
        return Span(f"{rollout}/c{number}", rollout, 1, SpanKind.CALL, "chat", start, start + 0.8, attributes)

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return found


def _task(split: str, number: int) -> Task:
    return Task(f"{split}-{number}", {"question": f"What is 2 + {number + 2}? {HOSTILE}"}, split)
