"""A recipe as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from al_ray.recipe.agent import AgentSection, SamplingSection, TransitionsSection
from al_ray.recipe.health import HealthSection
from al_ray.recipe.policies import PolicySection
from al_ray.recipe.section import DottedPath, Name, PolicyName, Positive, Section
from al_ray.recipe.stages import AnyStage
from al_ray.recipe.system import (
    CheckpointSection,
    EnginesSection,
    GatewaySection,
    LearnersSection,
    PlacementSection,
    ServiceSection,
    StoreSection,
    TracesSection,
    UpstreamSection,
    WandbSection,
)


class LoraSection(Section):
    """An adapter of low rank (arXiv 2106.09685), which is trained in place of the model. Beside it the model
    stays as it is, in memory in what is computed in."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Of the product of two matrices that is added to each target's."""
    alpha: Positive = 32
    """What is added is multiplied by ``alpha / rank``."""
    targets: Annotated[list[str], Field(min_length=1)] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    """The linear layers that have one, by the last part of their names."""


class ModelSection(Section):
    path: str
    """A model folder, a run's checkpoint, or a hub name such as ``HuggingFaceTB/SmolLM2-135M-Instruct``."""
    lora: LoraSection | None = None
    """Train an adapter alone; ``{}`` is one of these defaults. None: all weights are trained."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What engines and learners compute in; what a learner trains and its optimizer are float32 always.
    auto: bfloat16 where the device multiplies it natively (NVIDIA GPUs since Ampere, CPUs with amx_bf16 or
    avx512_bf16), else float32; `al-ray doctor` says which."""
    max_length: Positive = 2048
    """Prompt and response tokens of one call together, at most."""
    chat_template: str | None = None
    """A Jinja file, relative to the recipe, in place of the model's own template."""
    tool_parser: str | None = None
    """vLLM's parser for the model's tool calls, for example ``hermes``. None: tools are refused."""
    reasoning_parser: str | None = None
    """vLLM's parser for the model's reasoning, if it has one."""

    @property
    def name(self) -> str:
        """What agents call it."""
        return Path(self.path).name or Path(self.path).absolute().name


class SourceSection(Section):
    """One of several sets of tasks. What is left out is as in ``data``."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """How many of its tasks are trained on, beside the others' weights."""
    load: DottedPath | None = None
    """Its task loader."""
    path: str | None = None
    """Its directory or hub dataset name."""
    options: dict[str, JsonValue] | None = None
    """Passed to the loader by name."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """As ``data.validation_share``."""


class DataSection(Section):
    load: DottedPath | None = None
    """The environment's task loader. It may be left out where every one of ``sources`` has its own."""
    path: str | None = None
    """A directory or a hub dataset name. None: ``AL_RAY_DATA``, else the environment's sample rows."""
    options: dict[str, JsonValue] = {}
    """Passed to the loader by name."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For a dataset without a validation split: about this share of the training tasks is kept out of
    training and is the validation split, chosen by their ids alone. None: the loader has one."""
    sources: dict[Name, SourceSection] = {}
    """Several sets of tasks in one training, by name, each by its weight. A task's id then begins with its
    source's name and a slash, and its data say the name under ``data_source``."""

    @property
    def each(self) -> Mapping[str, DataSection]:
        """Every source by the place where the recipe has it, with all that it takes from here; this alone
        where there are no several."""
        if not self.sources:
            return {"data": self}
        return {
            f"data.sources.{name}": self.model_copy(
                update={"sources": {}, **source.model_dump(exclude={"weight"}, exclude_none=True)}
            )
            for name, source in self.sources.items()
        }


class EvaluationSection(Section):
    tasks: Positive = 128
    """Held-out tasks, the first of a fixed shuffle of the validation split; of several sources, so many of
    each."""
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations within a stage. 0: only before the first stage and after each."""
    sampling: SamplingSection = SamplingSection(temperature=0.0)
    """What evaluation calls are sampled with."""
    samples: Positive = 1
    """Rollouts of each task. Several give pass@k and avg@k, and need a temperature above 0."""
    by: list[str] = []
    """Keys of the tasks' data, for example ``hops``: `al-ray eval` tells the metrics for each value too."""
    predictions: DottedPath | None = None
    """Writes the file that the task's official script reads, for `al-ray eval`: called with the pairs of
    task data and output, and the folder to write in; returns the file's path."""


class Recipe(Section):
    """A whole run."""

    name: Name
    """Names the run's folder and its W&B run."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides tasks, their order and, on GPU, the sampling seeds of calls."""
    output: str = "outputs"
    """The folder that run folders are made in."""
    model: ModelSection
    data: DataSection
    agent: AgentSection
    transitions: TransitionsSection = TransitionsSection()
    policies: dict[PolicyName, PolicySection] = {}
    """Several policies behind one URL, by name. None: one policy answers every agent."""
    stages: Annotated[list[AnyStage], Field(min_length=1)]
    """Run one after the other."""
    evaluation: EvaluationSection = EvaluationSection()
    health: HealthSection = HealthSection()
    engines: EnginesSection = EnginesSection()
    gateway: GatewaySection = GatewaySection()
    upstreams: dict[Name, UpstreamSection] = {}
    """Hosted models by the name that agents ask for."""
    services: dict[Name, ServiceSection] = {}
    """What agents may ask beside the model, by name. They find the URL in ``AL_RAY_SERVICE_NAME_URL``, or
    in the endpoint's ``services``."""
    learners: LearnersSection = LearnersSection()
    placement: PlacementSection = PlacementSection()
    store: StoreSection = StoreSection()
    checkpoint: CheckpointSection = CheckpointSection()
    wandb: WandbSection = WandbSection()
    traces: TracesSection = TracesSection()

    @property
    def trained_policies(self) -> Mapping[str, str | None]:
        """Those that learn, by name, with the adapter's folder that each begins as; where there are no
        several, the one, whose name is empty."""
        if not self.policies:
            return {"": None}
        return {name: section.adapter for name, section in self.policies.items() if not section.frozen}
