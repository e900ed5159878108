"""What all sides of ``update`` do: rows of made-up tokens, padded batches of them, a timed update.

numpy, torch and nothing of al_ray: a peer's environment runs it too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

VOCABULARY: Final = 8_000
"""Tokens are drawn below."""
LEARNING_RATE: Final = 1e-6
SAMPLED: Final = -10.6
"""The sampler's log-probability of every token: near the model's own of such tokens."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: a prompt and what was sampled after it."""

    group: int
    rollout: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    advantage: float
    weight: float
    """Of each of its tokens, the mean over rollouts of the mean over a rollout's tokens."""


def samples(shape: str) -> list[Sample]:
    """``spider``: 8 rollouts of 800 + 80 tokens with a common prompt. ``musique``: 4 rollouts of four turns,
    whose prompts grow by the answer before and what a search found. ``calc_x``: 8 tasks of 4 short
    rollouts each."""
    draw = np.random.default_rng(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draw.integers(5, VOCABULARY, count).tolist())

    match shape:
        case "spider":
            groups, size, prompts, turns, found = 1, 8, (800, 800), [(80, 80)], 0
        case "musique":
            groups, size, prompts, turns, found = 1, 4, (300, 300), [(24, 24)] * 4, 200
        case "calc_x":
            groups, size, prompts, turns, found = 8, 4, (160, 240), [(8, 32)], 0
        case _:
            raise ValueError(f"{shape}: no shape of rows")
    made: list[Sample] = []
    for group in range(groups):
        begun = some(int(draw.integers(*prompts, endpoint=True)))
        for rollout in range(size):
            said, lengths = begun, [int(draw.integers(*turn, endpoint=True)) for turn in turns]
            for length in lengths:
                answer = some(length)
                weight = 1 / sum(lengths) / (groups * size)
                made.append(Sample(group, rollout, said, answer, float(draw.normal()), weight))
                said += answer + some(found)
    return made


def padded(told: Sequence[Sample], micro_batch_tokens: int) -> Iterator[list[Sample]]:
    """Batches of samples of like length: samples times the longest is at most ``micro_batch_tokens``."""
    batch: list[Sample] = []
    for sample in sorted(told, key=_length):
        if batch and (len(batch) + 1) * _length(sample) > micro_batch_tokens:
            yield batch
            batch = []
        batch.append(sample)
    yield batch


def padded_tokens(told: Sequence[Sample], micro_batch_tokens: int) -> int:
    """That such batches compute."""
    return sum(len(batch) * max(map(_length, batch)) for batch in padded(told, micro_batch_tokens))


def useful_tokens(told: Sequence[Sample]) -> int:
    """Of every sample as if it were alone and without padding."""
    return sum(map(_length, told))


def _length(sample: Sample) -> int:
    return len(sample.prompt) + len(sample.answer)


def tensors(batch: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompts padded on the left and answers on the right, ``[B, L]`` each, and their masks."""
    left = max(len(sample.prompt) for sample in batch)
    right = max(len(sample.answer) for sample in batch)
    prompts = torch.zeros(len(batch), left, dtype=torch.long)
    answers = torch.zeros(len(batch), right, dtype=torch.long)
    prompt_mask, answer_mask = torch.zeros_like(prompts), torch.zeros_like(answers)
    for row, sample in enumerate(batch):
        prompts[row, left - len(sample.prompt) :] = torch.tensor(sample.prompt)
        prompt_mask[row, left - len(sample.prompt) :] = 1
        answers[row, : len(sample.answer)] = torch.tensor(sample.answer)
        answer_mask[row, : len(sample.answer)] = 1
    return prompts, prompt_mask, answers, answer_mask


def gflops() -> float:
    """What this process gets out of the machine now, in float32: products of the model's own sizes."""
    left, right = torch.randn(1024, 576), torch.randn(576, 1536)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return 2 * 1024 * 576 * 1536 / float(np.median(times[2:])) / 1e9


def tell_rounds(update: Callable[[], object], rounds: int) -> None:
    """One update that is not counted, then ``rounds``; a JSON object a round to the standard output."""
    update()
    for _ in range(rounds):
        speed = gflops()
        wall, core = time.perf_counter(), time.process_time()
        update()
        wall, core = time.perf_counter() - wall, time.process_time() - core
        told = {"wall": wall, "core": core, "gflops": speed, "peak": _peak()}
        print("round " + json.dumps(told), flush=True)
    sys.exit(0)


def _peak() -> int:
    """Bytes that this process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
