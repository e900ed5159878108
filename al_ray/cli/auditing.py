"""``al-ray audit``: what became of every sampled token of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.table import Table

from al_ray.reports.console import terminal
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.audit import audit as audited


def audit(run: Path) -> bool:
    """A table of tokens by what became of them and by policy version; whether every one is accounted for."""
    total, wrong, steps = Counter[tuple[str, int]](), 0, 0
    for step in audited(RunFolder.open(run)):
        steps += 1
        total.update(step.tokens)
        for told in step.wrong:
            wrong += 1
            terminal().print(f"step {step.step}: {told}", style="red")
    if not steps:
        terminal().print("no step of reinforcement has ended in this run: there is nothing to account for")
        return True
    versions = sorted({version for _, version in total})
    table = Table("tokens sampled", "all", *(f"v{version}" for version in versions))
    for fate in sorted({fate for fate, _ in total}, key=lambda fate: (fate != "trained", fate)):
        counts = [total[fate, version] for version in versions]
        table.add_row(fate, str(sum(counts)), *map(str, counts))
    terminal().print(table)
    ok = "each is trained once, context only, or dropped for the reason above"
    terminal().print(f"{steps} steps, {total.total()} tokens: {f'mistakes: {wrong}' if wrong else ok}")
    return not wrong
