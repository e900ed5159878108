"""Known decision processes: how far each algorithm and each credit gets with the same rollouts, and how far a
credit's advantages are from the true ones.

    python -m benchmarks.learning.decision_process --seeds 5 --steps 40

An episode is six calls of one token each. A prompt shows the task, the turn, and whether the call that holds
the key was right; an answer is right if it is one of the eight tokens, of 32, that are the task's.

    one_call    the episode is worth 1 if its second call was right; the others are noise
    key_door    ... if its second call and its last were
    on_the_way  every right call is worth a sixth, at once

The model is a random Llama of two layers, and goes through the real path: credit, advantages, rows, loss,
learner. Since a call has few states and the model is asked for all of them, values are exact: so is the
expected return that is reported, and the advantage ``Q - V``. With it, the advantages that a credit gives to
the calls of a step are correlated, and with measured credit, as ``al-ray measure`` finds it by playing on
from each state of a recorded rollout; what is told is the mean over the steps. The credit ``true`` is ``Q -
V``, what a perfect critic would give; ``measured`` is measured credit, the rollouts that it takes not
counted. With ``S 2`` in an arm's name each step's rollouts are those of the policy of two steps ago, the
oldest that ``staleness`` allows.

One line of JSON for each seed, then the means, with standard errors over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.algorithms.credit.layer import Layer
from al_ray.algorithms.measured import Measured
from al_ray.algorithms.named import Algorithm, algorithm
from al_ray.algorithms.rejection import best
from al_ray.recipe import ReinforcementStage, RejectionSamplingStage, SamplingSection
from al_ray.recipe.stages import CREDITS, NAMED
from al_ray.types import Trajectory, Transition

TOKENS: Final = 32
TASKS: Final = 4
CALLS: Final = 6
KEY: Final = 1
"""The call whose rightness later prompts show."""
FIRST_TURN, FIRST_KEY, VOCABULARY = TASKS, TASKS + CALLS, TOKENS + 16


@dataclass(frozen=True)
class Process:
    """What episodes are worth."""

    name: str
    earned: Callable[[int, bool, bool], float]
    """By a call: its turn, whether it was right, and whether the call with the key was."""


PROCESSES: Final = (
    Process("one_call", lambda turn, right, key: float(turn == CALLS - 1 and key)),
    Process("key_door", lambda turn, right, key: float(turn == CALLS - 1 and key and right)),
    Process("on_the_way", lambda turn, right, key: right / CALLS),
)


@dataclass(frozen=True)
class Policy:
    """What the model answers in each state, ``[task, turn, key]``, as a table."""

    chances: np.ndarray
    """float64 ``[TASKS, CALLS, 2, VOCABULARY]``."""
    process: Process

    @cached_property
    def right(self) -> np.ndarray:
        """How likely a call is right, ``[TASKS, CALLS, 2]``."""
        return np.stack([self.chances[task][..., is_right(task)].sum(-1) for task in range(TASKS)])

    @cached_property
    def values(self) -> np.ndarray:
        """What is still to be earned before each call, ``[TASKS, CALLS + 1, 2]``."""
        right = self.right
        found = np.zeros((TASKS, CALLS + 1, 2))
        for turn in range(CALLS - 1, -1, -1):
            for key in (0, 1):
                chance = right[:, turn, key]
                found[:, turn, key] = chance * self.after(found, turn, True, key)
                found[:, turn, key] += (1 - chance) * self.after(found, turn, False, key)
        return found

    def after(self, values: np.ndarray, turn: int, right: bool, key: int) -> np.ndarray:
        """What a right or wrong call earns and leaves to be earned, ``[TASKS]``."""
        next_key = int(right) if turn == KEY else key
        earned = self.process.earned(turn, right, bool(next_key))
        found: np.ndarray = earned + values[:, turn + 1, next_key]
        return found

    @property
    def expected_return(self) -> float:
        return float(self.values[:, 0, 0].mean())


def is_right(task: int) -> np.ndarray:
    """The tokens that are right for a task, as a mask over the vocabulary."""
    tokens = np.arange(VOCABULARY)
    return np.asarray((tokens < TOKENS) & (tokens % TASKS == task))


def prompt(task: int, turn: int, key: int) -> tuple[int, ...]:
    """Token ids; the answers' are below ``TOKENS``, so that these are ``TOKENS`` and up."""
    return tuple(TOKENS + number for number in (task, FIRST_TURN + turn, FIRST_KEY + key))


def policy_of(learner: Learner, process: Process) -> Policy:
    states = [prompt(t, turn, key) for t in range(TASKS) for turn in range(CALLS) for key in (0, 1)]
    with torch.no_grad():
        logits = learner._held.model(input_ids=torch.tensor(states)).logits[:, -1].double()
    return Policy(logits.softmax(-1).numpy().reshape(TASKS, CALLS, 2, VOCABULARY), process)


