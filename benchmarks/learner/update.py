"""An update of al_ray's learner beside a padded Hugging Face loop and TRL's GRPO trainer.

    python -m benchmarks.learner.update [--shapes spider musique calc_x] [--threads 1] [--rounds 3]

The same model, the same made-up samples, the same tokens a micro-batch, the same number of threads; one
process a side, one after the other, without the models' other work. *Useful* tokens are those of every
sample as if it were alone: the same number for all sides. The *token ratio* is what padded batches compute
of tokens to what al_ray computes: what sharing beginnings would give if all else cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.algorithms.batching import pack
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.machines.home import home
from al_ray.models import folders
from al_ray.recipe import OptimizerSection
from al_ray.types import Row
from benchmarks.peers.update_load import (
    LEARNING_RATE,
    SAMPLED,
    Sample,
    padded,
    padded_tokens,
    samples,
    tell_rounds,
    tensors,
    useful_tokens,
)

SHAPES: Final = ("spider", "musique", "calc_x")
PEER: Final = home() / "peers" / "trl"
REQUIREMENT: Final = "trl==1.16.0"


def ours(model: Path, shape: str, micro_batch_tokens: int, threads: int) -> Callable[[], object]:
    """The learner as it is, in this process."""
    spec = LearnerSpec(
        str(model), "float32", "cpu", threads, 2048, micro_batch_tokens, transport="shared_memory"
    )
    learner = Learner(spec)
    learner.start_stage(StageSpec(OptimizerSection(learning_rate=LEARNING_RATE), 1000))
    rows = rows_of(samples(shape))
    return lambda: learner.update([rows], PolicyGradient(Clipped(0.2, 0.2)))


def rows_of(told: Sequence[Sample]) -> list[Row]:
    """Calls that continue each other are one row."""
    rollouts: dict[tuple[int, int], list[Sample]] = {}
    for sample in told:
        rollouts.setdefault((sample.group, sample.rollout), []).append(sample)
    rows = []
    for (group, rollout), calls in rollouts.items():
        tokens = np.array([*calls[-1].prompt, *calls[-1].answer])
        numbers = np.full(len(tokens), -1)
        advantages, weights = np.zeros((2, len(tokens)), np.float32)
        for number, call in enumerate(calls):
            here = slice(len(call.prompt), len(call.prompt) + len(call.answer))
            numbers[here], advantages[here], weights[here] = number, call.advantage, call.weight
        trained = numbers >= 0
        sampled = np.where(trained, SAMPLED, 0).astype(np.float32)
        drawn = (sampled, advantages, weights)
        rows.append(Row(f"{group}-{rollout}", f"{group}", tokens, trained, *drawn, numbers))
    return rows


def padded_loop(model: Path, shape: str, micro_batch_tokens: int, threads: int) -> Callable[[], object]:
    """What a careful loop does: samples of like length together, logits of the answers alone."""
    torch.set_num_threads(threads)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, fused=True)
    told = samples(shape)

    def update() -> None:
        for batch in padded(told, micro_batch_tokens):
            prompts, prompt_mask, answers, answer_mask = tensors(batch)
            ids, mask = torch.cat([prompts, answers], 1), torch.cat([prompt_mask, answer_mask], 1)
            width = answers.shape[1]
            logits = policy(input_ids=ids, attention_mask=mask, logits_to_keep=width + 1).logits[:, :-1]
            logprobs = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]
            advantages = torch.tensor([[sample.advantage] for sample in batch])
            weights = torch.tensor([[sample.weight] for sample in batch]) * answer_mask
            ratio = (logprobs - SAMPLED).exp()
            gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            (-gain * weights).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def measure(side: str, shape: str, arguments: argparse.Namespace, model: Path) -> dict[str, float]:
    """Medians over rounds, of a process of its own."""
    python = PEER / "bin" / "python" if side == "trl" else sys.executable
    module = "benchmarks.peers.trl_update" if side == "trl" else "benchmarks.learner.update"
    command = [python, "-m", module, "--side", side, "--shapes", shape, "--threads", str(arguments.threads)]
    command += ["--rounds", str(arguments.rounds), "--model", str(model)]
    command += ["--micro-batch-tokens", str(arguments.micro_batch_tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": os.getcwd()}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    rounds = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("round ")]
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def install_trl() -> None:
    """torch as it is here, for the CPU; the peer chooses its transformers."""
    if (PEER / "bin" / "python").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
    pip = [PEER / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"torch=={torch.__version__}", REQUIREMENT], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = folders.resolve(arguments.model)
    if arguments.side:
        _be(arguments, model)
    install_trl()
    for shape in arguments.shapes:
        _compare(shape, arguments, model)


def _compare(shape: str, arguments: argparse.Namespace, model: Path) -> None:
    """A table of all sides; their ratios are of core seconds, which another process's work does not change
    as much as the clock's."""
    told = samples(shape)
    useful, most = useful_tokens(told), padded_tokens(told, arguments.micro_batch_tokens)
    computed = sum(batch.computed for batch in pack(rows_of(told), arguments.micro_batch_tokens))
    print(f"{shape}: {useful} useful tokens, padded {most}, computed by al_ray {computed}")
    print(f"{'':>8} {'tokens/s':>9} {'a core':>9} {'GiB':>6} {'GFLOP/s':>8} {'al_ray is':>9}", flush=True)
    found = {side: measure(side, shape, arguments, model) for side in ("al_ray", "padded", "trl")}
    for side, each in found.items():
        speeds = f"{useful / each['wall']:>9.0f} {useful / each['core']:>9.0f}"
        ratio = each["core"] / found["al_ray"]["core"]
        print(f"{side:>8} {speeds} {each['peak'] / 2**30:>6.2f} {each['gflops']:>8.0f} {ratio:>8.2f}x")
    share = found["padded"]["core"] / found["al_ray"]["core"] * computed / most
    print(f"{'':>8} token ratio {most / computed:.2f}, of which al_ray has {share:.2f}", flush=True)


def _be(arguments: argparse.Namespace, model: Path) -> None:
    made = {"al_ray": ours, "padded": padded_loop}[arguments.side]
    update = made(model, arguments.shapes[0], arguments.micro_batch_tokens, arguments.threads)
    tell_rounds(update, arguments.rounds)


if __name__ == "__main__":
    main()
