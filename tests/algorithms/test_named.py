"""What a recipe can name, there is, and the other way round; a name chooses what it says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from al_ray.algorithms import advantages, credit, losses
from al_ray.algorithms.named import ALGORITHMS, algorithm
from al_ray.recipe import AnyStage, GrpoStage, OptimizerSection, SamplingSection, SupervisedStage
from al_ray.types import Trajectory, Transition

OPTIMIZER = OptimizerSection(learning_rate=1e-5)
GRPO = GrpoStage(algorithm="grpo", steps=1, optimizer=OPTIMIZER)


def episode(*rewards: float) -> Trajectory:
    """Of calls that earned these, each in a conversation of its own."""
    calls = [Transition(str(i), "a", (1, i), (2,), (0.0,), 0, reward=r) for i, r in enumerate(rewards)]
    return Trajectory(str(rewards), "g", "t", calls, sum(rewards))


def test_the_tables_have_exactly_the_names_that_the_recipe_allows() -> None:
    stages = get_args(get_args(AnyStage)[0])
    named = [get_args(stage.model_fields["algorithm"].annotation) for stage in stages]
    assert list(ALGORITHMS) == [name for names in named for name in names]
    assert credit.CREDITS.keys() == set(get_args(GrpoStage.model_fields["credit"].annotation))


@pytest.mark.parametrize(
    ("room", "table", "shared"),
    [
        (credit, credit.CREDITS, set()),
        (advantages, advantages.ADVANTAGES, set()),
        (losses, losses.LOSSES, {"token"}),
    ],
)
def test_every_method_of_a_room_is_in_its_table_by_the_name_of_its_file(
    room: ModuleType, table: dict[str, object], shared: set[str]
) -> None:
    files = {path.stem for path in Path(str(room.__file__)).parent.glob("*.py")}
    assert table.keys() == files - shared - {"__init__"}


def test_a_stage_names_the_credit_and_its_discount() -> None:
    pair = [[episode(1.0, 2.0), episode(0.0, 0.0)]]
    undivided = GRPO.model_copy(update={"normalize_std": False})
    ahead = undivided.model_copy(update={"credit": "reward_to_go", "discount": 0.5})
    found = {
        name: [float(row.advantages[-1]) for row in algorithm(stage, SamplingSection()).rows(pair)]
        for name, stage in {"identical": undivided, "reward_to_go": ahead}.items()
    }
    assert found == {"identical": [1.5, 1.5, -1.5, -1.5], "reward_to_go": [1.0, 1.0, -1.0, -1.0]}


def test_grpo_scores_tokens_at_the_temperature_they_were_sampled_at() -> None:
    loss = algorithm(GRPO.model_copy(update={"clip_high": 0.3}), SamplingSection(temperature=0.7)).loss
    assert loss == losses.ClippedPolicyGradient(0.2, 0.3, 0.0, temperature=0.7)


def test_a_demonstration_is_imitated_as_the_model_is_whatever_calls_are_sampled_with() -> None:
    stage = SupervisedStage(algorithm="supervised", steps=1, optimizer=OPTIMIZER, demonstrate="a:b")
    chosen = algorithm(stage, SamplingSection(temperature=0.7))
    assert chosen.loss == losses.CrossEntropy(temperature=1.0)
    (row,) = chosen.rows([[episode(1.0)]])
    assert row.advantages[row.trained].tolist() == [1.0] and row.weights.sum() == 1
