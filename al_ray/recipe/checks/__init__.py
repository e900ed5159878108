"""What must hold in a recipe beyond the types of its values: between sections, and with the files and
the code that it names. Nothing that it names is called."""

from __future__ import annotations

import difflib
import inspect
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from al_ray.errors import Problem, RecipeError
from al_ray.recipe import (
    AgentSection,
    DataSection,
    GroupedStage,
    OnPolicyDistillationStage,
    Recipe,
    ReinforcementStage,
    RejectionSamplingStage,
    SupervisedStage,
    dotted,
    model_name,
)
from al_ray.recipe.checks import policies
from al_ray.recipe.policies import may_share_a_name, policy_of
from al_ray.types import Signals

SIGNALS: Final = tuple(field.name for field in fields(Signals))
"""What ``transitions.intermediate`` may name."""
LEAST_TEMPERATURE: Final = 0.01
"""vLLM's, above greedy sampling."""


def problems(recipe: Recipe, sound: Collection[str]) -> Iterator[Problem]:
    """Every mistake that can be told from the ``sound`` sections; the others may be missing."""
    for sections, check in _CHECKS:
        if sections <= set(sound):
            yield from check(recipe)


def no_such_key(name: str, known: Iterable[str]) -> str:
    """The cure for an unknown key: the known one that resembles it, or all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return "no such key; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")


def key_problem(variable: str) -> str | None:
    """Why this environment variable gives no API key of a hosted model; None if it does."""
    key = os.environ.get(variable)
    if not key:
        return "this variable is not set; it is to hold the key of the hosted model"
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        return "it holds what cannot stand in an HTTP header: a line break or a space around the key, say"
    return None


def _model(recipe: Recipe) -> Iterator[Problem]:
    if problem := model_name.problem(recipe.model.path):
        yield problem
    template = recipe.model.chat_template
    if template is not None and not Path(template).is_file():
        yield Problem("model.chat_template", template, "no such file; it is looked for beside the recipe")


def _lengths(recipe: Recipe) -> Iterator[Problem]:
    longest = recipe.model.max_length
    for where, sampling in (("agent", recipe.agent.sampling), ("evaluation", recipe.evaluation.sampling)):
        if sampling.max_tokens >= longest:
            cure = f"leaves no room for a prompt: model.max_length is {longest}"
            yield Problem(f"{where}.sampling.max_tokens", sampling.max_tokens, cure)


def _adapter(recipe: Recipe) -> Iterator[Problem]:
    """What lies between two adapters of low rank is none."""
    if recipe.model.lora is None:
        return
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, ReinforcementStage) and stage.reference_mix != 1:
            cure = "1 with model.lora: a reference moves to an adapter, not part of the way"
            yield Problem(f"stages.{index}.reference_mix", stage.reference_mix, cure)


def _engines(recipe: Recipe) -> Iterator[Problem]:
    least, most = recipe.engines.replicas, recipe.engines.max_replicas
    if most is not None and most < least:
        cure = f"is less than engines.replicas, {least}; raise it, or leave it out"
        yield Problem("engines.max_replicas", most, cure)


def _learners(recipe: Recipe) -> Iterator[Problem]:
    if recipe.learners.weights == "sharded" and recipe.learners.replicas == 1:
        cure = "has no effect with learners.replicas: 1; raise that, or leave this out"
        yield Problem("learners.weights", "sharded", cure)


def _data(recipe: Recipe) -> Iterator[Problem]:
    for place, data in recipe.data.each.items():
        yield from _source(place, data)


def _source(place: str, data: DataSection) -> Iterator[Problem]:
    if data.load is None:
        yield Problem(f"{place}.load", None, "name the environment's task loader")
        return
    function, wrong = _function(f"{place}.load", data.load)
    yield from wrong
    if function is None:
        return
    parameters = inspect.signature(function).parameters.values()
    by_name = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [name for name in data.options if not takes_all and name not in by_name]
    for name in unknown:
        yield Problem(f"{place}.options.{name}", data.options[name], no_such_key(name, by_name[2:]))
    known = {name: value for name, value in data.options.items() if name not in unknown}
    yield from _unfit(f"{place}.load", data.load, function, ("path", "split"), known)


def _agent(recipe: Recipe) -> Iterator[Problem]:
    agent = recipe.agent
    for index, name in enumerate(agent.environment):
        if name not in os.environ:
            cure = "this variable is not set; set it, or do not name it"
            yield Problem(f"agent.environment.{index}", name, cure)
    yield from (_command if agent.isolation == "command" else _python_agent)(agent)
    yield from _sandbox(recipe)
    if agent.evaluate is not None:
        yield from _callable("agent.evaluate", agent.evaluate, ("task", "output"))
        if agent.reward is not None:
            yield Problem("agent.reward", agent.reward, "leave it out: agent.evaluate gives the reward")
    if agent.judge is not None:
        yield from _callable("agent.judge", agent.judge, ("task", "candidates", "llm"))
    for where, hook in (("agent.before", agent.before), ("agent.after", agent.after)):
        if hook is not None:
            yield from _callable(where, hook, ("request", "attempt"))


def _command(agent: AgentSection) -> Iterator[Problem]:
    for key in ("run", "python", "requirements"):
        if getattr(agent, key) is not None:
            yield Problem(f"agent.{key}", getattr(agent, key), "is not for isolation: command")
    if agent.command is None:
        yield Problem("agent.command", None, "give the program and its arguments, as a list")
        return
    folder = Path(agent.folder or ".")
    if not folder.is_dir():
        yield Problem("agent.folder", agent.folder, "no such folder; it is looked for beside the recipe")
    program = agent.command[0]
    if agent.sandbox is None and shutil.which(folder / program if "/" in program else program) is None:
        cure = "no such program is on PATH; one of your own is given as ./NAME, relative to agent.folder"
        yield Problem("agent.command.0", program, cure)


def _sandbox(recipe: Recipe) -> Iterator[Problem]:
    agent = recipe.agent
    if agent.sandbox is None:
        return
    if agent.isolation != "command":
        cure = f"is only for isolation: command, not for {agent.isolation}"
        yield Problem("agent.sandbox", agent.sandbox.wall, cure)
    output = Path(recipe.output).resolve()
    seen = {"agent.folder": agent.folder or "."}
    seen |= {f"agent.sandbox.mounts.{place}": here for place, here in agent.sandbox.mounts.items()}
    for where, here in seen.items():
        if not Path(here).exists():
            yield Problem(where, here, "no such file or folder; it is looked for beside the recipe")
        elif output.is_relative_to(Path(here).resolve()):
            cure = f"the agent would see the runs in {output}; give it a folder without them, or set `output`"
            yield Problem(where, here, cure)


def _python_agent(agent: AgentSection) -> Iterator[Problem]:
    cure = f"is only for isolation: command, not for {agent.isolation}"
    if agent.command is not None:
        yield Problem("agent.command", agent.command, cure)
    if agent.task != "stdin":
        yield Problem("agent.task", agent.task, cure)
    if agent.run is None:
        yield Problem("agent.run", None, "name the agent, or give isolation: command and a command")
        return
    if agent.python is not None and shutil.which(agent.python) is None:
        yield Problem("agent.python", agent.python, "no such program; it is looked for beside the recipe")
    if isinstance(agent.requirements, str) and not Path(agent.requirements).is_file():
        cure = "no such file; it is looked for beside the recipe"
        yield Problem("agent.requirements", agent.requirements, cure)
    if agent.isolation == "process":
        if agent.python is None and agent.requirements is None:  # else the interpreter is asked
            yield from _callable("agent.run", agent.run, ("task", "llm"), or_else=("task",))
        return
    for key in ("python", "requirements"):
        if getattr(agent, key) is not None:
            yield Problem(f"agent.{key}", getattr(agent, key), "is only for isolation: process")
    unfit = list(_callable("agent.run", agent.run, ("task", "llm")))
    yield from unfit
    asynchronous = agent.isolation == "async"
    if not unfit and _is_async(dotted.load(agent.run, "agent.run")) is not asynchronous:
        plain = "is a plain function: set agent.isolation to thread or process, or make it async def"
        cure = plain if asynchronous else "is async: set agent.isolation to async or process"
        yield Problem("agent.run", agent.run, cure)


def _transitions(recipe: Recipe) -> Iterator[Problem]:
    for name, worth in recipe.transitions.intermediate.items():
        if name not in SIGNALS:
            cure = f"no such signal; there are {', '.join(SIGNALS)}"
            yield Problem(f"transitions.intermediate.{name}", worth, cure)


def _stages(recipe: Recipe) -> Iterator[Problem]:
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, SupervisedStage):
            yield from _callable(f"stages.{index}.demonstrate", stage.demonstrate, ("task",))
        elif isinstance(stage, ReinforcementStage):
            yield from _reinforcement(f"stages.{index}", stage)
        elif isinstance(stage, RejectionSamplingStage):
            yield from _rejection_sampling(f"stages.{index}", stage)
        if stage.optimizer.warmup_steps >= stage.steps:
            cure = f"is less than the stage's steps, {stage.steps}"
            yield Problem(f"stages.{index}.optimizer.warmup_steps", stage.optimizer.warmup_steps, cure)


def _reinforcement(place: str, stage: ReinforcementStage) -> Iterator[Problem]:
    """What of the stage would have no effect, or cannot be had."""
    if ":" in stage.credit:
        yield from _callable(f"{place}.credit", stage.credit, ("group",))
    if stage.credit in ("identical", "final") and stage.discount != 1:
        cure = f"has no effect on credit: {stage.credit}; set credit to reward_to_go, or leave it out"
        yield Problem(f"{place}.discount", stage.discount, cure)
    for field in _chosen(stage, "gae_lambda", "critic") if stage.credit != "gae" else ():
        cure = f"has no effect on credit: {stage.credit}; set credit to gae, or leave it out"
        yield Problem(f"{place}.{field}", getattr(stage, field), cure)
    for field in _chosen(stage, "kl_in", "reference_every") if stage.kl_coefficient == 0 else ():
        cure = "has no effect with kl_coefficient: 0; give it a weight, or leave it out"
        yield Problem(f"{place}.{field}", getattr(stage, field), cure)
    if not stage.reference_every and stage.reference_mix != 1:
        cure = "has no effect with reference_every: 0, where the reference stays; leave it out"
        yield Problem(f"{place}.reference_mix", stage.reference_mix, cure)
    if stage.mini_batches > stage.groups_per_step:
        cure = f"at most groups_per_step, {stage.groups_per_step}: groups stay whole"
        yield Problem(f"{place}.mini_batches", stage.mini_batches, cure)
    if stage.loss == "cispo" and stage.clip_dual is not None:
        cure = "has no effect on loss: cispo, which clips the weight of every token; leave it out"
        yield Problem(f"{place}.clip_dual", stage.clip_dual, cure)
    if stage.refills and stage.baseline == "none":
        cure = "has no effect with baseline: none, where every group has a signal; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)
    if stage.refills and stage.credit == "gae":
        cure = "has no effect with credit: gae, which compares no group; set it to 0"
        yield Problem(f"{place}.refills", stage.refills, cure)


def _chosen(stage: ReinforcementStage, *fields: str) -> list[str]:
    """Those that are not as they are by default."""
    defaults = type(stage).model_fields
    return [field for field in fields if getattr(stage, field) != defaults[field].default]


def _rejection_sampling(place: str, stage: RejectionSamplingStage) -> Iterator[Problem]:
    if stage.keep > stage.group_size:
        cure = f"is more than a group has: at most group_size, {stage.group_size}"
        yield Problem(f"{place}.keep", stage.keep, cure)
    if stage.group_size == 1 and stage.threshold is None:
        cure = "a number, or a larger group_size: without either, no rollout is better than another"
        yield Problem(f"{place}.threshold", None, cure)


def _distillation(recipe: Recipe) -> Iterator[Problem]:
    """The teacher's server tells log-probabilities at temperature 1."""
    temperature = recipe.agent.sampling.temperature
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage, OnPolicyDistillationStage):
            continue
        if stage.teacher not in recipe.upstreams:
            there = ", ".join(recipe.upstreams) or "none"
            cure = f"is no hosted model; name one of upstreams, of which there are: {there}"
            yield Problem(f"stages.{index}.teacher", stage.teacher, cure)
        if stage.reward_weight > 0 and stage.group_size == 1:
            cure = "has no effect with group_size: 1, where nothing is better than the mean; set it to 0"
            yield Problem(f"stages.{index}.reward_weight", stage.reward_weight, cure)
        if stage.staleness:
            cure = "0: a token's worth is a difference from the policy that drew it, not an older one"
            yield Problem(f"stages.{index}.staleness", stage.staleness, cure)
        if temperature not in (None, 0, 1):
            cure = f"1: a teacher (stages.{index}) tells the log-probabilities of that temperature"
            yield Problem("agent.sampling.temperature", temperature, cure)


