"""What an agent prints, kept with its attempt: the beginning and the end, and how much lay between.

Agents that share the runner's process are told apart by a context variable, which tasks and
``asyncio.to_thread`` inherit; a thread that an agent starts by itself prints where the runner does.
"""

from __future__ import annotations

import sys
import time
import uuid
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from al_ray.traces import semconv
from al_ray.types import Attempt, Span, SpanKind

HEAD_BYTES: Final = 16 * 2**10
TAIL_BYTES: Final = 48 * 2**10
"""More of the end: there stand results and causes."""


class KeptText:
    """The first ``HEAD_BYTES`` and the last ``TAIL_BYTES`` of a text of any length, in UTF-8."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def write(self, data: bytes) -> None:
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * TAIL_BYTES:
            self._trim()

    @property
    def text(self) -> str:
        """What is kept; what cannot be stored as text, in backslash escapes."""
        self._trim()
        gap = f"\n[... {self._left_out} bytes left out ...]\n".encode() if self._left_out else b""
        return storable(bytes(self._head + gap + self._tail).decode("utf-8", "backslashreplace"))

    @property
    def last_line(self) -> str:
        """The last line that is not blank, or as much of it as was kept."""
        lines = self.text.rstrip().rsplit("\n", 1)
        return lines[-1].strip()

    def _trim(self) -> None:
        surplus = max(0, len(self._tail) - TAIL_BYTES)
        del self._tail[:surplus]
        self._left_out += surplus


class LastLine:
    """Keeps what is written in ``kept``, and the last line that is not blank whole, up to ``max_bytes``."""

    def __init__(self, kept: KeptText, max_bytes: int) -> None:
        self._kept = kept
        self._max_bytes = max_bytes
        self._last = _Line(max_bytes)
        self._open = _Line(max_bytes)

    def write(self, data: bytes) -> None:
        self._kept.write(data)
        first, *others = data.split(b"\n")
        self._open.add(first)
        if others:
            self._end_line()
            *whole, begun = others
            self._open.add(next((line for line in reversed(whole) if line.strip()), b""))
            self._end_line()
            self._open.add(begun)

    def get(self) -> tuple[bytes, int]:
        """The line, or its beginning, and how long it was."""
        self._end_line()
        return bytes(self._last.text), self._last.size

    def _end_line(self) -> None:
        if self._open.text.strip():
            self._last = self._open
        self._open = _Line(self._max_bytes)


class _Line:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.text = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        self.text += data[: self._max_bytes - len(self.text)]
        self.size += len(data)


class Printed:
    """Standard output and standard error of one attempt."""

    def __init__(self) -> None:
        self.stdout = KeptText()
        self.stderr = KeptText()
        self._started = time.time()

    def context(self) -> Context:
        """A copy of the current context, in which what is printed is kept here."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    def spans(self, attempt: Attempt) -> list[Span]:
        """The event that is stored; none if nothing was printed."""
        told = {semconv.STDOUT: self.stdout.text, semconv.STDERR: self.stderr.text}
        told = {name: text for name, text in told.items() if text}
        if not told:
            return []
        return [
            Span(
                id=uuid.uuid4().hex,
                rollout_id=attempt.rollout_id,
                attempt=attempt.number,
                kind=SpanKind.EVENT,
                name=semconv.AGENT_OUTPUT,
                start=self._started,
                end=time.time(),
                attributes=told,
            )
        ]


_current: ContextVar[Printed | None] = ContextVar("printed", default=None)


class _Routed:
    """``sys.stdout`` or ``sys.stderr``: writes to the attempt in whose context it is called, if any."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._runners_own: Any = getattr(sys, name)

    def write(self, text: str) -> int:
        printed = _current.get()
        if printed is None:
            return self._runners_own.write(text)
        getattr(printed, self._name).write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runners_own, name)


def route_prints() -> None:
    """From now on, what is printed in an attempt's context is kept with it. Before any code of the user's is
    imported: its log handlers then write there too."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _Routed):
            setattr(sys, name, _Routed(name))


def ends_of(text: str) -> str:
    """``text`` as it can be stored: of a long one its beginning and its end."""
    kept = KeptText()
    kept.write(text.encode("utf-8", "backslashreplace"))
    return kept.text


def storable(text: str) -> str:
    """``text`` without what no database takes as text: lone surrogates and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
