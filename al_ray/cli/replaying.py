"""``al-ray replay``: a recorded step, computed once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from al_ray.errors import Problem, UserError
from al_ray.recipe import loading
from al_ray.reports.console import terminal
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.replay import Step, calls, differences, logged
from al_ray.run.recorded.replay import replay as replayed
from al_ray.run.recorded.worth import CallRow

_SHOWN = 20
_COLUMNS = ("rollout", "call", "agent", "tokens", "reward", "intermediate", "return", "advantage", "weight")


def replay(run: Path, step: int, rollout: str | None, overrides: Sequence[str]) -> bool:
    """What the calls of the step were worth, and whether every figure is what the run logged; with
    ``overrides``, where a recipe so changed would have differed."""
    folder = RunFolder.open(run)
    told = logged(folder, step)
    recipe = loading.load_changed(folder.recipe_file, overrides) if overrides else None
    own = replayed(folder, step, folder.recipe())
    changed = replayed(folder, step, recipe) if recipe else None
    here, there = _by_call(own), _by_call(changed) if changed else None
    _show_calls(step, here, there, rollout)
    wrong = list(differences(own.figures, told))
    shared = len(own.figures.keys() & told.keys())
    for key, ours, theirs in wrong:
        terminal().print(f"{key}: {ours!r}, but the run logged {theirs!r}", style="red")
    loss, norm = own.figures["optim/loss"], own.figures["optim/grad_norm"]
    equal = f"{shared - len(wrong)} of {shared} figures are equal bit for bit to what the run logged"
    terminal().print(f"step {step}: loss {loss:.6g}, gradient norm {norm:.6g}; {equal}")
    if changed is not None and there is not None:
        _show_differences(here, there)
        for key, ours, theirs in differences(own.figures, changed.figures):
            terminal().print(f"  {key}: {ours:.6g}, changed {theirs:.6g}")
    return not wrong


_Calls = Mapping[tuple[str, int], CallRow]


def _by_call(step: Step) -> _Calls:
    return {(call.rollout, call.number): call for call in calls(step)}


def _show_calls(step: int, here: _Calls, there: _Calls | None, rollout: str | None) -> None:
    """Of one rollout, or the largest advantages of all."""
    found = list(here.values())
    if rollout is not None:
        found = [call for call in found if call.rollout == rollout]
        if not found:
            raise UserError(Problem("ROLLOUT", rollout, f"is not learnt from in step {step}"))
    else:
        found = sorted(found, key=lambda call: -abs(call.advantage))[:_SHOWN]
    table = Table(*_COLUMNS, *(["changed"] if there is not None else []))
    for call in found:
        cells = [*_cells(call)]
        if there is not None:
            other = there.get((call.rollout, call.number))
            cells.append(f"{other.advantage:+.4f}" if other else "none")
        table.add_row(*cells)
    terminal().print(table)


def _cells(call: CallRow) -> Sequence[str]:
    returned = "" if call.returned is None else f"{call.returned:.4g}"
    numbers = (f"{call.reward:.4g}", f"{call.intermediate:.4g}", returned)
    return (
        call.rollout,
        str(call.number),
        call.agent,
        str(call.tokens),
        *numbers,
        f"{call.advantage:+.4f}",
        f"{call.weight:.3g}",
    )


def _show_differences(here: _Calls, there: _Calls) -> None:
    both = here.keys() & there.keys()
    rewards = sum(here[call].reward != there[call].reward for call in both)
    advantages = sum(here[call].advantage != there[call].advantage for call in both)
    gone, new = len(here.keys() - both), len(there.keys() - both)
    terminal().print(
        f"changed: {rewards} calls have another reward, {advantages} another advantage, {gone} would not "
        f"be learnt from, {new} would beside them"
    )