def _exploration(recipe: Recipe) -> Iterator[Problem]:
    sampling = recipe.agent.sampling
    learning = [stage for stage in recipe.stages if isinstance(stage, GroupedStage)]
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, ReinforcementStage) and stage.overlong_tokens > sampling.max_tokens:
            cure = f"at most agent.sampling.max_tokens, {sampling.max_tokens}"
            yield Problem(f"stages.{index}.overlong_tokens", stage.overlong_tokens, cure)
    if learning and sampling.temperature == 0:
        cure = "above 0, or the rollouts of a group are all alike and nothing is learnt"
        yield Problem("agent.sampling.temperature", 0, cure)
    if learning and 0 < (sampling.temperature or 0) < LEAST_TEMPERATURE:
        cure = (
            f"at least {LEAST_TEMPERATURE}, to which engines raise it: the learner would compute with another"
        )
        yield Problem("agent.sampling.temperature", sampling.temperature, cure)
    if learning and sampling.temperature is None:
        cure = "a number: the learner must know the distribution that tokens are drawn from"
        yield Problem("agent.sampling.temperature", None, cure)
    if any(not isinstance(stage, RejectionSamplingStage) for stage in learning) and sampling.top_p != 1:
        cure = "1: the learner computes the whole distribution, and tokens would be drawn from a part of it"
        yield Problem("agent.sampling.top_p", sampling.top_p, cure)


