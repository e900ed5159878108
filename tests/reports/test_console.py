"""What a run says, on a terminal and elsewhere."""

from __future__ import annotations

import io
import itertools
import math
import re
import time
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.reports import console
from al_ray.reports.console import Console, compact

GRPO = {
    "reward/mean": 0.5,
    "optim/loss": 0.01234,
    "time/step": 12.34,
    "rollout/count": 64,
    "rollout/failed": 1,
    "rollout/response_tokens": 123.4,
    "perf/generated_tokens_per_s": 12345.6,
    "perf/trained_tokens_per_s": 999.9,
    "policy/entropy": 0.8,
    "optim/grad_norm": 1.2,
    "off_policy/staleness_max": 0,
    "rollout/calls": 7.7,
    "health/equal_groups": 0.125,
    "signals/truncated": 0.25,
    "off_policy/mismatch_kl": 1e-6,
    "health/without_calls": 0.0,
    "health/branches": 0.5,
    "health/wasted_tokens": 0.03125,
}
SUPERVISED = {
    "optim/loss": 2.5,
    "time/step": 2.0,
    "optim/grad_norm": 0.1,
    "perf/trained_tokens_per_s": 1500.0,
}
HEADER = (
    "stage            step   reward       loss  seconds  rollouts  failed   equal   tokens  gen tok/s"
    "  train tok/s   entropy  grad norm   stale  truncated  mismatch  no call  branches  wasted"
)
GRPO_LINE = (
    "grpo            21/80    0.500     0.0123     12.3        64       1   0.125      123      12.3k"
    "        1.00k     0.800       1.20       0      0.250  1.00e-06        0     0.500  0.0312"
)


def _say_everything(said: Console) -> None:
    said.header(["al_ray  [bold]run[/bold]"])
    said.phase("rollouts", 1, 4)
    said.step("supervised", 1, 80, SUPERVISED)
    said.phase("rollouts", 3, 4)
    said.step("grpo", 21, 80, GRPO)
    said.note("a [red]note[/red]")
    said.evaluation("untrained", 0.25, 0.04, 128, 3.0)
    said.evaluation("step 20", 0.5, 0.04, 128, 3.0)
    said.evaluation("step 20", 0.75, 0.04, 128, 3.0)
    said.evaluation("after grpo", 0.8125, 0.034, 128, 3.0, (0.5625, 0.46, 0.65))
    said.evaluation("without an interval", 0.5, 0.0, 2, 3.0, (0.25, math.nan, math.nan))
    said.table("Placement", ("bundle", "tenants"), [(0, "engine 0, learner 0")])
    said.close()


def test_off_a_terminal_there_is_one_aligned_line_an_event_without_escape_codes() -> None:
    file = io.StringIO()
    _say_everything(Console(file))
    text = file.getvalue()
    assert "\x1b" not in text and "[bold]run[/bold]" in text and "[red]note[/red]" in text
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    header, supervised, grpo = lines[at : at + 3]
    assert (header, grpo) == (HEADER, GRPO_LINE)
    assert len(supervised) == len(header)
    assert supervised[: header.index("reward") + len("reward")].endswith(" -")


def test_the_end_sums_up_every_evaluation_as_it_was_made_last() -> None:
    file = io.StringIO()
    _say_everything(Console(file))
    summary = [line.split() for line in file.getvalue().partition("Evaluations")[2].splitlines()]
    assert ["untrained", "0.2500", "±", "0.0400", "128"] in summary
    assert [line[2] for line in summary if line[:1] == ["step"]] == ["0.7500"]
    gained = ["+0.5625", "+0.4600", "to", "+0.6500"]
    assert ["after", "grpo", "0.8125", "±", "0.0340", "128", *gained] in summary
    assert ["without", "an", "interval", "0.5000", "±", "0.0000", "2", "+0.2500", "-"] in summary


def test_off_a_terminal_a_phase_is_told_of_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    said = Console(file)
    for done in range(50):
        said.phase("rollouts", done, 64)
    assert file.getvalue() == ""
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0.0)
    said.phase("rollouts", 50, 64)
    assert file.getvalue().strip() == "rollouts 50/64  0 s"


