"""Micro-batches: rows packed into one sequence in which common beginnings are computed once.

A token's hidden state depends on the tokens before it and on nothing else, so rows that begin alike
share their beginning exactly, trained or not: the rows form a trie, every token sits at its depth
and attends to its ancestors only. The result equals computing each row alone in a model whose tokens see all
before them, and nothing else; ``al_ray.actors.learner.computation`` tries whether one is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from al_ray.types import Row


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward: ``T`` computed tokens, ``P`` that something is predicted from, and
    ``N`` trained tokens."""

    input_ids: Tensor
    """int64 ``[1, T]``."""
    position_ids: Tensor
    """int64 ``[1, T]``: depth in the trie."""
    runs: Tensor
    """int64 ``[R, 3]``: start, stop and parent. Tokens from start to before stop continue each other, and the
    first continues the parent, a token of an earlier run (-1: it begins a row)."""
    predecessors: Tensor
    """int64 ``[P]``: where logits are needed, each position once."""
    sources: Tensor
    """int64 ``[N]``: the entry of ``predecessors`` that predicts the trained token."""
    targets: Tensor
    """int64 ``[N]``: the trained tokens."""
    logprobs: Tensor
    """float32 ``[N]``, of the sampling distribution."""
    proximal: Tensor | None
    """float32 ``[N]``, of the policy that the update began with; None: that is the policy as it is."""
    advantages: Tensor
    """float32 ``[N]``."""
    weights: Tensor
    """float32 ``[N]``."""
    calls: Tensor
    """int64 ``[N]``: the call of the token, counted from 0 in this micro-batch."""
    constrained: Tensor
    """bool ``[N]``: a grammar held the token, and ``logprobs`` are of what it allowed."""
    saved: int
    """Tokens that sharing spared."""

    @property
    def computed(self) -> int:
        return self.input_ids.shape[1]

    def attention_mask(self) -> Tensor:
        """bool ``[1, 1, T, T]``, made anew: True where the row's token attends to the column's."""
        mask = torch.ones(self.computed, self.computed, dtype=torch.bool, device=self.runs.device).tril_()
        for (start, stop, _), before in zip(self.runs.tolist(), ancestors(self.runs), strict=True):
            mask[start:stop, :start] = False
            for first, last in before:
                mask[start:stop, first:last] = True
        return mask[None, None]

    def to(self, device: torch.device) -> MicroBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()}
        return MicroBatch(**moved)


def spread(rows: Iterable[Row], ranks: int) -> list[list[Row]]:
    """Shares whole rollouts out among ranks, evenly by computed tokens; groups stay together where
    balance permits, since a group shares its prompt. The same rows give the same shares."""
    ordered = sorted(rows, key=lambda row: (row.group, row.rollout_id, _inputs(row).tolist()))
    rollouts = [list(same) for _, same in groupby(ordered, key=lambda row: (row.group, row.rollout_id))]
    costs, before = [], np.empty(0, np.int64)
    for rollout in rollouts:
        costs.append(0)
        for row in rollout:
            costs[-1] += _cost(row, before)
            before = _inputs(row)
    # A rollout goes where the middle of its cost falls when all costs are laid end to end.
    middles = np.cumsum(costs) - np.asarray(costs) / 2
    shares: list[list[Row]] = [[] for _ in range(ranks)]
    for rollout, middle in zip(rollouts, middles, strict=True):
        shares[min(ranks - 1, int(middle * ranks / sum(costs)))].extend(rollout)
    return shares


def in_order(rows: Iterable[Row]) -> list[Row]:
    """As ``pack`` takes them: trained tokens of its micro-batches follow each other as the rows' do here."""
    return sorted(rows, key=lambda row: _inputs(row).tolist())