def _trained_alike(recipe: Recipe) -> Iterator[Problem]:
    """The learner computes with one temperature."""
    if not any(isinstance(stage, GroupedStage) for stage in recipe.stages):
        return
    sampling = recipe.agent.sampling
    for pattern, own in sampling.agents.items():
        if not any(may_share_a_name(pattern, trained) for trained in recipe.transitions.train):
            continue
        answers = policy_of(recipe.policies, pattern)  # who is named by a pattern may be anybody's
        if answers and recipe.policies[answers].frozen and not set("*?[") & set(pattern):
            continue
        for field in own.model_fields_set & {"temperature", "top_p"}:
            if getattr(own, field) != getattr(sampling, field):
                cure = (
                    f"{getattr(sampling, field)}, as agent.sampling.{field}, with which the learner "
                    "computes, for transitions.train may name such an agent; or name there who is trained"
                )
                yield Problem(f"agent.sampling.agents.{pattern}.{field}", getattr(own, field), cure)


def _evaluation(recipe: Recipe) -> Iterator[Problem]:
    evaluation = recipe.evaluation
    if evaluation.samples > 1 and evaluation.sampling.temperature == 0:
        cure = f"above 0, or the {evaluation.samples} samples of a task are all alike"
        yield Problem("evaluation.sampling.temperature", 0, cure)
    if evaluation.predictions is not None:
        yield from _callable("evaluation.predictions", evaluation.predictions, ("results", "folder"))


