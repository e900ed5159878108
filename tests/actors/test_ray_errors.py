"""Our errors cross Ray whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from al_ray import errors
from al_ray.actors.ray_errors import DIED, in_brief, unwrapped
from tests.support.machines.processes import ROOT, Command

PROBLEM = errors.Problem("recipe: model.path", "x", "no such folder")
ARGUMENTS: Mapping[type[errors.AlRayError], tuple[Any, ...]] = {
    errors.ToldError: ("why", "builtins.ValueError"),
    errors.HostedModelError: (502, "why"),
    errors.UnreadableError: ("r", "why"),
}


def example(error_type: type[errors.AlRayError]) -> errors.AlRayError:
    if issubclass(error_type, errors.UserError):
        return error_type(PROBLEM, PROBLEM)
    return error_type(*ARGUMENTS.get(error_type, ("why",)))


EXAMPLES = [
    example(error_type)
    for error_type in vars(errors).values()
    if isinstance(error_type, type) and issubclass(error_type, errors.AlRayError)
]


class Raiser:
    async def fail(self, error: Exception) -> None:
        raise error

    async def pieces(self, error: Exception) -> AsyncIterator[int]:
        yield 1
        raise error


@pytest.fixture(scope="module")
def raiser(ray_cluster: None) -> Iterator[Any]:
    actor = ray.remote(Raiser).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
async def test_what_an_actor_raises_is_what_its_caller_catches(raiser: Any, error: Exception) -> None:
    """By type and by message, from calls and from streams."""
    with pytest.raises(errors.AlRayError) as called, unwrapped():
        await raiser.fail.remote(error)
    with pytest.raises(errors.AlRayError) as streamed, unwrapped():
        async for piece in raiser.pieces.options(num_returns="streaming").remote(error):
            await piece
    for caught in (called.value, streamed.value):
        assert type(caught) is type(error)
        assert str(caught) == str(error)
        assert getattr(caught, "problems", None) == getattr(error, "problems", None)


async def test_what_is_not_ours_stays_wrapped_with_its_remote_traceback(raiser: Any) -> None:
    with pytest.raises(ray.exceptions.RayTaskError, match="in fail"), unwrapped():
        await raiser.fail.remote(ZeroDivisionError("x"))


FULL = """
import time, ray
from al_ray.actors.ray_errors import DIED, in_brief
from al_ray.machines import cluster

@ray.remote(num_cpus=0)
class Waiting:
    def wait(self):
        time.sleep(600)

with cluster.running(dashboard=False):
    try:
        ray.get(Waiting.remote().wait.remote())
    except DIED as error:
        print("it died:", type(error).__name__, in_brief(error))
"""


def test_an_actor_that_ray_ends_for_want_of_memory_has_died_like_others(tmp_path: Path) -> None:
    """Here one hundredth of the memory counts as full."""
    (tmp_path / "full.py").write_text(FULL)
    full = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    with Command(["full"], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}", **full) as command:
        assert command.wait() == 0, command.output
    assert re.search(r"it died: OutOfMemoryError .*low on memory", command.output), command.output


def test_what_a_death_is_told_by_is_the_line_that_says_most() -> None:
    full = ray.exceptions.OutOfMemoryError("killed for memory\nsee https://docs")
    assert in_brief(full) == "killed for memory"
    assert in_brief(ValueError("Traceback\n  of much\nValueError: why")) == "ValueError: why"
    assert in_brief(ValueError()) == "ValueError"
    assert issubclass(ray.exceptions.ActorDiedError, DIED)
