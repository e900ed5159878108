"""Fixtures shared by all rooms: a tiny model folder that vLLM and transformers load."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.machines.processes import STARTUP

# What hundreds of imported modules made is looked through for garbage a tenth of the time otherwise.
gc.set_threshold(50_000, 50, 100)
# A quarter of the time in the processes that are started here.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(STARTUP), os.environ.get("PYTHONPATH"))))
# Several workers share the processors: threads of one computation would busily wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts a worker for each core as soon as somebody comes, half a second each, and they stay idle.
os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112
# A node is dead after five looks that it refuses: after 15 s, else. One that is only slow has 10 s for each.
os.environ["RAY_health_check_period_ms"] = "500"  # noqa: SIM112
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


SLOWEST_FIRST = (
    "run/whole/test_driver.py",
    "cli/test_job_submit.py",
    "run/faults/test_moments.py",
    "run/faults/test_deaths.py",
    "actors/learner/test_group.py",
    "machines/test_cluster.py",
    "actors/engine/pool/test_pool.py",
    "run/faults/test_cut_off_nodes.py",
    "actors/engine/pool/test_faults.py",
    "run/whole/test_policies.py",
    "run/whole/test_stages.py",
    "actors/gateway/test_pool.py",
    "run/whole/test_asynchronous_run.py",
    "run/faults/test_node_moments.py",
    "run/recorded/test_measure.py",
    "run/whole/test_health.py",
    "actors/engine/pool/test_lost_weights.py",
    "actors/engine/test_adapter.py",
    "evaluation/test_evaluate.py",
    "run/faults/test_leaving.py",
    "actors/service/test_pool.py",
    "actors/runner/test_pool.py",
    "actors/store/test_actor.py",
    "actors/engine/test_experts.py",
    "benchmarks/test_soak.py",
    "run/faults/test_spot_nodes.py",
    "actors/agent/test_isolation.py",
    "actors/runner/test_elastic.py",
    "actors/gateway/test_openapi.py",
    "actors/engine/pool/test_elastic.py",
    "actors/engine/pool/test_draining.py",
    "actors/agent/walls/test_cli_agent.py",
    "run/starter/test_project.py",
    "evaluation/measured/test_values.py",
    "actors/store/test_keeper.py",
    "actors/engine/test_actor.py",
    "cli/test_trying.py",
    "actors/agent/walls/test_walls.py",
    "models/test_folders.py",
    "envs/calc_x/test_autogen_agent.py",
    "actors/agent/test_frameworks.py",
    "viewing/test_pages.py",
)
"""The files that take half a minute and more: begun last, one of them would be alone in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take file after file in the order of the items.

    pytest-xdist runs one test of each id, but pytest 9.2 gives the same id to all that schemathesis makes
    of one function: they get their names for ids."""
    for item in items:
        if not item.nodeid.endswith(item.name):
            assert item.parent is not None
            item._id = item.parent.id.child(item.name)
    assert len({item.nodeid for item in items}) == len(items)
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOWEST_FIRST)}
    assert all(path.exists() for path in places), (
        "SLOWEST_FIRST in tests/conftest.py names a file that is gone"
    )
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """What was imported and collected stays. Else pytest looks through it five times at its end."""
    gc.freeze()


CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
{{- '<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""ChatML with tools in the Hermes format."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``write_tiny_model``'s."""
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(folder)
    return folder


def write_tiny_model(folder: Path, kind: str = "llama", **own: Any) -> None:
    """A random Llama (hidden 64, head 32, 2 layers, tied embeddings, float32), or another ``kind`` of such a
    model, and a byte-level tokenizer whose end of turn is ``<|im_end|>``. ``own`` is of the config."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {
        token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **(shape | own))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session alone, on this machine."""
    from tests.support.machines.postgresql import postgresql_server

    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Another empty database with each call, of each kind in turn."""
    from al_ray.database.backends import postgresql_url, sqlite_url

    if request.param == "sqlite":
        return lambda: sqlite_url(tmp_path / f"store-{uuid.uuid4().hex}.sqlite")
    server = request.getfixturevalue("postgresql")
    return lambda: postgresql_url(server, f"test_{uuid.uuid4().hex}")


@pytest.fixture
def store_url(new_store_url: Callable[[], str]) -> str:
    """A database of this test alone, of each kind in turn."""
    return new_store_url()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this session alone, on this machine."""
    import ray

    from al_ray.machines import cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    # How much of the machine each process takes is for a dashboard: else it is counted every 5 s.
    os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"
    # It follows the logs of every actor that a session starts, for nobody: a fiftieth of all computing.
    ray._private.node.Node.start_log_monitor = lambda self: None
    # Nor are there nodes to be had.
    ray._private.node.Node.start_monitor = lambda self: None
    cluster.start_node(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def joining(ray_cluster: None) -> Mapping[str, str]:
    """The variables with which a command joins that cluster. Starting one of its own, with its dashboard,
    is a fifth of the computing of a small run."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "disabled"}
