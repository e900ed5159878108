"""What the recipe decides of a call's sampling, and what it leaves to the agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from al_ray.actors.gateway.dialects.core import AskedSampling
from al_ray.types import Sampling


@dataclass(frozen=True, slots=True)
class PinnedSampling:
    """None leaves a field to the agent."""

    temperature: float | None
    top_p: float | None
    max_tokens: int
    """The agent may be briefer."""

    def sampling(self, asked: AskedSampling, seed: int) -> Sampling:
        """What a call is sampled with whose agent asks for ``asked``. OpenAI's defaults are 1."""
        return Sampling(
            temperature=_first(self.temperature, asked.temperature),
            top_p=_first(self.top_p, asked.top_p),
            max_tokens=min(asked.max_tokens or self.max_tokens, self.max_tokens),
            stop=asked.stop,
            seed=seed,
            n=asked.n,
        )


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """Of one mode."""

    pinned: PinnedSampling
    by_agent: Sequence[tuple[str, PinnedSampling]] = ()
    """For agents whose name matches the pattern; the first match counts."""

    def of(self, agent: str) -> PinnedSampling:
        matching = (pinned for pattern, pinned in self.by_agent if fnmatchcase(agent, pattern))
        return next(matching, self.pinned)


def _first(*values: float | None) -> float:
    return next((value for value in values if value is not None), 1.0)