def test_each_steps_phases_last_from_their_own_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last step ended in one of the same name, as steps of imitation do."""
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0.0)
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    file = io.StringIO()
    said = Console(file)
    for step in (1, 2):
        said.phase("update")
        now += 100
        said.step("supervised", step, 2, {})
    now += 1
    said.phase("update")
    assert file.getvalue().splitlines()[-1].strip() == "update  0 s"


def test_what_is_started_is_told_all_the_while_and_with_the_time_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Off a terminal a line every few seconds, though nobody tells of progress; the innermost part's."""
    monkeypatch.setattr(console, "PART_SECONDS", 0.1)
    monkeypatch.setattr(console, "TOLD_SECONDS", 0.2)
    file = io.StringIO()
    said = Console(file)
    with said.part("learners"), said.part("engines"):
        said.phase("engines", 1, 2)
        time.sleep(0.45)
    with said.part("store"):
        pass
    lines = [line.strip() for line in file.getvalue().splitlines()]
    assert lines.count("engines 1/2  0 s") >= 2
    assert [re.sub(r"[\d.]+ s", "", line) for line in lines if line.startswith("start")] == [
        "start       engines: ",
        "start       learners: ",
    ]
    said_until_now = file.getvalue()
    time.sleep(0.3)
    assert file.getvalue() == said_until_now


def test_what_takes_long_is_told_no_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock by which a quarter of an hour passes whenever it is looked at."""
    assert console.PART_SECONDS <= 5
    monkeypatch.setattr(console, "PART_SECONDS", 0.01)
    now = itertools.count(0.0, 900.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    told: SimpleQueue[str] = SimpleQueue()

    class Listened(io.StringIO):
        def write(self, text: str) -> int:
            told.put(text)
            return super().write(text)

    with Console(Listened()).part("engines"):
        assert all("engines" in told.get(timeout=60) for _ in range(3))


def test_a_part_that_fails_is_told_no_more() -> None:
    file = io.StringIO()
    with pytest.raises(ValueError), Console(file).part("engines"):
        raise ValueError("no memory")
    assert file.getvalue() == ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 200])
def test_a_terminal_shows_the_same_rows_within_its_width_and_gets_its_cursor_back(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    file = _Terminal()
    _say_everything(Console(file))
    text = file.getvalue()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    header = next(line for line in re.split(r"[\r\n]+", plain) if line.startswith("stage"))
    assert ("stale" in header) == (columns == 200) and "reward" in header
    assert len(header.rstrip()) <= columns
    assert "rollouts 1/4" in plain and "grpo" in plain


@pytest.mark.parametrize("kind", [io.StringIO, _Terminal])
def test_what_agents_wrote_does_not_steer_the_terminal(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their errors are told in warnings, the names and values of their metrics in tables."""
    monkeypatch.setenv("COLUMNS", "200")
    file = kind()
    said = Console(file)
    hostile = "ValueError: \x1b[2J\x1b]0;owned\x07\r \ud800"
    said.note(hostile)
    said.warning(hostile)
    said.table("Metrics", ("metric",), [(hostile,)])
    said.close()
    text = file.getvalue()
    assert text.count(r"ValueError: \x1b[2J\x1b]0;owned\x07\r \ud800") == 3
    assert not [code for code in ("\x1b[2J", "\x1b]", "\x07", "\r", "\ud800") if code in text]


def test_numbers_are_compact() -> None:
    values = [None, 0.0, 64, 0.5, 12.34, 999.9, 999_999, 45_600.0, 1e-5, math.nan, 1234]
    told = ["-", "0", "64", "0.500", "12.3", "1.00k", "1.00M", "45.6k", "1.00e-05", "nan", "1234"]
    assert [compact(value) for value in values] == told


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_a_compact_number_is_short_and_within_half_a_percent(value: float) -> None:
    text = compact(value)
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    read = float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)
    assert len(text) <= 10
    assert read == pytest.approx(value, rel=0.005, abs=1e-320)
