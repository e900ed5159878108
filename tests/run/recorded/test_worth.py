"""What the calls of a rollout were worth, from what a run has recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_ray.database.writer import Database
from al_ray.recipe import loading
from al_ray.rollouts.reading.search import find
from al_ray.run.folder import RunFolder
from al_ray.run.recorded.worth import Worth, worth
from tests.support.runs import quiz
from tests.support.runs.recorded import record_samples


@pytest.mark.parametrize("kl", [False, True])
def test_advantages_are_those_of_the_step_once_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl: bool
) -> None:
    """By the recipe's algorithm: two rollouts rewarded 1 and 0 lie half from their mean, or that in standard
    deviations. What only the learners could tell of the calls is left out, and that is said."""
    monkeypatch.delenv("AL_RAY_DATA", raising=False)
    content = quiz.recipe(tmp_path / "out")
    content["stages"][0] |= {"group_size": 2, "groups_per_step": 2}
    content["stages"][0] |= {"kl_coefficient": 0.1, "kl_in": "reward", "scale": "none"} if kl else {}
    folder = RunFolder.create(loading.load(quiz.write_recipe(tmp_path, content)), "a")
    database = Database(folder.store_url)
    samples = {"u1": [(1.0, ["yes", "so"]), (0.0, ["no"])], "u2": [(0.5, ["yes"]), (None, ["?"])]}
    record_samples(database, "step-000000", samples, "train")
    record_samples(database, "eval/step-000000", {"t1": [(1.0, ["yes"])]})
    better = find(database, "step-000000/0/0")
    assert worth(folder, database, better) == Worth(note="step 1 has not ended yet")
    (folder.path / "metrics.jsonl").write_text('{"step": 1, "optim/loss": 0.0}\n', encoding="utf-8")
    found = [worth(folder, database, find(database, f"step-000000/{name}")) for name in ("0/0", "0/1", "1/0")]
    of_eval = worth(folder, database, find(database, "eval/step-000000/0/0"))
    (folder.path / "metrics.jsonl").write_text("half a li\n", encoding="utf-8")
    assert "no line of metrics" in worth(folder, database, better).note
    database.close()
    half = pytest.approx(0.5 if kl else 0.5**0.5, rel=1e-3)
    assert found[0].advantages == {f"step-000000/0/0/c{call}/0": half for call in (0, 1)}
    assert [-value for value in found[1].advantages.values()] == [half]
    assert ("al-ray replay RUN 1 has that" in found[0].note) is kl
    assert found[2].note.startswith("dropped: without a reward, a trained call, or others")
    assert of_eval == Worth()
