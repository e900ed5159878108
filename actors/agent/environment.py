"""The environment of an agent that is a process: where the model is, whose calls these are, the task.

Any OpenAI, Anthropic or OpenTelemetry SDK finds its endpoint and its key here by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import orjson

from al_ray.actors.agent.job import Job
from al_ray.traces import semconv
from al_ray.types import JSON

TASK_FILE = "AL_RAY_TASK_FILE"


def variables(job: Job, inherited: Mapping[str, str]) -> dict[str, str]:
    """What is inherited, less Ray's variables, and those of the attempt."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("RAY_")}
    endpoint, attempt = job.endpoint, job.attempt
    root = endpoint.base_url.removesuffix("/v1")
    services = {f"AL_RAY_SERVICE_{_upper(name)}_URL": url for name, url in endpoint.services.items()}
    resource = {semconv.ROLLOUT_ID: attempt.rollout_id, semconv.ATTEMPT: str(attempt.number)}
    return (
        kept
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
    """``AL_RAY_TASK_QUESTION`` and so on: texts as they are, everything else as JSON."""
    return {
        f"AL_RAY_TASK_{_upper(name)}": value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in task.items()
    }


def _upper(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()
