"""What a learner, and a stage of it, are started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from al_ray.actors.weights.update import Transport
from al_ray.machines.precision import Dtype
from al_ray.recipe import CriticSection, LoraSection, OptimizerSection


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """Everything that all learners of a group have in common."""

    model: str
    """A model folder."""
    dtype: Dtype
    """What weights are published in; ``model`` says what is computed in it."""
    device: Literal["cpu", "cuda"]
    threads: int
    """CPU threads of one learner."""
    max_length: int
    """Tokens of the longest row."""
    micro_batch_tokens: int
    transport: Transport
    """How weights reach the engines."""
    recompute: bool = False
    """Decoder layers keep their inputs alone for the backward pass."""
    estimated: int = 0
    """Bytes that one learner is expected to hold; 0: nobody knows."""
    chat_template: str | None = None
    """Jinja source saved in place of the model's own template."""
    sharded: bool = False
    """Each of several learners holds a part of the weights that it trains."""
    lora: LoraSection | None = None
    """The adapters that are trained in place of the model: what each is like."""
    policies: Mapping[str, str | None] = field(default_factory=lambda: {"": None})
    """Those that learn, by name, with the folder of the adapter that each begins as. Several have an adapter
    each."""
    seed: int = 0
    """Of an adapter's first weights, the same for each that begins as the model itself."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The weights as the stage begins, from which divergence is measured."""

    every: int = 0
    """After so many updates, again and again, it moves to the weights as they are. 0: never."""
    mix: float = 1.0
    """How far it moves, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What learners keep for a stage, all of it fresh at its start."""

    optimizer: OptimizerSection
    updates: int
    reference: Reference | None = None
    critic: CriticSection | None = None
