"""Errors that al_ray raises, named by whose mistake or which boundary they report.

``UserError`` is printed without a traceback and ends the command with exit code 2, ``UselessRunError``
with 1. Everything else is a fault of the system and keeps its traceback.
"""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LIBRARY = re.compile(r"(?:^|/)(?:site|dist)-packages/|/lib(?:64)?/python3[.\d]*/|^<")
"""In the path of a file that came with an interpreter or a package."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class AlRayError(Exception):
    """Base of every error raised on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what stands there, and what would be right."""

    where: str
    value: object
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.value!r}: {self.cure}"


class UserError(AlRayError):
    """What the user asked for cannot be done as asked."""

    def __init__(self, *problems: Problem) -> None:
        self.problems: Sequence[Problem] = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[Problem, ...]]:
        return type(self), tuple(self.problems)


class RecipeError(UserError):
    """The recipe is wrong."""


class PlacementError(UserError):
    """The cluster lacks what the recipe needs."""


class DataError(UserError):
    """A dataset is missing or has a row of the wrong shape."""


class NoStoreError(UserError):
    """Of a run that has not begun to write, or whose store was removed."""


class UselessRunError(AlRayError):
    """To go on would teach nothing: every rollout failed, or none asked the model."""


class AttemptEndedError(AlRayError):
    """The key or the lease belongs to an attempt that has ended, or to none."""


class AgentExitError(AlRayError):
    """An agent's process ended otherwise than it should, or without an answer."""


class RewardError(AlRayError):
    """An attempt without a reward, or with one that is no finite number."""


class UnreadableError(AlRayError):
    """The spans of one rollout hold what cannot be read; nobody else's are in question."""

    def __init__(self, rollout_id: str, reason: str) -> None:
        self.rollout_id = rollout_id
        self.reason = reason
        super().__init__(rollout_id, reason)

    def __str__(self) -> str:
        return f"the spans of rollout {self.rollout_id} cannot be read: {self.reason}"


class ToldError(AlRayError):
    """An error of another process, or of a hook, as it is told: ``str`` of it holds the traceback."""

    def __init__(self, told: str, error_class: str) -> None:
        self.error_class = error_class
        super().__init__(told)

    def __reduce__(self) -> tuple[type[ToldError], tuple[str, str]]:
        return type(self), (str(self), self.error_class)


class BadRequestError(AlRayError):
    """A request to the model that no engine could serve; the agent's mistake."""


class ContextLengthError(BadRequestError):
    """The prompt leaves no room for a response."""


class LimitReachedError(BadRequestError):
    """The attempt has used up what the recipe allows one."""


class DivergedError(BadRequestError):
    """An agent that repeats a recorded rollout asks for what was not asked there."""


class HostedModelError(AlRayError):
    """A hosted model refused the call, or did not answer it."""

    def __init__(
        self, status: int, message: str, code: str | None = None, retry_after: str | None = None
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        """As its own API has it."""
        self.retry_after = retry_after
        """As its own answer's header has it."""
        super().__init__(status, message, code, retry_after)


class EngineUnavailableError(AlRayError):
    """An engine could not answer the call, or not to its end."""


class LearnerLostError(AlRayError):
    """The process of a learner died; what the learners held since the last checkpoint is lost."""


class WeightsLostError(AlRayError):
    """Weights that a learner stored for engines are gone with it."""


class CheckpointError(AlRayError):
    """A checkpoint could not be written, or is damaged."""


class DiskError(AlRayError):
    """The disk, or shared memory, does not take what a run writes there."""

    @classmethod
    def of(cls, place: Path, what: str, error: Exception) -> DiskError:
        """Says where, why, and how much room is left there."""
        free = shutil.disk_usage(place.parent).free
        return cls(f"{place}: {what} could not be written: {error} ({free / 2**30:.2f} GiB are free there)")


class StoreError(AlRayError):
    """The store cannot be written: the disk takes nothing more, or another process does not end what it
    writes."""


class UnresponsiveError(AlRayError):
    """A process did not answer in time: it is stopped, stuck or out of reach."""


class ServiceUnavailableError(AlRayError):
    """A service of the recipe died again and again."""


def is_library(file: str) -> bool:
    """Whether a frame in this file is no code of the user's."""
    return _LIBRARY.search(file) is not None


def in_a_line(error: BaseException) -> str:
    """What was raised, and the last place on its way that is no library's."""
    said = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_library(frame.filename)] or frames
    file, line = (own[-1].filename, own[-1].lineno) if own else ("", None)
    if isinstance(error, SyntaxError):
        file, line = error.filename or "", error.lineno
    return f"{said} ({file}, line {line})" if file else said


def visible(text: str) -> str:
    """With what would steer the terminal, or cannot be written to it, as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