def rollout(policy: Policy, task: int, name: str, draw: np.random.Generator) -> Trajectory:
    calls, key = [], 0
    for turn in range(CALLS):
        chances = policy.chances[task, turn, key]
        token = int(draw.choice(VOCABULARY, p=chances))
        right = bool(is_right(task)[token])
        seen = prompt(task, turn, key)
        key = int(right) if turn == KEY else key
        reward = policy.process.earned(turn, right, bool(key))
        calls.append(Transition(str(turn), "", seen, (token,), (float(np.log(chances[token])),), 0, reward))
    return Trajectory(name, str(task), str(task), calls, sum(call.reward for call in calls))


def key_before(call: Transition) -> int:
    """What its prompt shows."""
    return call.prompt_ids[-1] - TOKENS - FIRST_KEY


def true_advantages(policy: Policy, trajectory: Trajectory) -> list[float]:
    """``Q(s, a) - V(s)`` of each call."""
    values, task, found = policy.values, int(trajectory.task_id), []
    for turn, call in enumerate(trajectory.transitions):
        key = key_before(call)
        right = bool(is_right(task)[call.response_ids[0]])
        found.append(float(policy.after(values, turn, right, key)[task] - values[task, turn, key]))
    return found


def measured_advantages(
    policy: Policy, group: Sequence[Trajectory], samples: int, draw: np.random.Generator
) -> list[list[float]]:
    """Those of each call of a group's rollouts: the mean return of ``samples`` rollouts that play on from the
    state after it, less that from the state before it. The first state is one for all of them; after the last
    call there is the recorded return."""
    first, found = played_on(policy, int(group[0].task_id), 0, 0, samples, draw), []
    for trajectory in group:
        known, earned = [first], 0.0
        for turn, call in enumerate(trajectory.transitions[1:], 1):
            earned += trajectory.transitions[turn - 1].reward
            ahead = played_on(policy, int(trajectory.task_id), turn, key_before(call), samples, draw)
            known.append(earned + ahead)
        found.append(np.diff([*known, trajectory.reward]).tolist())
    return found


def played_on(
    policy: Policy, task: int, turn: int, key: int, samples: int, draw: np.random.Generator
) -> float:
    """The mean of what ``samples`` rollouts earn from a state on."""
    keys, earned = np.full(samples, key), 0.0
    for later in range(turn, CALLS):
        right = draw.random(samples) < policy.right[task, later, keys]
        keys = right.astype(int) if later == KEY else keys
        earned += sum(
            policy.process.earned(later, bool(r), bool(k)) for r, k in zip(right, keys, strict=True)
        )
    return earned / samples


def measured(learner: Learner, made: Algorithm, groups: Sequence[Sequence[Trajectory]]) -> Measured | None:
    """As a stage asks learners for it; the critic learns on the way."""
    if made.expected is None:
        return None
    seen = learner.observe(made.rows(groups), made.loss, None, features=True)
    found = Measured.of(seen.calls, values=learner.critic_values(seen.features))
    targets = made.critic_targets(groups, found)
    learner.fit_critic(seen.features, np.array([targets[call] for call in seen.calls]))
    return found


@dataclass(frozen=True)
class Result:
    returns: Sequence[float]
    """The expected return before each step and after the last."""
    with_true: float
    """The correlation of the advantages with the true ones, the mean over the steps; NaN of imitation."""
    with_measured: float
    """And with measured ones."""


@dataclass(frozen=True)
class Arm:
    stage: ReinforcementStage | RejectionSamplingStage
    credit: Literal["the stage's", "true", "measured"] = "the stage's"


@dataclass
class Correlations:
    """Of what credit gave with what is known, step by step."""

    found: list[float] = field(default_factory=list)

    def add(self, given: np.ndarray, known: np.ndarray) -> None:
        if given.std() > 0 and known.std() > 0:
            self.found.append(float(np.corrcoef(given, known)[0, 1]))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.found) if self.found else math.nan


