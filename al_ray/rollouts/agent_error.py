"""What the text of an attempt's error says: in a line, and as a person reads it.

The text is what Python prints of an exception, often several of them in a chain, and sometimes no more than
a sentence. The frames of al_ray's own processes and of libraries lead to no cure; what does is the last frame
of the agent's own code. Pure functions of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from al_ray.errors import is_library
from al_ray.types import HOOK_FAILED, Attempt

_TRACEBACK: Final = "Traceback (most recent call last):"
_FRAME: Final = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_AROUND_THE_AGENT: Final = re.compile(r"/actors/(?:agent|runner)/")
_IN_A_GROUP: Final = re.compile(r"^(?: *\|)+ ?")
"""What stands before each line of an exception group."""
_AFTER: Final = f"\n\nagent.after{HOOK_FAILED}"
_SAID: Final = 300
"""Characters of an exception that are told in a line."""
_LONGEST_CYCLE: Final = 6
"""Frames that call each other in turn."""


@dataclass(frozen=True, slots=True)
class AgentError:
    """Why an attempt failed, in a line; where it was raised, as far as the agent's own code goes."""

    said: str
    file: str = ""
    """Empty where no code of the agent's was at work."""
    line: int = 0
    function: str = ""

    def __str__(self) -> str:
        inside = f", in {self.function}" if self.function else ""
        return f"{self.said} ({self.file}, line {self.line}{inside})" if self.file else self.said

    @property
    def kind(self) -> tuple[str, str, int]:
        """The same for errors that differ in what they tell of their task."""
        return self.said.partition(":")[0], self.file, self.line


def agent_error(attempt: Attempt) -> AgentError:
    """Of an attempt that did not succeed: what came first, where a hook failed after it."""
    text = (attempt.error or "").partition(_AFTER)[0]
    lines = [_IN_A_GROUP.sub("", line) for line in text.splitlines()]
    begin = max((i for i, line in enumerate(lines) if line.endswith(_TRACEBACK)), default=-1)
    raised = lines[begin + 1 :]
    said = next((line.strip() for line in raised if line[:1].strip()), str(attempt.status))[:_SAID]
    frames = [frame for line in raised if (frame := _FRAME.search(line))]
    own = _own([frame["file"] for frame in frames])
    for frame in reversed(frames):
        if frame["file"] in own:
            return AgentError(said, frame["file"], int(frame["line"]), frame["function"] or "")
    return AgentError(said)


def folded(text: str) -> str:
    """The text with the agent's own frames alone, those that repeat once; what is left out is counted."""
    frames = [frame["file"] for line in text.splitlines() if (frame := _FRAME.search(line))]
    own = _own(frames)
    told: list[str] = []
    for is_frame, blocks in groupby(_blocks(text), key=lambda block: _FRAME.search(block[0]) is not None):
        if not is_frame:
            told += [line for block in blocks for line in block]
            continue
        for is_own, run in groupby(blocks, key=lambda block: _file(block) in own):
            some = list(run)
            told += _unrepeated(some) if is_own else [_left_out(len(some))]
    return "\n".join(told)


def _own(files: Sequence[str]) -> set[str]:
    """The agent's own; of an agent that was installed as a package, the first."""
    inside = [file for file in files if not _AROUND_THE_AGENT.search(file)]
    own = {file for file in inside if not is_library(file)}
    return own or set(inside[:1])


def _blocks(text: str) -> list[list[str]]:
    """Each frame with the lines that show it, and every other line alone."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        bare = _IN_A_GROUP.sub("", line)
        of_frame = bool(blocks) and _FRAME.search(blocks[-1][0]) is not None
        if of_frame and bare.startswith("  ") and not _FRAME.search(line):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return blocks


def _file(block: Sequence[str]) -> str:
    frame = _FRAME.search(block[0])
    return frame["file"] if frame else ""


def _unrepeated(frames: Sequence[list[str]]) -> list[str]:
    told: list[str] = []
    at = 0
    while at < len(frames):
        length, times = max(
            ((length, _times(frames, at, length)) for length in range(1, _LONGEST_CYCLE + 1)),
            key=lambda cycle: (cycle[1] > 1) * cycle[0] * cycle[1],
        )
        told += [line for block in frames[at : at + length] for line in block]
        if times > 1:
            told.append(f"  ... {'this' if length == 1 else f'these {length}'} {times - 1} more times")
        at += length * times
    return told


def _times(frames: Sequence[list[str]], at: int, length: int) -> int:
    """How often the frames of this length repeat themselves from here on."""
    cycle = list(frames[at : at + length])
    times = 1
    while list(frames[at + times * length : at + (times + 1) * length]) == cycle:
        times += 1
    return times


def _left_out(count: int) -> str:
    return f"  ... {count} frame{'s' if count > 1 else ''} of libraries and of al_ray"
