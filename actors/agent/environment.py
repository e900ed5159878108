"""The environment of an agent that is a process: where the model is, whose calls these are, the task.

Any OpenAI, Anthropic or OpenTelemetry SDK finds its endpoint and its key here by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import orjson

from al_ray.actors.agent.inherited import past_proxies
from al_ray.actors.agent.job import Job
from al_ray.errors import DataError, Problem
from al_ray.recipe import AgentSection
from al_ray.recipe.section import variable_part
from al_ray.recipe.system import service_variable
from al_ray.traces import semconv
from al_ray.types import JSON, Task

TASK_FILE = "AL_RAY_TASK_FILE"
_MAX_BYTES: Final = 32 * 4096 - 1
"""Of ``NAME=VALUE``, as Linux has it (execve(2): ``MAX_ARG_STRLEN``), however large the pages."""
_MAX_TOTAL: Final = 2**20
"""Of a task's variables together: half of what Linux allows all variables and arguments."""


def variables(job: Job, inherited: Mapping[str, str]) -> dict[str, str]:
    """What is inherited (``al_ray.actors.agent.inherited``) and those of the attempt."""
    endpoint, attempt = job.endpoint, job.attempt
    root = endpoint.base_url.removesuffix("/v1")
    services = {service_variable(name): url for name, url in endpoint.services.items()}
    resource = {semconv.ROLLOUT_ID: attempt.rollout_id, semconv.ATTEMPT: str(attempt.number)}
    return (
        dict(inherited)
        | past_proxies(inherited, [endpoint.base_url, *endpoint.services.values()])
        | services
        | {
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": endpoint.api_key,
            "OPENAI_MODEL": endpoint.model,
            "ANTHROPIC_BASE_URL": root,  # its SDK adds /v1 itself
            "ANTHROPIC_API_KEY": endpoint.api_key,
            "OTEL_EXPORTER_OTLP_ENDPOINT": root,  # likewise
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization={quote(f'Bearer {endpoint.api_key}', safe='')}",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",  # nobody listens to these two
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{n}={quote(v, safe='')}" for n, v in resource.items()),
            "AL_RAY_ROLLOUT_ID": attempt.rollout_id,
            "AL_RAY_ATTEMPT": str(attempt.number),
            "PYTHONUNBUFFERED": "1",  # what an agent printed before it was killed is kept too
        }
    )


def task_variables(task: Mapping[str, JSON]) -> dict[str, str]:
    """``AL_RAY_TASK_QUESTION`` and so on: texts as they are, everything else as JSON. Raises ``DataError``
    for a value that no variable can hold, and for two keys that would share one."""
    variables: dict[str, str] = {}
    keys: dict[str, str] = {}
    for name, value in task.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        variable = f"AL_RAY_TASK_{variable_part(name)}"
        if (other := keys.setdefault(variable, name)) != name:
            raise DataError(_for_no_variable(name, text, f"{variable} already holds its {other!r}"))
        size = len(f"{variable}={text}".encode())
        if size > _MAX_BYTES:
            why = f"{variable} would have {size} bytes, and Linux allows {_MAX_BYTES}"
            raise DataError(_for_no_variable(name, text, why))
        if "\0" in text:
            raise DataError(_for_no_variable(name, text, f"{variable} cannot hold the character NUL"))
        variables[variable] = text
    total = sum(len(f"{variable}={text}".encode()) for variable, text in variables.items())
    if total > _MAX_TOTAL:
        raise DataError(_for_no_variable("keys", ", ".join(task), f"its variables would have {total} bytes"))
    return variables


def check_tasks(agent: AgentSection, tasks: Iterable[Task]) -> None:
    """Whether the agent can be given all of them. Raises ``DataError``."""
    if agent.task != "variables":
        return
    for task in tasks:
        try:
            task_variables(task.data)
        except DataError as error:
            raise DataError(
                *(
                    replace(each, where=f"task {task.id!r} of {task.split}: {each.where}")
                    for each in error.problems
                )
            ) from None


def _for_no_variable(name: str, text: str, why: str) -> Problem:
    return Problem(f"the task's {name!r}", text[:40], f"{why}; set agent.task to stdin or file")
