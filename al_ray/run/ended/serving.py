"""How a checkpoint is served as the run's own engines served it: the line that starts vLLM's server, with
the recipe's chat template, parsers, length and defaults of sampling."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from al_ray.machines.devices import nvidia_gpus
from al_ray.machines.precision import dtype_of
from al_ray.recipe import Recipe

TEMPLATE = "chat_template.jinja"
"""In a checkpoint, where the recipe has one of its own."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server's command line."""

    model: str
    options: Sequence[str]
    """What ``vllm serve`` is given beside it."""
    variables: Mapping[str, str]
    """Beside those that are there."""

    @property
    def command(self) -> Sequence[str]:
        """With this interpreter's vLLM, which as a CPU build has no ``vllm``."""
        return [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            self.model,
            *self.options,
        ]

    @property
    def line(self) -> str:
        """As it is written anywhere else."""
        return shlex.join(["vllm", "serve", self.model, *self.options])


def server(folder: Path, recipe: Recipe, host: str, port: int) -> Server:
    """Of the model in ``folder``, a checkpoint of the recipe's run or what one was merged to, for this
    machine. Agents call it as they did in the run."""
    model, on_cpu = recipe.model, not nvidia_gpus()
    options = [
        *("--served-model-name", model.name, "--host", host, "--port", str(port)),
        *("--max-model-len", str(model.max_length), "--dtype", dtype_of(recipe, "cpu" if on_cpu else "gpu")),
        *("--generation-config", "vllm", "--override-generation-config", json.dumps(sampling(recipe))),
    ]
    if model.chat_template is not None:
        options += ["--chat-template", str(folder.resolve() / TEMPLATE)]
    if model.tool_parser is not None:
        options += ["--enable-auto-tool-choice", "--tool-call-parser", model.tool_parser]
    if model.reasoning_parser is not None:
        options += ["--reasoning-parser", model.reasoning_parser]
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if on_cpu:
        cache = int(recipe.engines.kv_cache_gib * 2**30)
        options += ["--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", str(cache)]
        variables["TORCH_COMPILE_DISABLE"] = "1"  # which needs a C++ compiler
    else:
        options += ["--tensor-parallel-size", str(recipe.engines.tensor_parallel)]
    return Server(str(folder.resolve()), options, variables)


def sampling(recipe: Recipe) -> dict[str, float]:
    """What evaluations were sampled with, by the names of generation configs: the default where a client
    says nothing; of the length, also the most."""
    section = recipe.evaluation.sampling
    told = {
        "temperature": section.temperature,
        "top_p": section.top_p,
        "max_new_tokens": section.max_tokens,
    }
    return {name: value for name, value in told.items() if value is not None}
