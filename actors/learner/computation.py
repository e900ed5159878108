"""How a model's rows are computed: packed where that is tried to equal each row alone, else one by one.

Packed rows are one sequence with a 4-D mask and positions of its own. Plain attention does not notice;
a layer that convolves, recurs, sees a window or counts positions by itself computes something else, without
an error. So the model itself is asked, by a few short rows at its start. What so short a probe cannot show
is a length beyond it: those that the config names are ``al_ray.models.limits``'.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from al_ray.actors.learner import attention
from al_ray.actors.learner.head import HeadForm, head_form, hidden_states
from al_ray.algorithms.batching import MicroBatch, collate
from al_ray.errors import Problem, RecipeError
from al_ray.machines.precision import Dtype
from al_ray.models import limits
from al_ray.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_PROMPT: Final = 16
_ANSWERS: Final = (20, 12, 5)
"""Tokens of the probe: answers of one prompt."""
_SEEN: Final = 8
"""A bound of so many tokens tells rows of the probe apart: it need not be known by its name."""
_PROBE_WINDOW: Final = 5
_TOLERANCE: Final = 1e-3
"""Of the difference that another token before them makes to later ones. Over all architectures, rounding
makes less than this, most often 1e-6, and what is computed otherwise a tenth and more."""
_ROUNDING: Final = 1e-5
"""Of the largest logit."""
_SURELY: Final = 10
"""Times the tolerance: what only rounds roughly is computed one by one, not refused."""

_REFUSED: Final = {"reformer": "it draws at random which tokens see each other, in rows beyond a chunk"}
"""By type of model: what neither the probe nor a length tells."""

Inputs = Mapping[str, Any]
_Masks = Callable[[MicroBatch, int | None, torch.dtype], Any]
"""From what is packed, the tokens that sliding layers see and what scores are computed in, to what the model
takes; made once a micro-batch."""


def _runs(batch: MicroBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    """What attention by runs takes for a mask; a window needs one that is written out."""
    return batch.runs[None, None] if window is None else _additive(batch, window, dtype)


def _boolean(batch: MicroBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    mask = batch.attention_mask()
    if window is None:
        return mask
    depth = batch.position_ids[0]
    return mask & (depth[:, None] - depth[None, :] < window)


def _additive(batch: MicroBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores: torch's, given a boolean mask, makes this of it in every layer."""
    seen = _boolean(batch, window, dtype)
    floor = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(seen.logical_not_(), floor)


