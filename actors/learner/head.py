"""The last layer of a model, where its logits are that layer's and known constants' alone.

It is found by trying: whatever a model does between its trunk and its logits, either these equal a ``Head``
of the trunk's last hidden state or the model computes its logits itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from al_ray.algorithms.losses.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PLAIN: Final = 1e-5
"""A scale this near to 1 is 1."""
_UNBENT: Final = 0.9
"""Of the cap: logits beyond say too little of what was capped."""


@dataclass(frozen=True, slots=True)
class HeadForm:
    """What is between the output embedding and the logits."""

    scale: float = 1.0
    cap: float | None = None

    def of(self, model: PreTrainedModel, dtype: torch.dtype) -> Head:
        output = cast(nn.Linear, model.get_output_embeddings())
        return Head(output.weight, output.bias, self.scale, self.cap, dtype)


def hidden_states(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """The last, ``[T, H]``, of the one sequence that ``inputs`` are."""
    return cast(Tensor, model.base_model(**inputs, use_cache=False).last_hidden_state[0])


@torch.no_grad()
def head_form(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    logits: Tensor,
    same: Callable[[Tensor, Tensor], bool],
) -> HeadForm | None:
    """The one by which ``logits``, the model's own of ``inputs``, come of the trunk's last hidden state;
    None if there is none, or something else than trunk and output embedding learns: what a form takes for
    constant must be so."""
    output, trunk = model.get_output_embeddings(), model.base_model
    if type(output) is not nn.Linear or trunk is model:
        return None
    known = {id(parameter) for part in (trunk, output) for parameter in part.parameters()}
    if any(id(parameter) not in known for parameter in model.parameters()):
        return None
    hidden = hidden_states(model, inputs)
    plain = HeadForm().of(model, torch.float32).logits(hidden)
    for cap in _caps(model):
        form = HeadForm(_scale(plain, logits, cap), cap)
        if same(form.of(model, torch.float32).logits(hidden), logits):
            return form
    return None


def _caps(model: PreTrainedModel) -> Iterator[float | None]:
    """None, and every number of the config that calls itself a cap."""
    yield None
    for name, value in model.config.get_text_config(decoder=True).to_dict().items():
        if "cap" in name and isinstance(value, (int, float)) and value > 0:
            yield float(value)


def _scale(plain: Tensor, logits: Tensor, cap: float | None) -> float:
    """By which ``plain`` is nearest to ``logits`` before they were capped."""
    plain, logits = plain.double(), logits.double()
    if cap is not None:
        unbent = logits.abs() < _UNBENT * cap
        plain, logits = plain[unbent], (logits[unbent] / cap).atanh() * cap
    scale = float((plain * logits).sum() / plain.square().sum())
    return 1.0 if abs(scale - 1) < _PLAIN else scale
