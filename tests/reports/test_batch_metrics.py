"""What is told of several policies in a batch; the rest, of a stage's batches, is told with them
(``tests/run/stages``)."""

from __future__ import annotations

from pathlib import Path

from al_ray.recipe import HealthSection
from al_ray.reports.batch_metrics import call_metrics, policy_metrics
from al_ray.reports.health import Health, warnings
from al_ray.types import Trajectory, Transition


def played(name: str, *policies: str) -> Trajectory:
    calls = [Transition(str(n), "a", (1,), (2,), (0.0,), 0, policy=each) for n, each in enumerate(policies)]
    return Trajectory(name, "g", "t", calls, 1.0)


def test_a_policy_that_answers_no_call_is_warned_of() -> None:
    """Its agents' names may be misspelt: then it never learns."""
    rollouts = [played("1", "writer", "critic", "writer"), played("2", "writer")]
    found = policy_metrics(rollouts, ("writer", "critic", "rewriter"))
    assert found == {
        "rollout/calls/writer": 1.5,
        "rollout/calls/critic": 0.5,
        "rollout/calls/rewriter": 0.0,
        "health/idle_policies": 1 / 3,
    }
    [told] = warnings(found, HealthSection(), (), Path("run"))
    assert told.startswith("33% of the policies answered no call") and "policies.NAME.agents" in told
    assert policy_metrics([], ("writer",)) == {"rollout/calls/writer": 0.0, "health/idle_policies": 1.0}
    assert not warnings(policy_metrics(rollouts, ("writer", "critic")), HealthSection(), (), Path("run"))


def test_surprise_is_of_every_token_that_is_trained_whatever_its_rollout_is_worth() -> None:
    """A long call counts for more than a short one, and those that nobody learns from not at all."""

    def call(name: str, *logprobs: float, trained: bool = True) -> Transition:
        tokens = range(len(logprobs))
        return Transition(name, "a", (1,), tuple(tokens), logprobs, 0, trained=trained)

    calls = [call("1", -1.0, -2.0, -3.0), call("2", -6.0), call("3", -50.0, trained=False)]
    apart = [Trajectory(each.id, "g", "t", [each], 0.0) for each in calls]
    assert (
        call_metrics(apart)["rollout/surprise"]
        == call_metrics([Trajectory("r", "g", "t", calls, 1.0)])["rollout/surprise"]
        == 3.0
    )
    certain = call_metrics([Trajectory("r", "g", "t", [call("4", 0.0)], 1.0)])
    assert str(certain["rollout/surprise"]) == "0.0"


def test_in_a_step_without_trained_calls_entropy_has_not_fallen() -> None:
    """Nothing is known of it there; nor is the next step's measured against that."""
    told = {
        entropy: call_metrics(
            [Trajectory("r", "g", "t", [Transition("1", "a", (1,), (2,), (-entropy,), 0)], 1.0)]
        )
        for entropy in (2.0, 0.5)
    }
    without = call_metrics([])
    for steps, falls in [
        ((told[2.0], without, told[0.5]), (0.0, None, 0.75)),
        ((without, told[2.0], told[0.5]), (None, 0.0, 0.75)),
    ]:
        health = Health(HealthSection(), Path("run"))
        found = [health.entropy_fall({"stage": 0.0, **step}).get("health/entropy_fall") for step in steps]
        assert found == list(falls)
