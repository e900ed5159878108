"""Packing and sharing prefixes change how much is computed, never what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from al_ray.algorithms.batching import ancestors, pack, spread
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.policy_gradient import PolicyGradient
from al_ray.algorithms.losses.token import token_logprobs
from al_ray.types import Row

LOSS = PolicyGradient(Clipped(0.2, 0.2), temperature=0.8)


def row(rollout: str, group: str, tokens: Sequence[int], trained: Sequence[bool], seed: int = 0) -> Row:
    rng = np.random.default_rng([seed, *tokens])
    mask = np.asarray(trained)

    def values(low: float, high: float) -> np.ndarray:
        return np.where(mask, rng.uniform(low, high, len(mask)), 0).astype(np.float32)

    numbers = np.where(mask, np.cumsum(np.diff(mask, prepend=False) & mask), -1)
    drawn = (values(-6, 0), values(-1, 1), values(0, 0.1))
    return Row(rollout, group, np.asarray(tokens), mask, *drawn, numbers)


def groups_of_rollouts() -> list[Row]:
    """Three groups that share a system prompt; rollouts with one and two turns, equal answers, an
    answer that is a prefix of another, a rollout of two rows, and a row that forks from a trained token."""
    rng = np.random.default_rng(1)
    system = rng.integers(3, 250, 20).tolist()
    rows = []
    for g in range(3):
        prompt = system + rng.integers(3, 250, 15).tolist()
        answers = [rng.integers(3, 250, int(rng.integers(3, 12))).tolist() for _ in range(4)]
        answers += [answers[0], answers[1][:2]]
        for k, answer in enumerate(answers):
            tokens, trained = prompt + answer, [False] * 35 + [True] * len(answer)
            if k % 2:
                tokens, trained = [*tokens, 5, 6, 7, 8, 9], trained + [False] * 3 + [True] * 2
            rows.append(row(f"{g}-{k}", f"{g}", tokens, trained, seed=k))
        fork = prompt + answers[2][:2] + [11, 12]
        rows.append(row(f"{g}-2", f"{g}", fork, [False] * 37 + [True] * 2))
    return rows


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="sdpa").eval()


def alone(model: PreTrainedModel, row: Row) -> Tensor:
    """Log-probabilities of the trained tokens by the plainest computation there is."""
    logits = model(input_ids=torch.from_numpy(row.tokens)[None]).logits[0] / LOSS.temperature
    trained = np.flatnonzero(row.trained)
    return logits.log_softmax(-1)[trained - 1, row.tokens[trained]]


def gradient(model: PreTrainedModel) -> Tensor:
    vector = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector


@pytest.mark.parametrize("micro_batch_tokens", [1, 100, 10_000])
def test_logprobs_and_gradients_equal_those_of_each_row_alone(
    model: PreTrainedModel, micro_batch_tokens: int
) -> None:
    rows = groups_of_rollouts()
    expected = []
    for each in rows:
        logprobs = alone(model, each)
        sampled = torch.from_numpy(each.logprobs[each.trained])
        advantages = torch.from_numpy(each.advantages[each.trained])
        ratio = (logprobs - sampled).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        (-surrogate * torch.from_numpy(each.weights[each.trained])).sum().backward()
        expected += list(zip(each.weights[each.trained].tolist(), logprobs.tolist(), strict=True))
    expected_gradient = gradient(model)

    computed = []
    for batch in pack(rows, micro_batch_tokens):
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.position_ids,
            logits_to_keep=batch.predecessors,
            use_cache=False,
        ).logits[0]
        logprobs, _ = token_logprobs(logits, batch, LOSS.temperature)
        (LOSS(logprobs, None, batch).values * batch.weights).sum().backward()
        computed += list(zip(batch.weights.tolist(), logprobs.tolist(), strict=True))
    # Random weights identify tokens, whatever order packing has put them in.
    assert np.array(sorted(computed)) == pytest.approx(np.array(sorted(expected)), abs=2e-5)
    difference = (gradient(model) - expected_gradient).norm() / expected_gradient.norm()
    assert float(difference) < 1e-5


def test_common_beginnings_are_computed_once() -> None:
    (batch,) = pack(groups_of_rollouts(), 10_000)
    inputs = [tuple(each.tokens[: np.flatnonzero(each.trained)[-1]]) for each in groups_of_rollouts()]
    prefixes = {tokens[: i + 1] for tokens in inputs for i in range(len(tokens))}
    assert batch.computed == len(prefixes)
    assert batch.saved == sum(map(len, inputs)) - len(prefixes)


def test_a_micro_batch_is_filled_with_what_its_rows_do_not_share() -> None:
    """A budget that is exactly what all rows cost together holds them; with a token less it does not."""
    rows = groups_of_rollouts()
    (whole,) = pack(rows, 10_000)
    assert len(list(pack(rows, whole.computed))) == 1
    assert len(list(pack(rows, whole.computed - 1))) == 2


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.lists(st.integers(0, 1), min_size=2, max_size=9)),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_every_trained_token_is_predicted_from_exactly_its_own_prefix(
    drawn: list[tuple[int, int, list[int]]], micro_batch_tokens: int
) -> None:
    rows = [row(f"{g}-{k}", f"{g}", tokens, [False] + [True] * (len(tokens) - 1)) for g, k, tokens in drawn]
    expected = sorted((tuple(r.tokens[:i]), r.tokens[i]) for r in rows for i in range(1, len(r.tokens)))
    found = []
    for batch in pack(rows, micro_batch_tokens):
        ids, positions, mask = batch.input_ids[0], batch.position_ids[0], batch.attention_mask()[0, 0]
        for source, target in zip(batch.sources, batch.targets, strict=True):
            visible = mask[batch.predecessors[source]].nonzero()[:, 0]
            seen = sorted((int(positions[i]), int(ids[i])) for i in visible)
            assert [position for position, _ in seen] == list(range(len(seen)))
            found.append((tuple(token for _, token in seen), int(target)))
        assert batch.computed <= max(micro_batch_tokens, *(len(r.tokens) - 1 for r in rows))
    assert sorted(found) == expected


@given(ROWS, st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_ranks_get_whole_rollouts_the_same_ones_each_time(
    drawn: list[tuple[int, int, list[int]]], ranks: int
) -> None:
    rows = [row(f"{g}-{k}", f"{g}", tokens, [False] + [True] * (len(tokens) - 1)) for g, k, tokens in drawn]
    shares = spread(rows, ranks)
    assert len(shares) == ranks
    assert sorted(id(r) for share in shares for r in share) == sorted(map(id, rows))
    owners = [{r.rollout_id for r in share} for share in shares]
    assert sum(map(len, owners)) == len(set().union(*owners))
    again = spread(reversed(rows), ranks)
    assert [{r.rollout_id for r in share} for share in again] == owners


def test_the_work_of_ranks_differs_by_less_than_a_rollout_and_hardly_a_group_is_divided() -> None:
    rows = groups_of_rollouts()
    shares = spread(rows, 2)
    work = [sum(batch.computed for batch in pack(share, 10_000)) for share in shares]
    assert max(work) - min(work) < max(len(r.tokens) for r in rows)
    divided = [left & right for left, right in pairwise({r.group for r in share} for share in shares)]
    assert sum(map(len, divided)) <= 1


def test_a_short_rollout_and_a_long_one_have_a_rank_each_in_either_order() -> None:
    for lengths in ((3, 9), (9, 3)):
        rows = [
            row(str(k), str(k), [k] * length, [False] + [True] * (length - 1))
            for k, length in enumerate(lengths)
        ]
        assert [[r.rollout_id for r in share] for share in spread(rows, 2)] == [["0"], ["1"]]


def test_what_a_run_continues_is_told_in_as_few_ranges_as_there_can_be() -> None:
    """Runs of which each continues the whole of the last, and two that begin anew in the middle of it."""
    runs = torch.tensor([[0, 3, -1], [3, 5, 2], [5, 6, 4], [6, 8, 3], [8, 9, 0]])
    assert ancestors(runs) == [[], [(0, 3)], [(0, 5)], [(0, 4)], [(0, 1)]]
    assert ancestors(torch.tensor([[0, 3, -1], [3, 5, 1], [5, 6, 4]])) == [[], [(0, 2)], [(0, 2), (3, 5)]]
