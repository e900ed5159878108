"""What agents find of the environment that the run was started in: what any program needs, and what the
recipe names. The driver's secrets (keys of trackers, hubs, databases, collectors, of Ray) are none of it.

An agent that is a process gets this and the attempt's own (``environment``). One that runs in the runner's
process finds it in ``os.environ``, for ``shed`` takes the rest away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from al_ray.recipe import AgentSection

_NEEDED: Final = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "TZ",
        "LANG",
        "LANGUAGE",
        "TMPDIR",
        "TMP",
        "TEMP",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "NODE_PATH",
        "JAVA_HOME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "HF_HOME",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "AL_RAY_HOME",
        "AL_RAY_DATA",
    ]
)
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY: Final = ("no_proxy", "NO_PROXY")
_RAYS_SECRETS: Final = ("_TOKEN", "_TOKEN_PATH", "_PASSWORD")
"""How Ray's variables end that are read when a process of its starts, and not needed any more."""


def inherited(agent: AgentSection, environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``environment`` is given to the agent."""
    return {
        name: value
        for name, value in environment.items()
        if name in _NEEDED
        or name in agent.environment
        or name.startswith("LC_")
        or name in _NO_PROXY
        or (name.lower() in _PROXIES and "@" not in value)  # with or without a scheme: bob:password@host
    }


def past_proxies(environment: Mapping[str, str], urls: Iterable[str]) -> dict[str, str]:
    """The variables by which the servers of ``urls`` are reached without the proxy that others may need."""
    named = [host.strip() for name in _NO_PROXY for host in environment.get(name, "").split(",")]
    hosts = [urlsplit(url).hostname or "" for url in urls]
    return dict.fromkeys(_NO_PROXY, ",".join(dict.fromkeys(filter(None, [*named, *hosts]))))


def shed(agent: AgentSection, given: Mapping[str, str], urls: Sequence[str]) -> None:
    """Make this process's environment that of agents, with ``given`` and what Ray needs; before any of
    their code is loaded."""
    kept = inherited(agent, os.environ) | dict(given)
    kept |= past_proxies(kept, urls)
    for name in set(os.environ) - set(kept):
        if not name.startswith("RAY_") or name.endswith(_RAYS_SECRETS):
            del os.environ[name]
    os.environ.update(kept)


def overridden(agent: AgentSection, environment: Mapping[str, str]) -> list[str]:
    """The variables of OpenTelemetry that agents are not given, so that their spans reach the run."""
    return sorted(name for name in environment if name.startswith("OTEL_") and name not in agent.environment)
