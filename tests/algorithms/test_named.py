"""What a recipe can name, there is, and the other way round; a name chooses what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_ray.algorithms import advantages, credit, losses
from al_ray.algorithms.advantages import Comparison
from al_ray.algorithms.batching import pack
from al_ray.algorithms.losses.cispo import Cispo
from al_ray.algorithms.losses.clipped import Clipped
from al_ray.algorithms.losses.correction import Bound, Level
from al_ray.algorithms.losses.gspo import Gspo
from al_ray.algorithms.losses.kl import ESTIMATORS
from al_ray.algorithms.measured import Measured
from al_ray.algorithms.named import Algorithm, algorithm, needs_measured
from al_ray.algorithms.rows import Aggregate
from al_ray.recipe import OptimizerSection, ReinforcementStage, SamplingSection, SupervisedStage
from al_ray.recipe.stages import CREDITS, NAMED
from al_ray.types import Row, Trajectory, Transition
from tests.algorithms.forests import BATCHES
from tests.algorithms.losses.inputs import batch_of, variable

OPTIMIZER = OptimizerSection(learning_rate=1e-5)
SAMPLING = SamplingSection()
GRPO = ReinforcementStage(algorithm="grpo", steps=1, optimizer=OPTIMIZER)


def episode(*rewards: float) -> Trajectory:
    """Of calls that earned these, each in a conversation of its own."""
    calls = [Transition(str(i), "a", (1, i), (2,), (0.0,), 0, reward=r) for i, r in enumerate(rewards)]
    return Trajectory(str(rewards), "g", "t", calls, sum(rewards))


def choices(field: str) -> list[str]:
    """The names that a stage may give in this field."""
    if field == "credit":
        return list(CREDITS)
    annotation = ReinforcementStage.model_fields[field].annotation
    literal = next((each for each in get_args(annotation) if get_args(each)), annotation)
    return list(get_args(literal))


def test_the_tables_have_exactly_the_names_that_the_recipe_allows() -> None:
    tables: dict[str, Iterable[str]] = {
        "credit": credit.CREDITS,
        "compare": advantages.COMPARE,
        "baseline": advantages.BASELINES,
        "scale": advantages.SCALES,
        "loss": losses.SURROGATES,
        "kl_estimator": ESTIMATORS,
        "aggregate": [name for name in get_args(Aggregate) if name != "group_mean"],  # rejection sampling's
        "correction": ["none", *get_args(Level)],
        "correction_bound": get_args(Bound),
        "algorithm": NAMED,
    }
    for field, table in tables.items():
        assert list(table) == choices(field), field


@pytest.mark.parametrize("name", [name for name in NAMED if name != "ppo"])
def test_each_policy_has_the_rows_that_it_would_have_if_no_other_were_trained(name: str) -> None:
    """Though one goes on where the other spoke: neither baseline, scale nor mean is shared."""

    def played(number: int, reward: float, trained: str) -> Trajectory:
        first = Transition("0", "a", (1, 2), (3, number), (-1.0, -2.0), 0, policy="writer")
        then = (1, 2, 3, number, 5)
        more = Transition("1", "b", then, (6,) * (number + 1), (-3.0,) * (number + 1), 0, policy="critic")
        calls = [replace(t, trained=t.policy in trained) for t in [first, more][: 2 if number else 1]]
        return Trajectory(f"r{number}", "g", "t", calls, reward)

    def groups(trained: str) -> list[list[Trajectory]]:
        return [[played(0, 1.0, trained), played(1, 0.25, trained), played(2, 0.5, trained)]]

    given = {"steps": 1, "optimizer": OPTIMIZER, "algorithm": name, "kl_in": "reward", "kl_coefficient": 0.1}
    chosen = algorithm(GRPO.model_validate(given), SAMPLING)
    seen = Measured(
        {(f"r{rollout}", call): 1.0 + rollout + 3 * call for rollout in (0, 1, 2) for call in (0, 1)}, {}
    )
    both = chosen.rows(groups("writer critic"), seen)
    for policy in ("writer", "critic"):
        own = {call: value for call, value in seen.divergences.items() if call[1] == (policy == "critic")}
        found = [row for row in both if row.policy == policy]
        alone = chosen.rows(groups(policy), Measured(own, {}))
        assert len(found) == len(alone) == (3 if policy == "writer" else 2)
        for ours, expected in zip(found, alone, strict=True):
            for field in fields(Row):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name))
    (made,) = chosen.advantages(groups("writer critic"))
    of_each = [chosen.advantages(groups(policy))[0] for policy in ("writer", "critic")]
    assert made == [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(*of_each, strict=True)]


@pytest.mark.parametrize(("credit", "critics"), [("identical", 0.5), ("final", 0.5), ("reward_to_go", 0.0)])
def test_what_people_are_shown_of_credit_is_what_each_policy_learns_from(credit: str, critics: float) -> None:
    """Each has a last call of its own, and bears its own shaping; who is not trained has nothing."""
    cut = Transition("0", "a", (1,), (2,), (-1.0,), 0, policy="writer", finish_reason="length", reward=0.5)
    more = [Transition(str(i), "b", (1,), (2,), (-1.0,), 0, policy="critic") for i in (1, 2)]
    calls = [cut, more[0], replace(more[1], trained=False)]
    given = {"steps": 1, "optimizer": OPTIMIZER, "algorithm": "grpo", "overlong_tokens": 1, "credit": credit}
    chosen = algorithm(GRPO.model_validate(given), SAMPLING)
    assert chosen.returns([[Trajectory("r", "g", "t", calls, 0.5)]]) == [[[-0.5, critics, None]]]


def test_a_named_algorithm_chooses_what_was_published_and_a_recipe_may_choose_otherwise() -> None:
    def chosen(**given: object) -> Algorithm:
        stage = {"steps": 1, "optimizer": {"learning_rate": 1e-5}, **given}
        return algorithm(ReinforcementStage.model_validate(stage), SamplingSection(max_tokens=77))

    found = {name: chosen(algorithm=name) for name in NAMED}
    assert found["grpo"].comparison == Comparison("task", "mean", "group")
    assert found["rloo"].comparison == Comparison("task", "leave_one_out", "none")
    assert (found["rloo"].aggregate, found["rloo"].tokens) == ("constant", 77)
    assert found["reinforce_pp"].comparison == Comparison("task", "none", "batch")
    assert (found["dr_grpo"].aggregate, found["dr_grpo"].tokens) == ("constant", 77)
    assert found["gspo"].loss == losses.PolicyGradient(Gspo(3e-4, 4e-4))
    assert found["dapo"].loss == losses.PolicyGradient(Clipped(0.2, 0.28))
    assert found["cispo"].loss == losses.PolicyGradient(Cispo(1.0, 0.28))
    assert chosen(algorithm="gspo", clip_high=0.5).loss == losses.PolicyGradient(Gspo(3e-4, 0.5))
    assert chosen(algorithm="grpo", credit="reward_to_go").comparison.compare == "turn"
    own = chosen(algorithm="grpo", credit="reward_to_go", compare="task")
    assert own.comparison.compare == "task"


CHANCES = st.lists(st.floats(0.125, 0.875, width=16), min_size=3, max_size=3)
REWARDS = st.lists(st.floats(-2, 2, width=16), min_size=4, max_size=4)


@given(CHANCES, REWARDS)
@settings(deadline=None)
def test_in_the_mean_the_gradient_of_rloo_is_that_of_the_expected_reward(
    chances: list[float], rewards: list[float]
) -> None:
    """However long completions are (arXiv 2402.14740: one is one action). Here a token goes on or stops, by
    a logit for each place, and all pairs of completions count by their probability."""
    said = [(*[1] * length, 0)[:3] for length in range(4)]
    scores = np.zeros((4, 3))
    likely = np.ones(4)
    for number, tokens in enumerate(said):
        for place, goes_on in enumerate(tokens):
            scores[number, place] = goes_on - chances[place]
            likely[number] *= chances[place] if goes_on else 1 - chances[place]
    chosen = algorithm(
        ReinforcementStage(algorithm="rloo", steps=1, optimizer=OPTIMIZER, constant_tokens=8), SAMPLING
    )
    found = np.zeros(3)
    for pair in product(range(4), repeat=2):
        group = [
            Trajectory(
                str(n), "g", "t", [Transition("0", "a", (1,), said[c], (-1.0,) * len(said[c]), 0)], rewards[c]
            )
            for n, c in enumerate(pair)
        ]
        for row, completion in zip(chosen.rows([group]), pair, strict=True):
            gains = (row.weights * row.advantages)[row.trained]
            found[: len(gains)] += likely[list(pair)].prod() * gains * scores[completion, : len(gains)]
    assert 8 * found == pytest.approx((likely * rewards) @ scores, abs=1e-5)


LEVELS = ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]


@given(
    st.integers(0, 10),
    st.lists(st.integers(-20, 20), min_size=2, max_size=4),
    st.integers(0, 2),
    st.sampled_from(["identical", "reward_to_go", "group_in_group"]),
    st.sampled_from(LEVELS),
)
@settings(max_examples=200, deadline=None)
def test_equal_rewards_from_which_a_potential_takes_their_signals_again_are_equal_to_the_last_bit(
    tenths: int, signals: list[int], before: int, credit: str, name: str
) -> None:
    """0.3 - 0.1 + 0.1 is not quite 0.3, and of the difference an optimizer would make a step."""
    group = []
    for number, signal in enumerate(signals):
        own = round(tenths / 10 + signal / 20, 9)
        made = episode(*[0.0] * before, own)
        calls = [*made.transitions[:-1], replace(made.transitions[-1], intermediate=signal / 20)]
        group.append(
            replace(made, rollout_id=str(number), transitions=calls, reward=own, intermediate=signal / 20)
        )
    given = {"algorithm": name, "steps": 1, "optimizer": OPTIMIZER, "intermediate": "potential"}
    chosen = algorithm(ReinforcementStage.model_validate(given | {"credit": credit}), SAMPLING)
    assert not any(chosen.loss.trains(row) for row in chosen.rows([group]))
    assert name == "reinforce_pp" or not chosen.unequal([group])


def test_the_page_of_algorithms_tells_what_each_chooses() -> None:
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
    told = {}
    for line in page.splitlines():
        name, *cells = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        if name in NAMED:
            more = dict(part.strip("` ").split(": ") for part in cells[4].split(",") if part)
            words = ("kl_estimator", "credit")
            told[name] = dict(zip(("baseline", "scale", "loss", "aggregate"), cells, strict=False)) | {
                key: value if key in words else float(value) for key, value in more.items()
            }
    assert told == NAMED


@pytest.mark.parametrize(("name", "correction"), [("grpo", "token"), ("gspo", "sequence"), ("cispo", "none")])
def test_what_updates_made_likelier_since_it_was_drawn_is_not_clipped_away(
    name: str, correction: str
) -> None:
    """With staleness, by default: such tokens keep their gradient."""
    common = {"algorithm": name, "steps": 1, "optimizer": {"learning_rate": 1e-5}}
    in_time, older = (ReinforcementStage.model_validate({**common, "staleness": s}) for s in (0, 2))
    assert (in_time.correction, older.correction) == ("none", correction)
    logprobs = variable([-1.0, -1.0])
    batch = batch_of([-1.5, -1.5], [1.0, 1.0])
    algorithm(older, SAMPLING).loss(logprobs, None, batch).values.sum().backward()
    assert logprobs.grad is not None and (logprobs.grad < -0.5).all()


PARTS = ["algorithm", "credit", "compare", "baseline", "scale", "loss", "aggregate", "correction"]
PARTS += ["correction_bound", "kl_estimator", "intermediate", "kl_in"]


@given(BATCHES, st.fixed_dictionaries({part: st.sampled_from(choices(part)) for part in PARTS}))
@settings(max_examples=300, deadline=None)
def test_every_choice_fits_every_other(batch: list[tuple[Trajectory, ...]], named: dict[str, str]) -> None:
    """Rows have an advantage for each trained token and weights as told; the loss is finite and leaves a
    token without an advantage alone."""
    stage = ReinforcementStage.model_validate(
        {
            "steps": 1,
            "optimizer": {"learning_rate": 1e-5},
            "overlong_tokens": 2,
            "kl_coefficient": 0.01,
            "discount": 0.5,
            "mini_batches": 2,
            "epochs": 2,
            **named,
        }
    )
    renamed = [
        [replace(rollout, rollout_id=f"{g}/{i}", group=str(g)) for i, rollout in enumerate(group)]
        for g, group in enumerate(batch)
    ]
    made = algorithm(stage, SamplingSection(max_tokens=3))
    ids = [(r.rollout_id, call) for group in renamed for r in group for call in range(len(r.transitions))]
    measured = Measured(dict.fromkeys(ids, 0.5), dict.fromkeys(ids, -1.0)) if needs_measured(stage) else None
    rows = made.rows(renamed, measured)
    if made.expected is not None and measured is not None:
        assert all(map(math.isfinite, made.critic_targets(renamed, measured).values()))
    trained = sum(len(t.response_ids) for group in batch for r in group for t in r.transitions if t.trained)
    assert sum(int(row.trained.sum()) for row in rows) == trained
    if stage.aggregate != "constant":
        assert sum(float(row.weights.sum()) for row in rows) == pytest.approx(1, rel=1e-4)
    parts = made.passes(rows)
    assert sum(int(row.trained.sum()) for part in parts for row in part) == 2 * trained
    for micro_batch in (batch for part in parts for batch in pack(part, 64)):
        logprobs = (micro_batch.logprobs + 0.1).requires_grad_()
        reference = micro_batch.logprobs + 0.1 if made.loss.kl_coefficient else None
        values = made.loss(logprobs, reference, micro_batch).values
        values.sum().backward()
        assert logprobs.grad is not None and values.isfinite().all() and logprobs.grad.isfinite().all()
        if reference is None:
            assert not logprobs.grad[micro_batch.advantages == 0].any()


def test_only_a_critic_and_a_divergence_in_the_reward_need_a_look_at_the_batch_first() -> None:
    assert not needs_measured(GRPO.model_copy(update={"kl_coefficient": 0.1}))
    for chosen in ({"credit": "gae"}, {"kl_coefficient": 0.1, "kl_in": "reward"}):
        stage = GRPO.model_copy(update=chosen)
        assert needs_measured(stage)
        loss = algorithm(stage, SamplingSection()).loss
        assert loss.kl_coefficient == 0
        (row, *_) = algorithm(stage, SamplingSection()).rows([[episode(0.0), episode(0.0)]])
        assert loss.trains(row), "what is measured gives it an advantage"


def test_a_divergence_in_the_reward_is_taken_from_what_is_compared() -> None:
    """Two rollouts of equal reward: the one that strayed is the worse."""
    stage = GRPO.model_copy(update={"kl_coefficient": 0.5, "kl_in": "reward", "scale": "none"})
    pair = [[replace(episode(1.0), rollout_id=name) for name in ("near", "far")]]
    measured = Measured({("near", 0): 0.0, ("far", 0): 2.0}, {})
    rows = algorithm(stage, SamplingSection()).rows(pair, measured)
    assert [float(row.advantages[-1]) for row in rows] == [0.5, -0.5]


def test_a_stage_names_the_credit_and_its_discount() -> None:
    pair = [[episode(1.0, 2.0), episode(0.0, 0.0)]]
    undivided = GRPO.model_copy(update={"scale": "none"})
    ahead = undivided.model_copy(update={"credit": "reward_to_go", "discount": 0.5})
    found = {
        name: [float(row.advantages[-1]) for row in algorithm(stage, SamplingSection()).rows(pair)]
        for name, stage in {"identical": undivided, "reward_to_go": ahead}.items()
    }
    assert found == {"identical": [1.5, 1.5, -1.5, -1.5], "reward_to_go": [1.0, 1.0, -1.0, -1.0]}


def test_tokens_are_scored_at_the_temperature_they_were_sampled_at() -> None:
    loss = algorithm(GRPO.model_copy(update={"clip_high": 0.3}), SamplingSection(temperature=0.7)).loss
    assert loss == losses.PolicyGradient(Clipped(0.2, 0.3), temperature=0.7)


def test_a_demonstration_is_imitated_as_the_model_is_whatever_calls_are_sampled_with() -> None:
    stage = SupervisedStage(algorithm="supervised", steps=1, optimizer=OPTIMIZER, demonstrate="a:b")
    chosen = algorithm(stage, SamplingSection(temperature=0.7))
    assert chosen.loss == losses.CrossEntropy()
    (row,) = chosen.rows([[episode(1.0)]])
    assert row.advantages[row.trained].tolist() == [1.0] and row.weights.sum() == 1
