"""A whole run on which a fault is laid at each of its moments: parts are killed and stopped, and the room for
what they write ends. Only the engines have no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.runs.moments import DRIVER, Fault, Trial

pytestmark = pytest.mark.slow

OTHERS = ("engine", "store", "gateway", "door", "runner")
"""Than the learner, whose death takes the run back to its last checkpoint."""
KILLED = (
    Fault("idle", "killed", OTHERS),
    Fault("rollouts", "killed", ["engine"]),
    Fault("rollouts", "killed", ["gateway"]),
    Fault("rollouts", "killed", ["store"]),
    Fault("rollouts", "killed", ["runner", "door"]),
    Fault("update", "killed", ["learner"]),
    Fault("checkpoint", "killed", ["learner"]),
    Fault("publish", "killed", ["learner"]),
    Fault("weights", "killed", ["engine"]),
    Fault("evaluation", "killed", OTHERS),
    Fault("update", "killed", OTHERS),
    Fault("checkpoint", "killed", OTHERS),
    Fault("weights", "killed", ["store", "gateway", "door", "runner"]),
    Fault("checkpoint", "killed", [DRIVER]),
)
STOPPED = (
    Fault("rollouts", "stopped", OTHERS),
    Fault("update", "stopped", ["learner", "engine"]),
    Fault("publish", "its disk full", ["learner"]),
)
LAST = (
    Fault("rollouts", "killed", ["learner"]),
    Fault("end", "killed", ["learner", *OTHERS]),
)


def test_a_run_goes_on_whatever_befalls_a_part_at_whatever_moment(
    tmp_path: Path, tiny_model: Path, joining: Mapping[str, str]
) -> None:
    """It ends as if nothing had happened, in three lives: its driver is killed in one, and in another shared
    memory is full, which ends a run with its place. Each rollout ended once, each token was trained once, and
    the weights are those that the same rollouts make undisturbed."""
    trial = Trial(tmp_path, tiny_model, 16, **joining)
    code, told = trial.live(KILLED)
    assert code == -9, told
    code, told = trial.live(STOPPED, AL_RAY_TEST_ANSWER_SECONDS="15")
    assert code == 1 and "error: /dev/shm/" in told and "GiB are free there" in told, told
    assert "--resume goes on from there" in told and "Traceback" not in told, told
    code, told = trial.live(LAST)
    assert code == 0, told
    assert trial.mistakes() == []
