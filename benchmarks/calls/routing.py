"""Which engine a call should go to: ways to choose, on simulated engines that keep prefixes in their caches.

    python -m benchmarks.calls.routing [--engines 4] [--seeds 5]

Discrete events: an engine's step computes what is new of waiting prompts, at most 2,048 tokens, and one token
of each running call; its cache holds so many tokens, evicts the prefixes that were used longest ago, and lets
calls wait that do not fit. A prompt is what all share, then its task's, then its rollout's history. An agent
asks, uses a tool for a while, and asks again. All ways have the same tasks and times. Shown are the time that
all take and the tokens computed of prompts, as ratios to ``rollout``, and the 99th percentile of a call's
time, in simulated seconds. A gateway does as ``group, then own``; it must keep a rollout at
its engine, which knows the tokens of the calls before.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

STEP_SECONDS = 0.004
PREFILL_SECONDS = 1 / 20_000
"""A prompt's token; about a model of 7B on one GPU, as the others are."""
DECODE_SECONDS = 1 / 20_000
"""A running call's token, beside the step's own time."""
STEP_TOKENS = 2048
MAX_RUNNING = 128


@dataclass(frozen=True)
class Workload:
    name: str
    groups: int
    members: int
    calls: int
    shared: int
    """Tokens of the prompt's part that all calls have,"""
    task: int
    """... of a task's own,"""
    observed: int
    """... and of what a tool adds."""
    answer: float
    """Tokens of an answer in the mean; log-normal: one in a hundred has six times as many."""
    tool_seconds: float
    concurrency: int
    """Rollouts under way at once, for each engine."""


WORKLOADS = (
    Workload("calculator", 128, 8, 2, 300, 80, 20, 40, 0.1, 128),
    Workload("text to SQL", 64, 8, 3, 200, 3000, 100, 120, 0.2, 64),
    Workload("search", 64, 8, 6, 800, 50, 1500, 150, 1.0, 64),
    Workload("coding", 32, 8, 20, 2000, 1000, 800, 300, 3.0, 32),
)


@dataclass(eq=False)
class Rollout:
    group: int
    answers: Sequence[int]
    tools: Sequence[float]
    history: int = 0
    """Tokens of the conversation so far, after its task."""
    done: int = 0
    """Calls."""


@dataclass(eq=False)
class Asked:
    """A call under way."""

    rollout: Rollout
    prompt: Sequence[tuple[Hashable, int]]
    """Each part's name and tokens."""
    left: int
    """Tokens of the answer to come."""
    began: float
    new: int = 0
    """Tokens of the prompt to be computed."""
    held: int = 0
    """Tokens of the cache that are its own until it has ended."""


