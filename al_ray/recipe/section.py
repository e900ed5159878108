"""The recipe's sections as typed, frozen models: what may be written, and what it means.

A section knows nothing of files, clusters or other sections; ``loading`` loads, overrides
and cross-checks them. Every field's docstring is what ``docs/recipes.md`` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from al_ray.types import AttemptStatus, RetryPolicy

DottedPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""``package.module:attribute``."""
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""Of a folder: letters, digits and ``_.-``."""
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def http_url(url: str) -> str:
    """``url``, if it is one of a server. Raises ``ValueError`` that says what would be."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        is_one = False
    if not is_one or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("write http://HOST:PORT/PATH or https://HOST/PATH")
    return url


HttpUrl = Annotated[str, AfterValidator(http_url)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSection(Section):
    path: str
    """A model folder, or a hub name such as ``HuggingFaceTB/SmolLM2-135M-Instruct``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights, in engines and learners alike. Use float32 on a CPU without bfloat16 units."""
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
        return Path(self.path).name


class DataSection(Section):
    load: DottedPath
    """The environment's task loader."""
    path: str | None = None
    """A directory or a hub dataset name. None: ``AL_RAY_DATA``, else the environment's sample rows."""
    options: dict[str, JsonValue] = {}
    """Passed to the loader by name."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For a dataset without a validation split: about this share of the training tasks is kept out of
    training and is the validation split, chosen by their ids alone. None: the loader has one."""


class AgentSamplingSection(Section):
    """What is left out is as for the other agents."""

    temperature: Annotated[float, Field(ge=0)] | None = 1.0
    """Divides the logits. 0 is greedy. None: as the agent asks, else 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Nucleus; the log-probabilities that are recorded are those after it. None: as the agent asks,
    else 1."""
    max_tokens: Positive = 256
    """Per call, at most: the agent may be briefer."""


class SamplingSection(AgentSamplingSection):
    agents: dict[str, AgentSamplingSection] = {}
    """By the agent's name (the header ``x-al-ray-agent``), as a pattern (``judge*``); the first match
    counts. The learner computes with the temperature above: train no agent that has another."""


class LimitsSection(Section):
    calls: Positive | None = None
    """Calls of an attempt. None: no limit."""
    tokens: Positive | None = None
    """Tokens of an attempt's calls, prompts and responses together; a call that begins below it ends as
    it would. None: no limit."""


class RetrySection(Section):
    max_attempts: Positive = 2
    """Tries at a rollout before it counts as failed. An attempt that is lost with its runner is none."""
    statuses: list[Literal["failed", "timed_out"]] = ["failed", "timed_out"]
    """How an attempt must have ended to be tried again."""
    errors: list[str] | None = None
    """Of failed attempts, only those that raised one of these, by full or bare class name, for example
    ``openai.APIConnectionError``. None: whatever they raised."""
    never_errors: list[str] = []
    """... and none that raised one of these."""

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=self.max_attempts,
            statuses=tuple(map(AttemptStatus, self.statuses)),
            errors=None if self.errors is None else tuple(self.errors),
            never_errors=tuple(self.never_errors),
        )


Isolation = Literal["async", "thread", "process", "command"]


