"""What an exception becomes when it ends an attempt."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace

from al_ray.actors.agent.printed import ends_of, storable
from al_ray.errors import ToldError
from al_ray.types import Attempt, AttemptStatus


def failed(attempt: Attempt, error: BaseException) -> Attempt:
    """The attempt, ended by the exception that is being handled: its traceback and its class, as the store
    can hold them. User code may raise anything; ask ``is_cancelled`` whether a ``CancelledError`` is its."""
    if isinstance(error, ToldError):
        told, name = str(error), error.error_class
    else:
        told, name = traceback.format_exc(), f"{type(error).__module__}.{type(error).__qualname__}"
    return replace(attempt, status=AttemptStatus.FAILED, error=ends_of(told), error_class=storable(name))


def is_cancelled(error: BaseException) -> bool:
    """Whether ``error`` is the cancellation of the current task by others, and no user code's."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
