"""What a run says while it runs: a growing table over a live status line on a terminal, and one
plain line an event, in the same columns, without escape codes, anywhere else.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final, TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from al_ray.errors import visible
from al_ray.reports.names import METRICS

PROGRESS_SECONDS: Final = 30.0
"""Off a terminal, a phase is told of at most this often."""
PART_SECONDS: Final = 5.0
"""Off a terminal, what is being started is told of as often."""
TOLD_SECONDS: Final = 1.0
"""What was started in less is not told of."""
_BAR_WIDTH: Final = 24
_UNLIMITED: Final = 1_000_000


_METRICS: Final = sorted((metric.column, metric.key) for metric in METRICS if metric.column is not None)
_COLUMNS: Final[Sequence[tuple[str, int]]] = (
    ("stage", 10),
    ("step", 9),
    *((column.title, column.width) for column, _ in _METRICS),
)
"""Title and width, the most wanted first: those that do not fit the terminal are left out."""


class Console:
    """Speaks to ``file`` (standard output), and lets nothing that agents wrote steer the terminal. Once it
    has been told of a phase it must be closed, or the terminal keeps a status line and no cursor."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._out = terminal(file)
        self._status = _Status()
        self._live: Live | None = None
        self._headed = False
        self._told_at = 0.0
        self._evaluations: dict[str, Sequence[object]] = {}
        """By name: one that is repeated, as a run went back to a checkpoint, takes the place of the first."""
        self._parts: list[str] = []
        """What is being started, one within another."""

    def header(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.note(line)

    def note(self, text: str) -> None:
        self._out.print(Text(visible(text)))

    def warning(self, text: str) -> None:
        """Something is not well, and what to do about it."""
        self._out.print(Text(visible(f"warning: {text}"), "yellow"))

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """What is being done now, and how far it is; cheap enough to be called for every rollout."""
        if name != self._status.name:
            self._told_at = time.monotonic()
        self._status.set(name, done, total)
        if self._out.is_terminal:
            if self._live is None:
                self._live = Live(self._status, console=self._out, refresh_per_second=4, transient=True)
                self._live.start()
        elif not self._parts and time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self.note(f"{'':<10}  {self._status.text()}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, ``name`` is being started: shown all the while, and with the time it took when it is done.
        How far it is may be told by ``phase``."""
        begun = time.monotonic()
        self._parts.append(name)
        self.phase(name)
        try:
            with self._told_all_the_while() if len(self._parts) == 1 else nullcontext():
                yield
        finally:
            self._parts.pop()
            self.phase(self._parts[-1] if self._parts else "start")
        took = time.monotonic() - begun
        if took >= TOLD_SECONDS:
            self.note(f"{'start':<10}  {name}: {took:.1f} s")

    @contextmanager
    def _told_all_the_while(self) -> Iterator[None]:
        """On a terminal the status line does so by itself."""
        if self._out.is_terminal:
            yield
            return
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(PART_SECONDS):
                self.note(f"{'':<10}  {self._status.text()}")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()

    def step(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """A row of the table, from what is logged of the step; a dash is not known, or means nothing here."""
        columns = self._fitting()
        if not self._headed:
            self._headed = True
            self._out.print(Text(_aligned([title for title, _ in columns], columns), "bold"))
        cells = [stage, f"{step}/{total}", *(compact(values.get(key)) for _, key in _METRICS)]
        self._out.print(Text(_aligned(cells, columns)))
        self._status.set("", None, None)  # the next step's first phase may be called as this one's last

    def evaluation(
        self,
        name: str,
        accuracy: float,
        stderr: float,
        count: int,
        seconds: float,
        gain: Sequence[float] = (),
    ) -> None:
        """``gain``: over the evaluation before on the same tasks, and the ends of its interval, NaN where
        none can be told."""
        value, interval = (f"{gain[0]:+.4f}", f"{gain[1]:+.4f} to {gain[2]:+.4f}") if gain else ("", "")
        if gain and math.isnan(gain[1]):
            interval = "-"
        self._evaluations[name] = (name, f"{accuracy:.4f}", f"± {stderr:.4f}", count, value, interval)
        told = f"{'evaluation':<10}  {name}: {accuracy:.4f} ± {stderr:.4f}, {count} tasks, {seconds:.1f} s"
        gained = f"; {value} ({interval}) since the one before" if gain else ""
        self._out.print(Text(told + gained, "cyan"))

    def forecast(self, told: str | None) -> None:
        """Of time and GPUs, if there is one."""
        if told is not None:
            self.note(f"{'forecast':<10}  {told}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """The first column is left-aligned, as are others that hold text; numbers are right-aligned."""
        self._out.print(Text(f"\n{title}", "bold"), _table(columns, rows), sep="\n")

    def close(self) -> None:
        """Ends the status line and sums up the evaluations."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._evaluations:
            columns = ("name", "accuracy", "std. error", "tasks", "gain", "its 95 % interval")
            self.table("Evaluations", columns, [*self._evaluations.values()])
            self._evaluations = {}

    def _fitting(self) -> Sequence[tuple[str, int]]:
        room = self._out.width
        fitting: list[tuple[str, int]] = []
        for title, width in _COLUMNS:
            room -= width + 2 * bool(fitting)
            if room < 0:
                break
            fitting.append((title, width))
        return fitting


class _Status:
    """The phase, how far it is, and how long it has lasted, as of when it is drawn."""

    def __init__(self) -> None:
        self.name = ""
        self._done: int | None = None
        self._total: int | None = None
        self._since = time.monotonic()
        self._spinner = Spinner("line", style="cyan")

    def set(self, name: str, done: int | None, total: int | None) -> None:
        if name != self.name:
            self._since = time.monotonic()
        self.name, self._done, self._total = name, done, total

    def text(self) -> str:
        parts = [self.name]
        if self._done is not None:
            parts.append(str(self._done) if self._total is None else f"{self._done}/{self._total}")
        return f"{' '.join(parts)}  {time.monotonic() - self._since:.0f} s"

    def __rich__(self) -> RenderableType:
        if not self.name:
            return Text()
        cells: list[RenderableType] = [self._spinner, Text(self.text(), no_wrap=True)]
        if self._done is not None and self._total:
            cells.append(ProgressBar(total=self._total, completed=self._done, width=_BAR_WIDTH))
        line = Table.grid(padding=(0, 1))
        line.add_row(*cells)
        return line


def terminal(file: TextIO | None = None) -> RichConsole:
    """A console for ``file`` that, off a terminal, neither colours nor wraps nor cuts off."""
    file = file or sys.stdout
    interactive = file.isatty()
    width = None if interactive else _UNLIMITED
    return RichConsole(file=file, force_terminal=interactive, width=width, markup=False, highlight=False)


def compact(value: float | None) -> str:
    """A whole number below 10,000 as it is, else three digits: 64, 0.0123, 12.3, 45.6k, 1.23e-05, -."""
    if value is None:
        return "-"
    if value == 0 or (isinstance(value, int) and abs(value) < 10_000):
        return f"{value:.0f}"
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.3g}")
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1e-3, "")):
        if unit <= abs(rounded) < 1e12:
            return f"{rounded / (unit if suffix else 1):#.3g}".rstrip(".") + suffix
    return f"{value:.2e}"


def _aligned(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    """The first to the left, the others to the right, of as many cells as there are columns."""
    widths = [width for _, width in columns]
    return "  ".join(
        f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, widths, strict=False))
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        told = (compact(cell) if isinstance(cell, float) else visible(str(cell)) for cell in row)
        table.add_row(*map(Text, told))
    return table
