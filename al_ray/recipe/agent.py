"""The agent's side of a recipe: what is run, how its calls are sampled, what of it is learnt from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer

from al_ray.recipe.section import DottedPath, Positive, Seconds, Section, Variable, Within
from al_ray.types import AttemptStatus, RetryRules


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

    @field_serializer("agents")
    def _as_said(self, agents: dict[str, AgentSamplingSection]) -> dict[str, Any]:
        """Written out, a default would be a choice: what is left out is as for the other agents."""
        return {pattern: own.model_dump(exclude_unset=True) for pattern, own in agents.items()}


class LimitsSection(Section):
    calls: Positive | None = None
    """Calls of an attempt. None: no limit."""
    tokens: Positive | None = None
    """Tokens of an attempt's calls, prompts and responses together; a call that begins below it ends as
    it would. None: no limit."""


class RetrySection(Section):
    """In evaluations, and in training where ``transitions.failed_reward`` is given, what failed counts and is
    not tried again, unless it was by one of ``errors``, or, without these, by what is around the agent:
    connections, servers, hooks."""

    max_attempts: Positive = 2
    """Tries at a rollout before it counts as failed. An attempt that is lost with its runner is none."""
    statuses: list[Literal["failed", "timed_out"]] = ["failed", "timed_out"]
    """How an attempt must have ended to be tried again."""
    errors: list[str] | None = None
    """Of failed attempts, only those that raised one of these, by full or bare class name, for example
    ``openai.APIConnectionError``, or that such a hook failed: ``agent.before``, ``agent.after``. None:
    whatever they raised."""
    never_errors: list[str] = []
    """... and none that raised one of these."""

    @property
    def rules(self) -> RetryRules:
        return RetryRules(
            max_attempts=self.max_attempts,
            statuses=tuple(map(AttemptStatus, self.statuses)),
            errors=None if self.errors is None else tuple(self.errors),
            never_errors=tuple(self.never_errors),
        )


class SandboxSection(Section):
    """Walls around a command that runs what a model writes: it sees, reaches and uses up what is named here,
    and nothing else but its own folder, the gateway and the recipe's services."""

    wall: Literal["auto", "docker", "podman", "bubblewrap"] = "auto"
    """auto: where ``image`` is given, a container of it by Docker, else by Podman; else bubblewrap, which
    needs no daemon. Where none can be had, the run does not start."""
    image: str | None = None
    """The container's image, which must have ``python3`` (3.8 or later). Bubblewrap takes a folder with a
    root file system, and otherwise shows ``/usr`` of this machine."""
    mounts: dict[Within, str] = {}
    """What is seen within, read-only: a place there, and the file or folder here, relative to the recipe."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Cores of a container. In bubblewrap: the attempt may use this many times ``timeout`` of CPU time."""
    memory_mib: Annotated[int, Field(ge=16)] = 1024
    """Of all its processes together."""
    processes: Positive = 128
    """At once, and threads; in bubblewrap under root, processes alone."""
    disk_mib: Positive = 256
    """In each of ``/work``, ``/tmp`` and ``/dev/shm``, where alone it can write, in memory."""


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
    sandbox: SandboxSection | None = None
    """Walls around the command; ``{}`` for the defaults. It then runs in ``/agent``, which is ``folder``
    read-only. None: it can do what the user can who runs it."""
    task: Literal["stdin", "file", "variables"] = "stdin"
    """How a command gets the task: as JSON on standard input, as JSON in the file that
    ``AL_RAY_TASK_FILE`` names, or as a variable ``AL_RAY_TASK_KEY`` for each of its keys."""
    python: str | None = None
    """With ``isolation: process``: the path of an interpreter, relative to the recipe. None: al_ray's."""
    requirements: list[str] | str | None = None
    """With ``isolation: process``: packages, or a requirements file relative to the recipe. The agent runs
    in a virtual environment that has these and nothing else, made once."""
    environment: list[Variable] = []
    """Variables, set where the driver runs, that the agent, its evaluator and its hooks are given, such as
    the key of another API. Of the rest they find what any program needs, ``PATH`` say, and nothing else."""
    reward: Literal["output", "events"] | None = None
    """Where the reward comes from, unless ``evaluate`` gives it. output: what the agent returned, a number
    or numbers by name with ``reward`` among them; of a command, a JSON object on the last line of its
    standard output. events: the rewards that it posted. None: the output, or, where that holds no
    reward, the events."""
    evaluate: DottedPath | None = None
    """Turns what the agent returned (a command: printed) into the reward."""
    judge: DottedPath | None = None
    """Rewards the rollouts of a training group together, once all have ended, in place of the reward's other
    sources: a function of the task, the candidates and an endpoint (`al_ray.protocols.Judge`). Evaluations
    keep the other sources."""
    before: DottedPath | None = None
    """Called before each attempt with its request and the attempt; if it raises, the attempt has failed."""
    after: DottedPath | None = None
    """Called likewise after each attempt, however that ended, with the attempt as it will be stored."""
    timeout: Seconds = 300.0
    """Seconds an attempt may take before it is ended; those in which there was no engine do not count."""
    retry: RetrySection = RetrySection()
    """When a rollout is tried again."""
    grace: Seconds = 5.0
    """Seconds that an agent is given to end by itself (a process: after SIGTERM) before it is killed, and
    what is async of hooks, evaluator and judge, before it is left behind."""
    concurrency: Positive = 32
    """Attempts that one runner has under way at once."""
    runners: Positive = 1
    """Runner actors that a run begins with, beside the driver."""
    max_runners: Positive | None = None
    """Runners at most: those beyond ``runners`` are started on whatever node has room for ``runner_cpus``,
    whenever there is one, also on nodes that join later, and go with their nodes. None: as many as
    ``runners``."""
    runner_cpus: Positive = 1
    """Cores that each runner beyond ``runners`` takes of its node."""
    sampling: SamplingSection = SamplingSection()
    """What training calls are sampled with, whatever the agent asks for."""
    limits: LimitsSection = LimitsSection()
    """What one attempt may use; a call beyond it is refused."""

    @property
    def more_runners(self) -> int:
        """How many may come beside ``runners``."""
        return max(0, (self.max_runners or 0) - self.runners)


class TransitionsSection(Section):
    """What of an agent's doings is learnt from."""

    train: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Names of the agents whose calls are trained, as patterns: ``*`` any text, ``?`` a character,
    ``[ab]`` one of these. Calls of other agents are context only, though their rewards count."""
    reward: str = "reward"
    """The dimension of the rewards that is learnt from; the others become metrics, ``rewards/NAME``."""
    failed_reward: Annotated[float, Field(ge=-1e30, le=1e30)] | None = None
    """What a rollout is worth that failed by what the model answered: its agent broke, or ran out of time,
    context or calls. It is not tried again then. None: it is left out like one that broke for another reason,
    and the policy does not learn to avoid it."""
    intermediate: dict[str, float] = {}
    """Automatic intermediate rewarding: what each event of a signal is worth to the trained call that
    caused it, for example ``{tool_errors: -0.1, empty_results: -0.05}``. Empty: off."""
    intermediate_limit: Annotated[float, Field(gt=0)] = 0.5
    """The intermediate rewards of a rollout come to no more than this, up or down. With 0.5, a rollout
    rewarded 1 never falls behind one rewarded 0."""