class Engine:
    """Its queue, what runs, and the prefixes that it keeps."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting: deque[Asked] = deque()
        self.running: list[Asked] = []
        self.kept: OrderedDict[Hashable, int] = OrderedDict()
        self.computed = 0
        self.busy = False

    @property
    def load(self) -> int:
        """Calls, as a gateway can count them."""
        return len(self.waiting) + len(self.running)

    def missing(self, prompt: Sequence[tuple[Hashable, int]]) -> int:
        """Tokens of a prompt that are not kept; none is kept after one that is not."""
        missing = 0
        for name, tokens in prompt:
            missing += tokens - (0 if missing else min(tokens, self.kept.get(name, 0)))
        return missing

    def step(self) -> tuple[float, list[Asked]]:
        """Its seconds, and the calls that end with it."""
        self._admit()
        budget, decoding = STEP_TOKENS, 0
        for asked in self.running:
            if asked.new:
                part = min(asked.new, budget)
                asked.new -= part
                budget -= part
            else:
                decoding += 1
                asked.left -= 1
        self.computed += STEP_TOKENS - budget
        ended = [asked for asked in self.running if asked.left <= 0]
        self.running = [asked for asked in self.running if asked.left > 0]
        for asked in ended:
            *_, (name, _) = asked.prompt
            self._keep(name, asked.rollout.history + asked.rollout.answers[asked.rollout.done])
        seconds = (STEP_TOKENS - budget) * PREFILL_SECONDS + decoding * DECODE_SECONDS
        return STEP_SECONDS + seconds, ended

    def _admit(self) -> None:
        held = sum(each.held for each in self.running)
        while self.waiting and len(self.running) < MAX_RUNNING:
            asked = self.waiting[0]
            asked.new = self.missing(asked.prompt)
            asked.held = asked.new + asked.left
            if self.running and held + asked.held > self.capacity:
                return
            self.waiting.popleft()
            held += asked.held
            for name, tokens in asked.prompt:
                self._keep(name, tokens)
            self.running.append(asked)

    def _keep(self, name: Hashable, tokens: int) -> None:
        self.kept[name] = max(tokens, self.kept.pop(name, 0))
        room = self.capacity - sum(each.left for each in self.running)
        while sum(self.kept.values()) > room and len(self.kept) > 1:
            self.kept.popitem(last=False)


Choose = Callable[[Sequence[Engine], Asked], Engine]
"""An engine for a call."""


def least(engines: Sequence[Engine], asked: Asked) -> Engine:
    """With the fewest calls."""
    return min(engines, key=lambda engine: engine.load)


def sticky(home_of: Callable[[Asked], Hashable]) -> Choose:
    """The engine of the calls before it, the first time the one with the fewest."""
    homes: dict[Hashable, Engine] = {}
    return lambda engines, asked: homes.setdefault(home_of(asked), least(engines, asked))


def by_group() -> Choose:
    """The engine of the rollout's calls before it; the first time that of its group, unless that has more
    than twice the calls of the one with the fewest, and some."""
    of_group, of_rollout = sticky(lambda asked: asked.rollout.group), dict[Rollout, Engine]()

    def choose(engines: Sequence[Engine], asked: Asked) -> Engine:
        if asked.rollout not in of_rollout:
            home, other = of_group(engines, asked), least(engines, asked)
            of_rollout[asked.rollout] = home if home.load <= 2 * other.load + 8 else other
        return of_rollout[asked.rollout]

    return choose


def knowing(engines: Sequence[Engine], asked: Asked) -> Engine:
    """Where what is to be computed before it is the least, its own prompt included: caches are known, as no
    gateway knows them."""

    def seconds(engine: Engine) -> float:
        before = sum(each.new for each in engine.running) + sum(
            engine.missing(each.prompt) for each in engine.waiting
        )
        return (before + engine.missing(asked.prompt)) * PREFILL_SECONDS + engine.load * DECODE_SECONDS

    return min(engines, key=seconds)


def ways(seed: int) -> dict[str, Choose]:
    chance = random.Random(seed)
    return {
        "rollout": sticky(lambda asked: asked.rollout),
        "random": lambda engines, asked: chance.choice(engines),
        "least loaded": least,
        "group": sticky(lambda asked: asked.rollout.group),
        "group, then own": by_group(),
        "knowing": knowing,
    }


@dataclass(frozen=True)
class Outcome:
    seconds: float
    computed: int
    p99: float


def simulate(load: Workload, count_of_engines: int, capacity: int, choose: Choose, seed: int) -> Outcome:
    engines = [Engine(capacity) for _ in range(count_of_engines)]
    rollouts = iter(rollouts_of(load, seed))
    ties, times = count(), list[float]()
    events: list[tuple[float, int, Engine | Rollout, list[Asked]]] = []

    def ask(now: float, rollout: Rollout) -> None:
        parts = ("shared", load.shared), (("task", rollout.group), load.task), (rollout, rollout.history)
        asked = Asked(rollout, parts, rollout.answers[rollout.done], now)
        engine = choose(engines, asked)
        engine.waiting.append(asked)
        if not engine.busy:
            step(now, engine)

    def step(now: float, engine: Engine) -> None:
        engine.busy = engine.load > 0
        if engine.busy:
            seconds, ended = engine.step()
            heapq.heappush(events, (now + seconds, next(ties), engine, ended))

    for rollout in list(islice(rollouts, load.concurrency * count_of_engines)):
        ask(0.0, rollout)
    now = 0.0
    while events:
        now, _, who, ended = heapq.heappop(events)
        if isinstance(who, Rollout):
            ask(now, who)
            continue
        for asked in ended:
            rollout = asked.rollout
            times.append(now - asked.began)
            rollout.history += rollout.answers[rollout.done] + load.observed
            rollout.done += 1
            if rollout.done < load.calls:
                heapq.heappush(events, (now + rollout.tools[rollout.done], next(ties), rollout, []))
            elif (following := next(rollouts, None)) is not None:
                ask(now, following)
        step(now, who)
    assert len(times) == load.groups * load.members * load.calls
    return Outcome(now, sum(engine.computed for engine in engines), sorted(times)[int(0.99 * len(times))])


def rollouts_of(load: Workload, seed: int) -> Iterator[Rollout]:
    chance = random.Random(seed)
    for group in range(load.groups):
        for _ in range(load.members):
            answers = [max(1, round(load.answer * chance.lognormvariate(-0.5, 1))) for _ in range(load.calls)]
            yield Rollout(group, answers, [chance.expovariate(1 / load.tool_seconds) for _ in answers])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--cache", type=int, default=[60_000, 400_000], nargs="+", help="tokens, of an engine"
    )
    arguments = parser.parse_args()
    for capacity in arguments.cache:
        for load in WORKLOADS:
            print(f"\n{load.name}, {arguments.engines} engines that keep {capacity:,} tokens")
            print(f"{'':18}{'time':>8}{'worst':>8}{'computed':>10}{'p99 s':>8}")
            base: list[Outcome] = []
            for name in ways(0):
                found = [
                    simulate(load, arguments.engines, capacity, ways(seed)[name], seed)
                    for seed in range(arguments.seeds)
                ]
                base = base or found
                times = [each.seconds / one.seconds for each, one in zip(found, base, strict=True)]
                computed = [each.computed / one.computed for each, one in zip(found, base, strict=True)]
                p99 = statistics.median(each.p99 for each in found)
                print(
                    f"{name:18}{statistics.median(times):8.2f}{max(times):8.2f}"
                    f"{statistics.median(computed):10.2f}{p99:8.2f}"
                )


if __name__ == "__main__":
    main()