class AgentSection(Section):
    run: DottedPath | None = None
    """The agent, unless it is a command: a callable of the task's data and the endpoint."""
    isolation: Isolation = "async"
    """async: an async callable, in the runner. thread: a plain one, in a thread of the runner; a thread
    that hangs cannot be ended. process: either, in a process of its own, where it may take the task
    alone and find the endpoint in its environment. command: any program."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """The program and its arguments, for ``isolation: command``."""
    folder: str | None = None
    """Where the command runs, relative to the recipe. None: beside the recipe."""
    task: Literal["stdin", "file", "variables"] = "stdin"
    """How a command gets the task: as JSON on standard input, as JSON in the file that
    ``AL_RAY_TASK_FILE`` names, or as a variable ``AL_RAY_TASK_KEY`` for each of its keys."""
    python: str | None = None
    """With ``isolation: process``: the path of an interpreter, relative to the recipe. None: al_ray's."""
    requirements: list[str] | str | None = None
    """With ``isolation: process``: packages, or a requirements file relative to the recipe. The agent runs
    in a virtual environment that has these and nothing else, made once."""
    reward: Literal["output", "events"] | None = None
    """Where the reward comes from, unless ``evaluate`` gives it. output: what the agent returned, a number
    or numbers by name with ``reward`` among them; of a command, a JSON object on the last line of its
    standard output. events: the rewards that it posted. None: the output, or, where that holds no
    reward, the events."""
    evaluate: DottedPath | None = None
    """Turns what the agent returned (a command: printed) into the reward."""
    before: DottedPath | None = None
    """Called before each attempt with its request and the attempt; if it raises, the attempt has failed."""
    after: DottedPath | None = None
    """Called likewise after each attempt, however that ended, with the attempt as it will be stored."""
    timeout: Seconds = 300.0
    """Seconds an attempt may take before it is ended."""
    retry: RetrySection = RetrySection()
    """When a rollout is tried again."""
    grace: Seconds = 5.0
    """Seconds that an agent is given to end by itself (a process: after SIGTERM) before it is killed."""
    concurrency: Positive = 32
    """Attempts that one runner has under way at once."""
    runners: Positive = 1
    """Runner actors."""
    sampling: SamplingSection = SamplingSection()
    """What training calls are sampled with, whatever the agent asks for."""
    limits: LimitsSection = LimitsSection()
    """What one attempt may use; a call beyond it is refused."""


class TransitionsSection(Section):
    """What of an agent's doings is learnt from."""

    train: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Names of the agents whose calls are trained, as patterns: ``*`` any text, ``?`` a character,
    ``[ab]`` one of these. Calls of other agents are context only, though their rewards count."""
    reward: str = "reward"
    """The dimension of the rewards that is learnt from; the others become metrics, ``rewards/NAME``."""
    intermediate: dict[str, float] = {}
    """Automatic intermediate rewarding: what each event of a signal is worth to the trained call that
    caused it, for example ``{tool_errors: -0.1, empty_results: -0.05}``. Empty: off."""
    intermediate_limit: Annotated[float, Field(gt=0)] = 0.5
    """The intermediate rewards of a rollout come to no more than this, up or down. With 0.5, a rollout
    rewarded 1 never falls behind one rewarded 0."""


class OptimizerSection(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak, AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls from its peak to 0 over the stage's steps, after ``warmup_steps``."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise from 0 to the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled, on matrices only."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""


class Stage(Section):
    steps: Positive
    """Batches, each followed by an update."""
    optimizer: OptimizerSection
    """Fresh at the start of the stage."""


class SupervisedStage(Stage):
    """Imitates demonstrations: cross-entropy on the assistant's tokens."""

    algorithm: Literal["supervised"]
    """Names the stage."""
    demonstrate: DottedPath
    """The environment's writer of demonstrations."""
    tasks_per_step: Positive = 16
    """Demonstrations in a batch."""
    aggregate: Literal["rollout_mean", "token_mean"] = "token_mean"
    """What the loss is a mean over."""


class GrpoStage(Stage):
    """Reinforcement learning from groups of rollouts of one task (GRPO and its kin)."""

    algorithm: Literal["grpo"]
    """Names the stage."""
    groups_per_step: Positive = 8
    """Tasks in a batch."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts of each task."""
    credit: Literal["identical", "reward_to_go"] = "identical"
    """Level 1: which return each call of a rollout receives. identical: the whole episode's.
    reward_to_go: what it and the calls after it earned."""
    discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With reward_to_go, what a reward one call later counts."""
    normalize_std: bool = True
    """Divide a group's advantages by the standard deviation of its returns. False: Dr. GRPO."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio is clipped at 1 - clip_low."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """... and at 1 + clip_high."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the k3 estimate of KL(policy || weights at the start of the stage). 0: none, and no
    reference model is kept."""
    aggregate: Literal["rollout_mean", "token_mean"] = "rollout_mean"
    """What the loss is a mean over."""


AnyStage = Annotated[SupervisedStage | GrpoStage, Field(discriminator="algorithm")]


class EvaluationSection(Section):
    tasks: Positive = 128
    """Held-out tasks, the first of a fixed shuffle of the validation split."""
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


class EnginesSection(Section):
    replicas: Positive = 1
    """vLLM engines."""
    tensor_parallel: Positive = 1
    """Devices an engine is spread over."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one engine. 0: the cores of the machine, shared out among the replicas."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1.0
    """On CPU: memory of the key-value cache of one engine."""
    gpu_memory: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """On GPU: the fraction of the device's memory that vLLM may take."""
    max_running: Positive = 64
    """Sequences an engine advances at once."""