def pack(rows: Iterable[Row], micro_batch_tokens: int) -> Iterator[MicroBatch]:
    """Packs greedily; a micro-batch computes at most ``micro_batch_tokens`` unless one row is longer: with
    0 each row is one.

    Rows are taken in the order of their tokens: then a row's longest common beginning with any row
    before it is the one with its direct predecessor, and rows of a group follow each other.
    """
    pending: list[Row] = []
    used = 0
    for row in in_order(rows):
        cost = _cost(row, _inputs(pending[-1])) if pending else 0
        if pending and used + cost > micro_batch_tokens:
            yield collate(pending)
            pending, used = [], 0
        used += cost if pending else len(_inputs(row))
        pending.append(row)
    if pending:
        yield collate(pending)


def collate(rows: Sequence[Row]) -> MicroBatch:
    """One micro-batch of rows that are sorted by their tokens."""
    tokens, positions, runs = [], [], []
    predecessors, before, path = [], np.empty(0, np.int64), np.empty(0, np.int64)
    computed = 0
    for row in rows:
        inputs = _inputs(row)
        shared = _common(before, inputs)
        start, computed = computed, computed + len(inputs) - shared
        if computed > start:
            runs.append((start, computed, int(path[shared - 1]) if shared else -1))
        path = np.concatenate([path[:shared], np.arange(start, computed)])
        tokens.append(inputs[shared:])
        positions.append(np.arange(shared, len(inputs)))
        predecessors.append(path[np.flatnonzero(row.trained) - 1])
        before = inputs
    unique, sources = np.unique(np.concatenate(predecessors), return_inverse=True)
    return MicroBatch(
        input_ids=torch.from_numpy(np.concatenate(tokens))[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        runs=torch.tensor(runs, dtype=torch.int64),
        predecessors=torch.from_numpy(unique),
        sources=torch.from_numpy(sources),
        targets=_trained(rows, "tokens"),
        logprobs=_trained(rows, "logprobs"),
        proximal=None if rows[0].proximal is None else _trained(rows, "proximal"),
        advantages=_trained(rows, "advantages"),
        weights=_trained(rows, "weights"),
        calls=_calls(rows),
        constrained=_constrained(rows),
        saved=sum(len(_inputs(row)) for row in rows) - computed,
    )


def ancestors(runs: Tensor) -> list[list[tuple[int, int]]]:
    """For each of ``MicroBatch.runs`` the ranges of tokens, start and stop, that it continues, in order."""
    table: list[list[int]] = runs.tolist()
    starts = [start for start, _, _ in table]
    found: list[list[tuple[int, int]]] = []
    for _, _, parent in table:
        before: list[tuple[int, int]] = []
        if parent >= 0:
            run = bisect_right(starts, parent) - 1
            before = [*found[run], (starts[run], parent + 1)]
            if len(before) > 1 and before[-2][1] == before[-1][0]:
                before[-2:] = [(before[-2][0], before[-1][1])]
        found.append(before)
    return found


def _trained(rows: Sequence[Row], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(row, name)[row.trained] for row in rows]))


def _calls(rows: Sequence[Row]) -> Tensor:
    """A call is in one row; the same number in another row is another call."""
    own = np.concatenate([row.calls[row.trained] for row in rows])
    of_row = np.repeat(np.arange(len(rows)), [int(row.trained.sum()) for row in rows])
    _, numbers = np.unique(np.stack([of_row, own]), axis=1, return_inverse=True)
    return torch.from_numpy(numbers.reshape(-1))


def _constrained(rows: Sequence[Row]) -> Tensor:
    none = (np.zeros(int(row.trained.sum()), bool) for row in rows)
    own = [
        n if row.constrained is None else row.constrained[row.trained]
        for row, n in zip(rows, none, strict=True)
    ]
    return torch.from_numpy(np.concatenate(own))


def _inputs(row: Row) -> np.ndarray:
    """What must be computed of a row: nothing is predicted from its last trained token."""
    return row.tokens[: np.flatnonzero(row.trained)[-1]]


def _common(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the common beginning."""
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return int(different[0]) if different.size else length


def _cost(row: Row, before: np.ndarray) -> int:
    inputs = _inputs(row)
    return len(inputs) - _common(before, inputs)
