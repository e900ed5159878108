"""What a measurement leaves behind: tables on the console, and ``measured.json`` in its folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from al_ray.evaluation.measured.agreement import Agreement, agreement, noise
from al_ray.evaluation.measured.credits import Said, Way
from al_ray.evaluation.measured.values import Diverged, MeasuredCall, Measurement, Value
from al_ray.machines.whole import whole_file_of_run
from al_ray.reports.console import Console
from al_ray.rollouts.outcome import errors
from al_ray.types import JSON

FILE_NAME: Final = "measured.json"
_TOLD: Final = 5
"""Divergences and errors that are told: the commonest."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A measurement beside what each credit says."""

    found: Measurement
    said: Mapping[Way, Said]
    own: Way
    """The stage's."""

    @property
    def known(self) -> Sequence[MeasuredCall]:
        """The calls that have a measured advantage."""
        return [call for call in self.found.calls if math.isfinite(call.advantage)]

    @property
    def noise(self) -> float:
        return noise([(call.advantage, call.stderr) for call in self.known])

    def agreements(self) -> Mapping[Way, Agreement]:
        """Of each way; one that agrees in all numbers with one before it is left out."""
        found: dict[Way, Agreement] = {}
        seen: list[Sequence[float]] = []
        for way, said in self.said.items():
            rollouts: dict[str, list[tuple[float, float]]] = {}
            for call in self.known:
                pair = said[call.rollout, call.call], call.advantage
                rollouts.setdefault(call.rollout, []).append(pair)
            numbers = [one for pairs in rollouts.values() for one, _ in pairs]
            if numbers not in seen or way == self.own:
                found[way] = agreement(list(rollouts.values()))
            seen.append(numbers)
        return found


def show(compared: Compared, console: Console, folder: Path) -> None:
    """Each call, each credit, and what could not be used. ``folder`` is the measurement's."""
    found, ways = compared.found, [way for way in compared.said if way[1] == compared.own[1]]
    console.table(
        f"Calls: values before and after, measured advantage, and what credits say ({_compared(compared)})",
        ("rollout", "call", "before", "after", "measured", *(credit for credit, _ in ways)),
        [
            (
                call.rollout,
                str(call.number) + (f" {call.agent}" if call.agent else ""),
                _value(call.before),
                _value(call.after),
                _number(call.advantage, call.stderr),
                *(f"{compared.said[way][call.rollout, call.call]:+.3f}" for way in ways),
            )
            for call in found.calls
        ],
    )
    console.table(
        "Agreement with the measured advantages",
        ("credit", "compare", "correlation", "95 % interval", "same sign", "calls"),
        [
            (
                f"{credit}{' (the stage)' * ((credit, compare) == compared.own)}",
                compare,
                *_agreement(each),
                each.calls,
            )
            for (credit, compare), each in compared.agreements().items()
        ],
    )
    _show_noise(compared.noise, console)
    _show_unused(found, console, folder)


def _compared(compared: Compared) -> str:
    return f"compared by {compared.own[1]}"


def _show_noise(share: float, console: Console) -> None:
    if math.isnan(share):
        return
    bound = math.sqrt(1 - share)
    console.note(
        f"\n{share:.0%} of the measured advantages' variance is sampling error: the truth itself would "
        f"correlate by about {bound:.2f}"
    )


def _show_unused(found: Measurement, console: Console, folder: Path) -> None:
    if found.diverged:
        console.note(
            f"\n{len(found.diverged)} of {found.rollouts} rollouts diverged: their agents asked otherwise "
            "than was recorded, and their returns are not used"
        )
        for each, count in _commonest(found.diverged):
            console.note(f"  {count} x {each.recorded}, call {each.told.call}: {each.told.difference}")
    if found.failed:
        reasons = Counter(reason for reason, _ in found.failed)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        console.note(f"\n{len(found.failed)} of {found.rollouts} rollouts have no return: {told}")
        for error in errors([outcome for _, outcome in found.failed])[:_TOLD]:
            console.note(f"  {error.count} x {error.error}: al-ray rollouts {folder} {error.rollout}")


def _commonest(diverged: Sequence[Diverged]) -> Sequence[tuple[Diverged, int]]:
    """One for each call of a recorded rollout, with how often it was made otherwise."""
    first: dict[tuple[str, int], Diverged] = {}
    counts = Counter[tuple[str, int]]()
    for each in diverged:
        place = each.recorded, each.told.call
        first.setdefault(place, each)
        counts[place] += 1
    return [(first[place], count) for place, count in counts.most_common(_TOLD)]


def write(compared: Compared, about: Mapping[str, JSON], folder: Path) -> Path:
    """``measured.json``, whole or not there; ``about`` tells what was measured."""
    found = compared.found
    told = {
        **about,
        "reward": found.primary,
        "samples": found.samples,
        "rollouts": found.rollouts,
        "stage": dict(zip(("credit", "compare"), compared.own, strict=True)),
        "calls": [_call(compared, call) for call in found.calls],
        "noise": compared.noise,
        "agreement": [
            {"credit": credit, "compare": compare, **asdict(each)}
            for (credit, compare), each in compared.agreements().items()
        ],
        "diverged": [
            {"rollout": each.rollout, "recorded": each.recorded, **asdict(each.told)}
            for each in found.diverged
        ],
        "failed": Counter(reason for reason, _ in found.failed),
    }
    path = folder / FILE_NAME
    with whole_file_of_run(path) as file:
        file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def _call(compared: Compared, call: MeasuredCall) -> JSON:
    return {
        "rollout": call.rollout,
        "number": call.number,
        "id": call.call,
        "agent": call.agent,
        "before": asdict(call.before),
        "after": asdict(call.after),
        "advantage": call.advantage,
        "stderr": call.stderr,
        "said": [
            {"credit": credit, "compare": compare, "advantage": said[call.rollout, call.call]}
            for (credit, compare), said in compared.said.items()
        ],
    }


def _value(value: Value) -> str:
    return "-" if math.isnan(value.mean) else f"{value.mean:.3f}"


def _number(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.3f}" if math.isnan(error) else f"{value:+.3f} ± {error:.3f}"


def _agreement(found: Agreement) -> tuple[str, str, str]:
    correlation = "-" if math.isnan(found.correlation) else f"{found.correlation:+.3f}"
    interval = "-" if math.isnan(found.low) else f"{found.low:+.2f} to {found.high:+.2f}"
    return correlation, interval, f"{found.same_sign} of {found.signed}"