class GatewaySection(Section):
    replicas: Positive = 1
    """Gateways, among which the runners are shared out."""
    host: str = "127.0.0.1"
    """The address to listen on. Beyond loopback and with a PostgreSQL store, gateways are spread over the
    nodes; else they are on the driver's, where the SQLite file is."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    """Of a request, at most."""


class UpstreamSection(Section):
    """A hosted model, reached at the gateway under the name that is its key here, and never trained."""

    base_url: HttpUrl
    """Of an OpenAI-compatible server, with ``/v1``; it is reached without a proxy."""
    model: str
    """What that server calls the model."""
    api_key_env: str | None = None
    """The variable that holds the key, where the driver runs. None: none is sent."""


class ServiceSection(Section):
    """Something that agents may ask beside the model, in a process of its own behind HTTP. It is started
    before them, replaced when it dies, and ended with the run."""

    run: DottedPath
    """Its class, which is called with ``data.path`` and the options."""
    options: dict[str, JsonValue] = {}
    """Passed to the class by name."""


class LearnersSection(Section):
    replicas: Positive = 1
    """Data-parallel learner processes."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one learner. 0: the cores of the machine, shared out among the replicas."""
    micro_batch_tokens: Positive = 2048
    """Tokens of one forward and backward, at most (one rollout may exceed it)."""


class NodeShape(Section):
    """A kind of node of a cluster that is described rather than running."""

    count: Positive = 1
    """Nodes of this kind."""
    cpus: Positive
    """Cores of one."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of one."""


class PlacementSection(Section):
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where engines and learners compute. auto: gpu where the cluster has one."""
    layout: Literal["auto", "colocated", "disaggregated"] = "auto"
    """colocated: engines and learners take turns on the same devices. disaggregated: each has its
    own. auto: disaggregated where there are GPUs enough for both."""
    cluster: list[NodeShape] | None = None
    """For ``--dry-run``: plan for these nodes instead of looking at the machine or the cluster."""


def _postgresql_without_password(url: str) -> str:
    if not url.startswith("postgresql://"):
        raise ValueError("write postgresql://USER@HOST/DATABASE")
    if urlsplit(url).password is not None:
        raise ValueError("recipes are copied and logged: leave the password to ~/.pgpass or PGPASSWORD")
    return url


class StoreSection(Section):
    url: Annotated[str, AfterValidator(_postgresql_without_password)] | None = None
    """A PostgreSQL database, ``postgresql://USER@HOST/DATABASE``, in which each run has a schema of its
    own; the password belongs in ``~/.pgpass`` or ``PGPASSWORD``. None: a SQLite file in the run's folder."""


class CheckpointSection(Section):
    every: Positive = 10
    """Steps between checkpoints; the end of a stage always has one."""
    keep: Positive = 2
    """The newest checkpoints that are kept."""


class WandbSection(Section):
    enabled: bool = False
    """Log to Weights & Biases. The variable ``WANDB_MODE`` wins over ``mode``."""
    project: str = "al_ray"
    """Project."""
    entity: str | None = None
    """Team or user."""
    mode: Literal["online", "offline"] = "online"
    """offline writes a folder to be synchronised later."""


class ExportSection(Section):
    endpoint: HttpUrl | None = None
    """An OTLP/HTTP collector's, without ``/v1/traces``. None: ``OTEL_EXPORTER_OTLP_ENDPOINT`` where the
    driver runs, else nothing is exported."""
    headers: dict[str, str] = {}
    """Sent with each export. None of them: ``OTEL_EXPORTER_OTLP_HEADERS``, where secrets are better kept."""


class TracesSection(Section):
    export: ExportSection = ExportSection()
    """Where our spans go besides the store."""
    collector_key_env: str = "AL_RAY_COLLECTOR_KEY"
    """The variable that holds the key with which a collector may send the spans of all attempts."""


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
    stages: Annotated[list[AnyStage], Field(min_length=1)]
    """Run one after the other."""
    evaluation: EvaluationSection = EvaluationSection()
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
