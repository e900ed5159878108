"""What a run is made of: engines, gateways, services, learners, where they go and what they leave behind."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, JsonValue

from al_ray.recipe.section import DottedPath, HttpUrl, Positive, Section, variable_part


class EnginesSection(Section):
    replicas: Positive = 1
    """vLLM engines that a run starts with, and waits for."""
    max_replicas: Positive | None = None
    """Engines at most: those beyond ``replicas`` are started wherever and whenever there is room, also on
    nodes that join later, and go with their nodes. None: as many as ``replicas``."""
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

    @property
    def more(self) -> int:
        """How many may come beside ``replicas``."""
        return max(0, (self.max_replicas or 0) - self.replicas)


class GatewaySection(Section):
    replicas: Positive = 1
    """Gateways, among which the runners are shared out."""
    host: str = "127.0.0.1"
    """The address to listen on. Beyond loopback and with a PostgreSQL store, gateways are spread over the
    nodes; else they are on the driver's, where the SQLite file is."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    """Of a request, at most."""

    @property
    def is_local(self) -> bool:
        """Whether it is reached on its own node alone."""
        return self.host in ("127.0.0.1", "::1", "localhost")


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


def service_variable(name: str) -> str:
    """In which a process finds the URL of the service."""
    return f"AL_RAY_SERVICE_{variable_part(name)}_URL"


class LearnersSection(Section):
    replicas: Positive = 1
    """Data-parallel learner processes."""
    weights: Literal["whole", "sharded"] = "whole"
    """whole: each learner holds all weights, gradients and the whole optimizer. sharded: a part of each, and
    puts a layer together when it is computed (FSDP2), which takes less memory and more traffic."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one learner. 0: the cores of the machine, shared out among the replicas."""
    micro_batch_tokens: Positive = 2048
    """Tokens of one forward and backward, at most (one rollout may exceed it)."""
    recompute: Literal["auto", "always", "never"] = "auto"
    """Whether decoder layers keep their inputs alone and are computed again in the backward pass: a third
    more of computing, and a small part of the memory. auto: where what they keep would else not fit, as far
    as that can be reckoned."""


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
    dashboard: bool = True
    """Whether a training that starts a cluster of its own starts Ray's dashboard with it; it takes some
    seconds."""
    cluster: list[NodeShape] | None = None
    """For ``--dry-run`` and ``validate``: plan for these nodes instead of looking at the machine or the
    cluster."""


_PASSWORDS: Final = frozenset({"password", "sslpassword"})
"""What libpq takes for one in a URL's query."""


def _postgresql_without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        asked = parse_qs(parts.query, keep_blank_values=True)
        host = parts.hostname or asked.get("host")  # libpq's own way to name a socket's folder
        is_one = parts.scheme == "postgresql" and host and parts.port != 0 and parts.path.strip("/")
    except ValueError:  # of the port, or of brackets
        is_one = False
    if not is_one:
        raise ValueError("write postgresql://USER@HOST/DATABASE or postgresql://USER@HOST:PORT/DATABASE")
    if parts.password is not None or asked.keys() & _PASSWORDS:
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