def trained(model: Path, process: Process, arm: Arm, samples: int, seed: int) -> Result:
    stage = arm.stage
    learner = Learner(
        LearnerSpec(str(model), "float32", "cpu", 1, max_length=16, micro_batch_tokens=4096,
                    transport="shared_memory")
    )  # fmt: skip
    with_critic = isinstance(stage, ReinforcementStage) and stage.credit == "gae"
    critic = stage.critic if with_critic else None
    learner.start_stage(StageSpec(stage.optimizer, stage.steps, critic=critic))
    draw, apart = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    made = algorithm(stage, SamplingSection())
    versions = deque([policy_of(learner, process)], maxlen=stage.staleness + 1)
    returns, with_true, with_measured = [versions[0].expected_return], Correlations(), Correlations()
    for step in range(stage.steps):
        policy = versions[0]
        groups = [
            [rollout(policy, task, f"{step}/{task}/{i}", draw) for i in range(stage.group_size)]
            for task in range(TASKS)
        ]
        true = [[true_advantages(policy, each) for each in group] for group in groups]
        sampled = [measured_advantages(policy, group, samples, apart) for group in groups]
        if arm.credit != "the stage's":
            told = true if arm.credit == "true" else sampled
            by_group = {group[0].group: of_group for group, of_group in zip(groups, told, strict=True)}
            made = replace(made, credit=partial(_known, by_group))
        found = measured(learner, made, groups)
        if isinstance(stage, RejectionSamplingStage):
            kept = [best(group, stage.keep, stage.threshold) for group in groups]
            groups = [group for group in kept if group]
        else:
            given = np.ravel(made.advantages(groups, found))
            with_true.add(given, np.ravel(true))
            with_measured.add(given, np.ravel(sampled))
        parts = made.passes([row for row in made.rows(groups, found) if made.loss.trains(row)])
        learner.update(parts, made.loss)
        versions.append(policy_of(learner, process))
        returns.append(versions[-1].expected_return)
    return Result(returns, with_true.mean, with_measured.mean)


def _known(by_group: Mapping[str, Sequence[Sequence[float]]], group: Sequence[Trajectory]) -> list[Layer]:
    """Credit that gives what is known of the group."""
    return [Layer(by_group[group[0].group])]


def arms(steps: int, rate: float) -> Mapping[str, Arm]:
    """By name: every algorithm as published, every credit under GRPO, and what no credit knows."""
    common = {"steps": steps, "group_size": 8, "groups_per_step": TASKS, "optimizer": {"learning_rate": rate}}

    def stage(**chosen: Any) -> ReinforcementStage:
        return ReinforcementStage.model_validate({**common, **chosen})

    own = {name: Arm(stage(algorithm=name, refills=0)) for name in NAMED}
    grpo = partial(stage, algorithm="grpo")
    for credit in CREDITS:
        if credit != grpo().credit:
            own[f"grpo, {credit}"] = Arm(grpo(credit=credit))
    own["ppo, gae_lambda 0"] = Arm(stage(algorithm="ppo", gae_lambda=0.0))
    own["ppo, epochs 1"] = Arm(stage(algorithm="ppo", epochs=1))
    own["grpo, epochs 3"] = Arm(grpo(epochs=3))
    for name, staleness in product(("grpo", "gspo", "cispo"), (1, 2, 4)):
        own[f"{name}, S {staleness}"] = Arm(stage(algorithm=name, staleness=staleness))
        uncorrected = stage(algorithm=name, staleness=staleness, correction="none")
        own[f"{name}, S {staleness}, none"] = Arm(uncorrected)
    imitation = RejectionSamplingStage.model_validate({**common, "algorithm": "rejection_sampling"})
    own["rejection_sampling"] = Arm(imitation)
    own["measured"] = Arm(stage(algorithm="reinforce_pp"), "measured")
    own["true"] = Arm(stage(algorithm="reinforce_pp"), "true")
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning")
    parser.add_argument("--samples", type=int, default=16, help="rollouts of each state, of measured credit")
    parser.add_argument("--process", choices=[process.name for process in PROCESSES])
    parser.add_argument("--arm", help="only arms whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for process in PROCESSES:
        if asked.process in (None, process.name):
            report(process, asked)


def report(process: Process, asked: argparse.Namespace) -> None:
    chosen = {k: v for k, v in arms(asked.steps, asked.rate).items() if (asked.arm or "") in k}
    results: dict[str, list[Result]] = {name: [] for name in chosen}
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            LlamaForCausalLM(
                LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128,
                            num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=False)
            ).save_pretrained(folder)  # fmt: skip
            for name, arm in chosen.items():
                begun = time.perf_counter()
                result = trained(Path(folder), process, arm, asked.samples, seed)
                results[name].append(result)
                line = {"process": process.name, "arm": name, "seed": seed, "return": result.returns[-1]}
                print(json.dumps(line | {"seconds": round(time.perf_counter() - begun, 1)}), flush=True)
    rollouts = asked.steps * 8 * TASKS
    print(f"\n{process.name}, {rollouts} rollouts, {asked.seeds} seeds")
    titles = ("return at half", "return at the end", "true advantages", f"measured by {asked.samples}")
    print(f"{'':22}" + "".join(f"{title:>20}" for title in titles))
    for name, found in results.items():
        cells = [
            [result.returns[asked.steps // 2] for result in found],
            [result.returns[-1] for result in found],
            [result.with_true for result in found],
            [result.with_measured for result in found],
        ]
        print(f"{name:22}" + "".join(f"{_mean(values):>20}" for values in cells), flush=True)


def _mean(values: Sequence[float]) -> str:
    if math.isnan(statistics.fmean(values)):
        return "-"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()