def _by_layer_type(kind: _Masks) -> _Masks:
    def masks(batch: MicroBatch, window: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
        full, sliding = kind(batch, None, dtype), kind(batch, window, dtype)
        return {"full_attention": full, "sliding_attention": sliding}

    return masks


_PLAIN: Final[Sequence[_Masks]] = (_additive, _boolean)
_SLIDING: Final[Sequence[_Masks]] = (*map(_by_layer_type, _PLAIN), *_PLAIN)


@dataclass(frozen=True, slots=True)
class Computation:
    """What a model is given of a micro-batch."""

    told: str
    """How rows are computed, and why, for whoever starts a run."""
    packed_tokens: int = 0
    """The most tokens of a packed sequence; 0: rows are computed one by one, as ``model(input_ids)``."""
    masks: _Masks = _additive
    window: int | None = None
    head: HeadForm | None = None
    """How logits come of the trunk's last hidden state, where that is tried."""
    keeps: bool = True
    """The model computes the logits of the positions that it is told."""
    dtype: Dtype = "float32"
    """What whoever asks computes in (``al_ray.actors.learner.model``). Whether rows are equal packed is tried
    in float32."""

    @property
    def packed(self) -> bool:
        return self.packed_tokens > 0

    def hidden(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        """The last hidden states of ``batch.predecessors``, ``[P, H]``; only with a ``head``."""
        return hidden_states(model, self._inputs(batch))[batch.predecessors]

    def logits(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        """Those of ``batch.predecessors``, ``[P, V]``, all at once."""
        if self.head is not None:
            return self.head.of(model, torch.float32).logits(self.hidden(model, batch))
        inputs = self._inputs(batch)
        if self.keeps:
            return _logits(model, {**inputs, "logits_to_keep": batch.predecessors})
        return _logits(model, inputs)[batch.predecessors]

    def _inputs(self, batch: MicroBatch) -> Inputs:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if self.packed:
            kind = batch.input_ids.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
            inputs["attention_mask"] = self.masks(batch, self.window, dtype)
            inputs["position_ids"] = batch.position_ids
        return inputs


@torch.no_grad()
def computation(model: PreTrainedModel, longest: int, micro_batch_tokens: int) -> Computation:
    """For rows of up to ``longest`` tokens. Raises ``RecipeError`` where no row can be computed as it was
    sampled: tokens see later ones, or positions turn with the length of the row."""
    if reason := _REFUSED.get(_name(model)):
        raise RecipeError(Problem("model.path", _name(model), f"cannot be trained: {reason}"))
    probe = _Probe.of(model)
    config = model.config.get_text_config(decoder=True)
    named = config.to_dict()
    if problem := limits.problem_of_rope(named, longest):
        raise RecipeError(problem)
    if probe.sees_later_tokens():
        cure = "cannot be trained: its tokens see later ones, so it is no causal language model"
        raise RecipeError(Problem("model.path", _name(model), cure))
    head = probe.head()
    alone = Computation("", head=head, keeps=head is None and probe.keeps_logits())
    bounds = [each for each in limits.bounds(named) if each.tokens > _SEEN]
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or window >= longest:
        window = None
    else:
        bounds = [each for each in bounds if each.key != "sliding_window"]
        if _all_full(config):
            window = None
    if short := [each for each in bounds if each.tokens < longest]:
        bound = min(short, key=lambda each: each.tokens)
        return _one_by_one(alone, model, f"its {bound.key} of {bound.tokens} may bound what a token sees")
    most = [each.tokens for each in (*bounds, *limits.capacities(named)) if each.tokens >= longest]
    packed = replace(alone, packed_tokens=min([micro_batch_tokens, *most]), window=window)
    equal = probe.equal_masks(packed) if window is None else probe.equal_sliding_masks(packed)
    if equal is not None:
        return replace(packed, masks=equal, told=f"packs rows of {_name(model)}, equal beginnings once")
    if window is not None:
        return _one_by_one(alone, model, f"it has layers that see {window} tokens")
    return _one_by_one(alone, model, "packed, they come out otherwise than alone")


def _one_by_one(alone: Computation, model: PreTrainedModel, reason: str) -> Computation:
    return replace(alone, told=f"computes rows of {_name(model)} one by one: {reason}")


def _name(model: PreTrainedModel) -> str:
    return str(model.config.model_type)


def _all_full(config: Any) -> bool:
    """Every layer says of itself that it sees all that is before a token."""
    return set(getattr(config, "layer_types", None) or ["unsaid"]) == {"full_attention"}


@dataclass(frozen=True, slots=True)
class _Probe:
    """A few rows of made-up tokens, and what the model says of each alone."""

    model: PreTrainedModel
    rows: Sequence[Row]
    alone: Sequence[Tensor]
    """Logits, ``[T, V]`` each."""
    tolerance: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Probe:
        rows = _rows(model)
        alone = _alone(model, rows)
        other = rows[0].tokens.copy()
        other[_PROMPT - 1] = rows[0].tokens[0]
        changed = _logits(model, _ids(model, other))
        effect = float((changed - alone[0])[_PROMPT:].abs().max())
        return cls(model, rows, alone, max(_TOLERANCE * effect, _ROUNDING * float(alone[0].abs().max())))

    def sees_later_tokens(self) -> bool:
        half = _logits(self.model, _ids(self.model, self.rows[0].tokens[:_PROMPT]))
        return not bool((half - self.alone[0][:_PROMPT]).abs().max() <= _SURELY * self.tolerance)

    def head(self) -> HeadForm | None:
        """By which every row's logits come of its hidden states."""
        first = _ids(self.model, self.rows[0].tokens)
        try:
            form = head_form(self.model, first, self.alone[0], self._same)
        except Exception as error:
            logger.info("%s does not give its hidden states so: %r", _name(self.model), error)
            return None
        how, batches = Computation("", head=form), [collate([row]) for row in self.rows]
        return form if form is not None and self._equal(how, self.alone, batches) else None

    def keeps_logits(self) -> bool:
        """Whether it computes the logits of the positions that it is told, and no others."""
        if "logits_to_keep" not in inspect.signature(self.model.forward).parameters:
            return False
        return self._equal(Computation(""), self.alone, [collate([row]) for row in self.rows])

    def equal_masks(self, packed: Computation) -> _Masks | None:
        """The first with which packed rows equal rows alone."""
        batch = collate(self.rows)
        if attention.takes_runs(self.model) and self._equal_by_runs(replace(packed, masks=_runs), batch):
            return _runs
        for masks in _PLAIN:
            if self._equal(replace(packed, masks=masks), self.alone, [batch]):
                return masks
        return None

    def _equal_by_runs(self, packed: Computation, batch: MicroBatch) -> bool:
        """Leaves the model with attention by runs if rows are computed well with it, alone too."""
        try:
            attention.use(self.model, attention.NAME)
            if self._equal(packed, self.alone, [batch]) and self._same(
                torch.cat(_alone(self.model, self.rows)), torch.cat(list(self.alone))
            ):
                return True
        except Exception as error:
            logger.info("%s does not take another attention: %r", _name(self.model), error)
        attention.use(self.model, "sdpa")
        return False

    def equal_sliding_masks(self, packed: Computation) -> _Masks | None:
        """The same with a window that the probe is longer than, put into the model in its window's place."""
        batch = collate(self.rows)
        with _sliding_window(self.model, _PROBE_WINDOW):
            alone = _alone(self.model, self.rows)
            if self._same(alone[0], self.alone[0]):
                return None  # It does not go by the config: nothing can be seen of its window.
            for masks in _SLIDING:
                if self._equal(replace(packed, masks=masks, window=_PROBE_WINDOW), alone, [batch]):
                    return masks
        return None

    def _equal(self, how: Computation, alone: Sequence[Tensor], batches: Sequence[MicroBatch]) -> bool:
        """Whether ``batches`` of the probe's rows, in their order, have the logits of the rows alone."""
        expected = [logits[:-1] for logits in alone]
        try:
            found = [how.logits(self.model, batch.to(self.model.device))[batch.sources] for batch in batches]
        except Exception as error:
            logger.info("%s does not take rows so: %r", _name(self.model), error)
            return False
        return self._same(torch.cat(found), torch.cat(expected))

    def _same(self, left: Tensor, right: Tensor) -> bool:
        return bool((left - right).abs().max() <= self.tolerance)  # False where one is not a number


def _rows(model: PreTrainedModel) -> Sequence[Row]:
    """Answers of one prompt, two of which begin alike; every token but the first is trained."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    config = model.config.get_text_config(decoder=True)
    special = {
        value for name, value in config.to_dict().items() if "token" in name and isinstance(value, int)
    }
    ordinary = [token for token in range(vocabulary // 4, vocabulary) if token not in special]
    draw = np.random.default_rng(0)
    prompt, shared, *answers = (draw.choice(ordinary, n) for n in (_PROMPT, 3, *_ANSWERS))
    told = [np.concatenate([prompt, shared if k < 2 else prompt[:0], a]) for k, a in enumerate(answers)]
    rows = []
    for tokens in sorted(told, key=lambda tokens: tokens.tolist()):
        none, trained = np.zeros(len(tokens), np.float32), np.arange(len(tokens)) > 0
        of_call = np.where(trained, 0, -1)
        rows.append(Row("", "", tokens.astype(np.int64), trained, none, none, none, of_call))
    return rows


def _alone(model: PreTrainedModel, rows: Sequence[Row]) -> list[Tensor]:
    return [_logits(model, _ids(model, row.tokens)) for row in rows]


def _ids(model: PreTrainedModel, tokens: np.ndarray) -> Inputs:
    return {"input_ids": torch.from_numpy(tokens)[None].to(model.device)}


def _logits(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Of the one sequence that ``inputs`` are."""
    return cast(Tensor, model(**inputs, use_cache=False).logits[0])


@contextmanager
def _sliding_window(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    config = model.config.get_text_config(decoder=True)
    window = config.sliding_window
    config.sliding_window = tokens
    try:
        yield
    finally:
        config.sliding_window = window
