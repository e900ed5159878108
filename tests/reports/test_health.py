"""A run that is not well says so, with what it means and what to do; one of no use is ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_ray.recipe import HealthSection
from al_ray.reports.health import RULES, Health, evaluated_well, trained_well, useless, warnings
from al_ray.reports.names import METRICS
from al_ray.rollouts.agent_error import AgentError
from al_ray.rollouts.outcome import Outcome
from tests.support.runs.metric_keys import unlisted

RUN = Path("outputs/toy/a")
BROKEN = AgentError("ValueError: no column a", "/home/me/agent.py", 7, "solve")
FINE = [Outcome(f"step-000000/0/{i}") for i in range(4)]
FAILED = [Outcome(f"step-000000/1/{i}", BROKEN, called=False) for i in range(4)]
LIMITS = HealthSection()


def test_every_limit_of_the_recipe_has_a_rule_and_every_rule_a_metric_that_ray_exports() -> None:
    assert sorted(rule.limit for rule in RULES) == sorted(HealthSection.model_fields)
    keys = [rule.key for rule in RULES]
    assert unlisted(keys) == []
    assert [metric.key for metric in METRICS if metric.key in keys and not metric.gauge] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.limit)
def test_a_warning_names_the_number_the_limit_and_the_cure(rule: object) -> None:
    key, limit = rule.key, getattr(LIMITS, rule.limit)  # type: ignore[attr-defined]
    assert warnings({key: limit}, LIMITS, FINE, RUN) == []
    [told] = warnings({key: limit + 0.1}, LIMITS, FINE, RUN)
    assert f"(health.{key.rpartition('/')[2]}: at most " in told
    assert told.endswith(rule.cure)  # type: ignore[attr-defined]


def test_a_limit_of_one_never_warns() -> None:
    assert warnings({"health/failed": 1.0}, HealthSection(failed=1.0), FAILED, RUN) == []


def test_failed_rollouts_are_told_with_the_commonest_error_and_how_to_see_one() -> None:
    other = Outcome("step-000000/2/0", AgentError("timed_out"))
    [told] = warnings({"health/failed": 0.5}, LIMITS, [other, *FINE, *FAILED], RUN)
    assert told.startswith("50% of the rollouts failed")
    assert told.splitlines()[0].endswith("the commonest error, of 4:")
    assert told.splitlines()[1:] == [
        "  ValueError: no column a",
        "  /home/me/agent.py, line 7, in solve",
        "  one of them: al-ray rollouts outputs/toy/a step-000000/1/0",
    ]


def test_rollouts_without_a_call_are_told_with_one_of_them() -> None:
    [told] = warnings({"health/without_calls": 0.5}, LIMITS, [*FINE, Outcome("r", called=False)], RUN)
    assert "llm.base_url" in told and told.endswith("al-ray rollouts outputs/toy/a r")


def test_a_run_is_of_no_use_where_all_rollouts_failed_or_none_was_answered() -> None:
    for outcomes in ((), FINE, [*FINE, *FAILED], [*FAILED, Outcome("r", called=False)][3:] + FINE):
        assert useless("step 1", outcomes, RUN, excuses_model=False) is None
    failed = str(useless("step 1", FAILED, RUN, excuses_model=True))
    assert failed.startswith("step 1: all 4 rollouts failed; the commonest error, of 4:\n")
    assert failed.count("ValueError: no column a") == 1 and "/home/me/agent.py, line 7" in failed
    untrained = [Outcome("r", called=False), FAILED[0]]
    silent = str(useless("evaluation, untrained", untrained, RUN, excuses_model=False))
    assert "answered no call of any of the 2 rollouts" in silent
    assert "al-ray rollouts outputs/toy/a r" in silent and "llm.base_url" in silent


def test_failures_that_are_the_models_doing_end_a_run_only_where_they_teach_nothing() -> None:
    by_model = [Outcome(f"step-000000/2/{i}", BROKEN, by_model=True) for i in range(2)]
    assert useless("step 1", by_model, RUN, excuses_model=True) is None
    assert useless("step 1", [*FAILED, *by_model], RUN, excuses_model=True) is None
    assert "all 2 rollouts failed" in str(useless("step 1", by_model, RUN, excuses_model=False))


@pytest.mark.parametrize(
    ("line", "well"),
    [
        ({"health/failed": 0.9, "health/without_calls": 0.9}, (True, False)),
        ({"health/failed": 1.0, "health/without_calls": 0.0}, (False, False)),
        ({"health/failed": 0.0, "health/without_calls": 1.0}, (False, False)),
        ({"eval/accuracy": 0.0, "eval/without_calls": 0}, (False, True)),
        ({"eval/accuracy": None, "eval/without_calls": 0}, (False, False)),
        ({"eval/accuracy": 1.0, "eval/without_calls": 2}, (False, False)),
        ({"time/checkpoint": 1.0}, (False, False)),
    ],
)
def test_rollouts_have_come_to_something_where_some_went_well_and_asked_the_model(
    line: dict[str, float | None], well: tuple[bool, bool]
) -> None:
    assert (trained_well(line), evaluated_well(line)) == well


def test_a_warning_is_given_when_it_begins_to_hold_and_summed_up_at_the_end() -> None:
    health = Health(LIMITS, RUN)
    steps = [1.0, 1.0, 0.0, 1.0]
    given = [len(health.step({"health/equal_groups": equal}, FINE)) for equal in steps]
    assert given == [1, 0, 0, 1]
    assert health.summary() == ["health.equal_groups passed in 3 of 4 steps"]


def test_what_an_earlier_life_of_the_run_told_is_in_its_sum() -> None:
    """And what goes on is warned of anew."""
    health = Health(LIMITS, RUN)
    for failed in (0.9, 0.9, 0.0, None):
        health.recall({"step": 1, "stage": 0.0, "health/failed": failed})
    health.recall({"step": 1, "eval/accuracy": 0.5})
    assert len(health.step({"health/failed": 0.9}, FINE)) == 1
    assert health.summary() == ["health.failed passed in 3 of 5 steps"]


def test_entropy_falls_from_the_first_step_of_its_stage() -> None:
    health = Health(LIMITS, RUN)
    lines = [(0.0, 2.0), (0.0, 0.5), (1.0, 1.0), (1.0, 1.5), (1.0, 0.25)]
    falls = [health.entropy_fall({"stage": stage, "rollout/surprise": value}) for stage, value in lines]
    assert [fall["health/entropy_fall"] for fall in falls] == [0.0, 0.75, 0.0, 0.0, 0.75]
    assert health.entropy_fall({"eval/accuracy": 0.5}) == {}


def test_imitation_may_lower_the_entropy_as_far_as_it_likes() -> None:
    health = Health(LIMITS, RUN)
    steps: list[dict[str, float]] = [{"stage": 0.0, "policy/entropy": value} for value in (2.0, 0.1)]
    assert [health.entropy_fall(step) for step in steps] == [{}, {}]
