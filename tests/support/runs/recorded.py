"""A store with rollouts of every kind in it, as a run leaves it behind or is about to."""

from __future__ import annotations

from collections.abc import Mapping

from al_ray.database.writer import Ask, Database
from al_ray.traces import semconv
from al_ray.types import JSON, Attempt, AttemptStatus, Mode, RolloutRequest, Span, SpanKind, Task


def record(database: Database, begin: int, end: int) -> None:
    """Rollouts ``begin`` to ``end``, ended after as many seconds, and one more that waits. Every third
    failed; the others have a tenth of their number as reward, of which another dimension has the double.
    The agent of the even ones is called ``even``; the odd ones are evaluation."""
    with database.begin() as connection:
        for number in range(begin, end):
            database.enqueue(connection, [_request(number)])
            ((claim,),) = database.claim(connection, [Ask("w", f"claim {number}", 1)], 100.0, 30.0, 130.0)
            attempt, name = claim.attempt, claim.request.id
            database.append(connection, [[_call(name, number)]])
            if number % 3 == 2:
                failed = _ended(attempt, AttemptStatus.FAILED, number, f"ValueError: {number}")
                database.finish(connection, [(failed, ())])
            else:
                attributes: Mapping[str, JSON] = {
                    semconv.REWARD: number / 10,
                    semconv.REWARD_DIMENSIONS: {"reward": number / 10, "double": number / 5},
                }
                reward = Span(f"{name}/s", name, 1, SpanKind.REWARD, "reward", 1.0, 1.0, attributes)
                database.finish(connection, [(_ended(attempt, AttemptStatus.SUCCEEDED, number), [reward])])
        database.enqueue(connection, [_request(end)])


def _request(number: int) -> RolloutRequest:
    mode, batch = ("eval", "eval/start") if number % 2 else ("train", "step-000000")
    task = Task(f"t{number}", {"question": f"{number} + {number}?"})
    return RolloutRequest(f"r{number}", batch, f"g{number}", task, mode)


def _call(rollout: str, number: int) -> Span:
    attributes = {
        semconv.AGENT_NAME: "odd" if number % 2 else "even",
        semconv.INPUT_MESSAGES: [{"role": "user", "content": "?"}],
        semconv.OUTPUT_MESSAGES: [{"role": "assistant", "content": str(number)}],
        semconv.FINISH_REASONS: ["length" if number == 0 else "stop"],
        semconv.PROMPT_IDS: [1, 2, number],
        semconv.CHOICES: [{"ids": [7, 8], "logprobs": [-0.25, -0.5], "versions": [[3, 0, 2]]}],
    }
    return Span(f"{rollout}/c", rollout, 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes)


def _ended(attempt: Attempt, status: AttemptStatus, number: int, error: str | None = None) -> Attempt:
    output = {"answer": number} if error is None else None
    return Attempt(
        attempt.rollout_id,
        attempt.number,
        attempt.key,
        status,
        "w",
        100.0,
        100.0 + number,
        error,
        output=output,
    )


def record_samples(
    database: Database,
    batch: str,
    samples: Mapping[str, list[tuple[float | None, list[str]]]],
    mode: Mode = "eval",
) -> None:
    """Of each task, what its samples were rewarded, None where one failed, and what the model said in their
    calls, each of which goes on from the one before."""
    with database.begin() as connection:
        for place, (name, given) in enumerate(samples.items()):
            for member, (reward, said) in enumerate(given):
                task = Task(name, {"question": f"{name}?"}, "validation")
                group = f"{batch}/{place}"
                request = RolloutRequest(f"{group}/{member}", batch, group, task, mode)
                database.enqueue(connection, [request])
                ask = Ask("w", f"claim {request.id}", 1)
                ((claim,),) = database.claim(connection, [ask], 100.0, 30.0, 130.0)
                database.append(connection, [_conversation(request.id, f"{name}?", said)])
                if reward is None:
                    ended = _ended(claim.attempt, AttemptStatus.TIMED_OUT, 1, "it had not ended")
                    database.finish(connection, [(ended, ())])
                    continue
                attributes = {semconv.REWARD: reward, semconv.REWARD_DIMENSIONS: {"reward": reward}}
                span = Span(f"{request.id}/s", request.id, 1, SpanKind.REWARD, "reward", 1.0, 1.0, attributes)
                database.finish(connection, [(_ended(claim.attempt, AttemptStatus.SUCCEEDED, 1), [span])])


def _conversation(rollout: str, question: str, said: list[str]) -> list[Span]:
    messages: list[JSON] = [{"role": "user", "content": question}]
    spans = []
    for number, text in enumerate(said):
        answer = {"role": "assistant", "content": text}
        attributes = {
            semconv.INPUT_MESSAGES: [*messages],
            semconv.OUTPUT_MESSAGES: [answer],
            semconv.FINISH_REASONS: ["stop"],
            semconv.PROMPT_IDS: [1, 2, number],
            semconv.CHOICES: [{"ids": [7, 8], "logprobs": [-0.25, -0.5], "versions": [[3, 0, 2]]}],
        }
        spans.append(
            Span(f"{rollout}/c{number}", rollout, 1, SpanKind.CALL, "chat", 0.0, 1.0, attributes, number)
        )
        messages += [answer, {"role": "user", "content": "go on"}]
    return spans
