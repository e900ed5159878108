"""What an exception becomes when it ends an attempt."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import replace

from al_ray.actors.agent.printed import storable
from al_ray.errors import ToldError
from al_ray.types import Attempt, AttemptStatus

CAUGHT = (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError)
"""What user code may raise without ending more than its attempt; ask ``is_cancelled`` about the last."""


def failed(attempt: Attempt, error: BaseException) -> Attempt:
    """The attempt, ended by the exception that is being handled: its traceback and its class."""
    if isinstance(error, ToldError):
        told, name = str(error), error.error_class
    else:
        told, name = traceback.format_exc(), f"{type(error).__module__}.{type(error).__qualname__}"
    return replace(attempt, status=AttemptStatus.FAILED, error=storable(told), error_class=name)


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, so that the ``CancelledError`` is no user code's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
