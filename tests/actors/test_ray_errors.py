"""Our errors cross Ray whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import ray

from al_ray import errors
from al_ray.actors.ray_errors import unwrapped

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
