"""What the tokens of a call look like: the text of each, and how likely it was.

The texts come from the ``tokenizer.json`` of the run's model, where that is at hand; ids stand in their place
where it is not. Together, the texts of a call's tokens are the text of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from al_ray.models import folders
from al_ray.recipe import Recipe
from al_ray.run.folder import RunFolder
from al_ray.types import VersionSpan

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BEFORE: Final = 5
"""Tokens before one, by which a decoder knows whether it begins a word."""
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
_STEPS: Final = (0.05, 0.25, 0.7, 1.5, 3.0, 5.0)
"""Nats of surprise at which another shade begins."""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token."""

    id: int
    text: str
    """Empty for one that only with the next ones makes a character: they have it."""
    logprob: float | None
    """Natural logarithm, of the sampling distribution."""
    shade: int
    """0: as good as certain; ``len(_STEPS)``: a surprise."""
    version: int | None
    """The policy version that sampled it."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Of the tokens of one run."""

    tokenizer: Tokenizer | None
    """In memory: the checkpoint that it comes from may be pruned."""
    looked: Sequence[Path]
    """Where one was looked for."""

    @classmethod
    def of(cls, folder: RunFolder, recipe: Recipe) -> Texts:
        """By a checkpoint's tokenizer, or else by that of the model it began with."""
        at_hand = folders.at_hand(recipe.model.path)
        checkpoints = [folder.checkpoint(step) for step in folder.checkpoints()[-1:]]
        looked = [*checkpoints, at_hand or Path(recipe.model.path)]
        for place in looked:
            try:
                content = (place / "tokenizer.json").read_bytes()
            except OSError:  # there is none, or its checkpoint has just been pruned
                continue
            from tokenizers import Tokenizer

            return Texts(Tokenizer.from_buffer(content), looked)
        return Texts(None, looked)

    @property
    def missing(self) -> str:
        """Why there are no texts; empty where there are."""
        if self.tokenizer is not None:
            return ""
        places = ", ".join(map(str, self.looked))
        return f"ids are shown: there is no tokenizer.json in {places}"

    def tokens(
        self, ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[VersionSpan]
    ) -> Sequence[Token]:
        """Those of a response, each with what was recorded of it."""
        by_place = [None] * len(ids) if not logprobs else list(logprobs)
        version_of: list[int | None] = [None] * len(ids)
        for span in versions:
            version_of[span.start : span.end] = [span.version] * (span.end - span.start)
        rows = zip(ids, self.texts(ids), by_place, version_of, strict=True)
        return [Token(id, text, logprob, _shade(logprob), version) for id, text, logprob, version in rows]

    def texts(self, ids: Sequence[int]) -> Sequence[str]:
        """The text of each token among the others."""
        decoder = self.tokenizer
        if decoder is None:
            return [f" {id}" for id in ids]
        texts: list[str] = []
        begin = 0
        """Of the tokens whose text is not told yet."""
        for end in range(1, len(ids) + 1):
            before = ids[max(0, begin - _BEFORE) : begin]
            known = decoder.decode([*before], skip_special_tokens=False)
            told = decoder.decode([*before, *ids[begin:end]], skip_special_tokens=False)[len(known) :]
            if told.endswith(_UNFINISHED) and end < len(ids) and end - begin < 4:
                texts.append("")
            else:
                texts.append(told)
                begin = end
        return texts


def _shade(logprob: float | None) -> int:
    return 0 if logprob is None else sum(-logprob >= step for step in _STEPS)
