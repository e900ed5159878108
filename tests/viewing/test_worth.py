"""What calls were worth, as pages tell it."""

from __future__ import annotations

from pathlib import Path

from al_ray.run.recorded.worth import Worth
from al_ray.viewing.runs import Runs
from tests.support.runs.viewed import write_run


def test_the_worth_of_calls_is_told_once_their_step_has_ended(tiny_model: Path, tmp_path: Path) -> None:
    """Not when its rollouts have: judges and refills may follow."""
    folder = write_run(tiny_model, tmp_path / "out")
    [run] = Runs(folder.path).all()
    file = folder.path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    rollout = run.index.listing.rollout("step-000003/0/2")
    assert rollout is not None
    file.write_text("".join(lines[:4]))
    assert run.worths.of(rollout) == Worth(note="step 4 has not ended yet")
    file.write_text("half a li\n")
    assert "no line of metrics" in run.worths.of(rollout).note
    file.write_text("".join(lines))
    assert len(run.worths.of(rollout).calls) == 3
