"""``al-ray replay``: a recorded step, computed once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from al_ray.errors import Problem, UserError
from al_ray.recipe import loading
from al_ray.reports.console import terminal
from al_ray.run.folder import RunFolder
from al_ray.run.replay import CallRow, Step, calls, differences, logged
from al_ray.run.replay import replay as replayed

_SHOWN = 20
_COLUMNS = ("rollout", "call", "agent", "tokens", "reward", "intermediate", "return", "advantage", "weight")


def replay(run: Path, step: int, rollout: str | None, overrides: Sequence[str]) -> bool:
    """What the calls of the step were worth, and whether every figure is what the run logged; with
    ``overrides``, where a recipe so changed would have differed."""
    folder = RunFolder.open(run)
    told = logged(folder, step)
    recipe = loading.load(folder.path / "recipe.yaml", overrides) if overrides else None
    own = replayed(folder, step, folder.recipe())
    changed = replayed(folder, step, recipe) if recipe else None
    _show_calls(own, changed, rollout)
    wrong = list(differences(own.figures, told))
    shared = len(own.figures.keys() & told.keys())
    for key, here, there in wrong:
        terminal().print(f"{key}: {here!r}, but the run logged {there!r}", style="red")
    loss, norm = own.figures["optim/loss"], own.figures["optim/grad_norm"]
    equal = f"{shared - len(wrong)} of {shared} figures are equal bit for bit to what the run logged"
    terminal().print(f"step {step}: loss {loss:.6g}, gradient norm {norm:.6g}; {equal}")
    if changed is not None:
        _show_differences(own, changed)
    return not wrong


def _show_calls(own: Step, changed: Step | None, rollout: str | None) -> None:
    """Of one rollout, or the largest advantages of all."""
    found = list(calls(own))
    if rollout is not None:
        found = [call for call in found if call.rollout == rollout]
        if not found:
            raise UserError(Problem("ROLLOUT", rollout, f"is not learnt from in step {own.number}"))
    else:
        found = sorted(found, key=lambda call: -abs(call.advantage))[:_SHOWN]
    others = {(call.rollout, call.number): call for call in calls(changed)} if changed else {}
    table = Table(*_COLUMNS, *(["changed"] if changed else []))
    for call in found:
        other = others.get((call.rollout, call.number))
        table.add_row(*_cells(call), *([f"{other.advantage:+.4f}" if other else "none"] if changed else []))
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


def _show_differences(own: Step, changed: Step) -> None:
    here = {(call.rollout, call.number): call for call in calls(own)}
    there = {(call.rollout, call.number): call for call in calls(changed)}
    both = here.keys() & there.keys()
    rewards = sum(here[call].reward != there[call].reward for call in both)
    advantages = sum(here[call].advantage != there[call].advantage for call in both)
    gone, new = len(here.keys() - both), len(there.keys() - both)
    terminal().print(
        f"changed: {rewards} calls have another reward, {advantages} another advantage, {gone} would not "
        f"be learnt from, {new} would beside them"
    )
    for key, ours, theirs in differences(own.figures, changed.figures):
        terminal().print(f"  {key}: {ours:.6g}, changed {theirs:.6g}")
