"""Log-probabilities by chunks of positions are those of all logits at once, and so are their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from al_ray.algorithms.batching import MicroBatch
from al_ray.algorithms.losses import head as head_module
from al_ray.algorithms.losses.head import Head, head_logprobs
from al_ray.algorithms.losses.token import token_logprobs

POSITIONS, HIDDEN, VOCABULARY = 7, 5, 11
FORMS = {
    "plain": Head(torch.empty(0)),
    "scaled": Head(torch.empty(0), scale=0.25),
    "capped": Head(torch.empty(0), scale=2.0, cap=1.5),
}


def batch() -> MicroBatch:
    """Tokens of one position, of none, and out of order."""
    sources, targets = torch.tensor([0, 6, 0, 2, 5, 5, 3]), torch.tensor([4, 0, 4, 10, 0, 3, 1])
    nothing = torch.empty(0)
    return MicroBatch(*(nothing,) * 4, sources, targets, *(nothing,) * 6, 0)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((POSITIONS, HIDDEN), (VOCABULARY, HIDDEN), (VOCABULARY,))
    hidden, weight, bias = (torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def at_once(hidden: Tensor, head: Head) -> Tensor:
    assert head.bias is not None
    logits = (hidden @ head.weight.T + head.bias) * head.scale
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


@pytest.mark.parametrize("rows_a_chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("form", FORMS)
def test_chunks_give_the_values_and_gradients_of_all_logits_at_once(
    form: str, temperature: float, rows_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_BYTES", rows_a_chunk * VOCABULARY * 4)
    hidden, weight, bias = drawn(torch.float32)
    head = replace(FORMS[form], weight=weight, bias=bias)
    found = head_logprobs(hidden, head, batch(), temperature, entropy_gradient=True)
    expected = token_logprobs(at_once(hidden, head), batch(), temperature, entropy_gradient=True)
    weights = torch.randn(2, len(batch().targets), generator=torch.Generator().manual_seed(3))
    gradients = []
    for logprobs, entropy in (found, expected):
        total = (weights[0] * logprobs + weights[1] * entropy).sum()
        gradients.append(torch.autograd.grad(total, (hidden, weight, bias), retain_graph=True))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("of", ["logprobs", "entropy"])
def test_each_of_the_two_has_a_gradient_of_its_own(of: str) -> None:
    hidden, weight, bias = drawn(torch.float32)
    head = replace(FORMS["capped"], weight=weight, bias=bias)
    pair = head_logprobs(hidden, head, batch(), 0.7, entropy_gradient=True)
    expected = token_logprobs(at_once(hidden, head), batch(), 0.7, entropy_gradient=True)
    index = ["logprobs", "entropy"].index(of)
    torch.testing.assert_close(
        torch.autograd.grad(pair[index].sum(), hidden), torch.autograd.grad(expected[index].sum(), hidden)
    )


def test_a_gradient_is_the_slope_that_finite_differences_show() -> None:
    hidden, weight, bias = drawn(torch.float32)

    def total(hidden: Tensor, weight: Tensor) -> Tensor:
        head = Head(weight, bias, scale=0.5, cap=2.0)
        logprobs, entropy = head_logprobs(hidden, head, batch(), 0.7, entropy_gradient=True)
        return (logprobs - 0.3 * entropy).double().sum()

    for which, tensor in enumerate((hidden, weight)):
        (gradient,) = torch.autograd.grad(total(hidden, weight), tensor)
        step = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)) * 1e-2
        moved = [
            (hidden + sign * step, weight) if which == 0 else (hidden, weight + sign * step)
            for sign in (1, -1)
        ]
        slope = (total(*moved[0]) - total(*moved[1])) / 2
        assert slope.item() == pytest.approx(float((gradient * step).sum()), rel=2e-3)


def test_no_tensor_holds_the_logits_of_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while they are read nor for the backward pass."""
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 2 * VOCABULARY * 4)
    heights = set()

    class Heights(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            for each in made if isinstance(made, (tuple, list)) else [made]:
                if isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] == VOCABULARY:
                    heights.add(len(each))
            return made

    hidden, weight, bias = drawn(torch.float32)
    with Heights():
        head_logprobs(hidden, Head(weight, bias), batch(), 0.7)[0].sum().backward()
    assert heights - {HIDDEN} == {1, 2}  # the weight's own, turned, is as high as a hidden state is wide


def test_bfloat16_is_of_the_products_alone_and_gradients_are_float32() -> None:
    hidden, weight, bias = drawn(torch.float32)
    logprobs, entropy = head_logprobs(hidden, Head(weight, bias, dtype=torch.bfloat16), batch(), 1.0)
    expected, _ = token_logprobs(at_once(hidden, Head(weight, bias)), batch(), 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=5e-2, rtol=5e-2)
    found = torch.autograd.grad(logprobs.sum(), (hidden, weight, bias))
    exact = torch.autograd.grad(expected.sum(), (hidden, weight, bias))
    assert {each.dtype for each in found} == {torch.float32}
    torch.testing.assert_close(found, exact, atol=1e-1, rtol=1e-1)