def _upstreams(recipe: Recipe) -> Iterator[Problem]:
    for name, upstream in recipe.upstreams.items():
        if name == recipe.model.name:
            cure = "is what agents call the trained model; give the hosted one another name"
            yield Problem(f"upstreams.{name}", upstream.model, cure)
        variable = upstream.api_key_env
        if variable is not None and (problem := key_problem(variable)):
            yield Problem(f"upstreams.{name}.api_key_env", variable, problem)


def _services(recipe: Recipe) -> Iterator[Problem]:
    for name, service in recipe.services.items():
        where = f"services.{name}.run"
        function, wrong = _function(where, service.run)
        yield from wrong
        if function is not None:
            yield from _unfit(where, service.run, function, ("path",), service.options)


def _callable(
    where: str, path: str, arguments: Sequence[str], *, or_else: Sequence[str] | None = None
) -> Iterator[Problem]:
    """What is wrong with the function at ``path``, which is going to be called with ``arguments``, or
    with those of ``or_else`` if it does not take them."""
    function, wrong = _function(where, path)
    yield from wrong
    if function is None:
        return
    unfit = list(_unfit(where, path, function, arguments))
    if unfit and (or_else is None or list(_unfit(where, path, function, or_else))):
        yield from unfit


def _function(where: str, path: str) -> tuple[Callable[..., Any] | None, Sequence[Problem]]:
    """What stands at ``path``, or why it cannot be called at all."""
    try:
        found = dotted.load(path, where)
    except RecipeError as error:
        return None, error.problems
    if not callable(found):
        return None, [Problem(where, path, f"is of type {type(found).__name__}; name a function")]
    return found, []


def _unfit(
    where: str,
    path: str,
    function: Callable[..., Any],
    arguments: Sequence[str],
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Problem]:
    try:
        inspect.signature(function).bind(*arguments, **options)
    except (TypeError, ValueError) as error:
        yield Problem(where, path, f"cannot be called with ({', '.join([*arguments, *options])}): {error}")


def _is_async(function: Any) -> bool:
    if inspect.isclass(function):
        return False
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


_CHECKS: Sequence[tuple[set[str], Callable[[Recipe], Iterator[Problem]]]] = (
    ({"model"}, _model),
    ({"model", "agent", "evaluation"}, _lengths),
    ({"model", "stages"}, _adapter),
    ({"engines"}, _engines),
    ({"learners"}, _learners),
    ({"data"}, _data),
    ({"agent"}, _agent),
    ({"stages"}, _stages),
    ({"stages", "agent", "upstreams"}, _distillation),
    ({"stages", "agent"}, _exploration),
    ({"stages", "agent", "transitions", "policies"}, _trained_alike),
    ({"policies", "model", "transitions"}, policies.policies),
    ({"policies", "stages"}, policies.stages),
    ({"transitions"}, _transitions),
    ({"evaluation"}, _evaluation),
    ({"upstreams", "model"}, _upstreams),
    ({"services"}, _services),
)
"""Each check with the sections that it reads. What depends on the cluster, ``machines.plan`` checks."""
