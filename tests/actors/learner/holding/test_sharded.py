"""Models that cannot be sharded by layers are refused. (Learners that are: ``test_group``.)

Of 168 architectures that can be trained all were once tried by two ranks over gloo: who is not refused
had the gradient of one process, within 1e-7 of its norm."""

from __future__ import annotations

import pytest

from al_ray.actors.learner.computation import computation
from al_ray.actors.learner.holding.sharded import Sharded, _unfit
from al_ray.actors.learner.recomputation import decoder_layers
from al_ray.errors import RecipeError
from tests.support.models.architectures import tiny_config, tiny_model


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("ctrl", "has no layers that could be put together one by one"),
        ("zamba", "has layers that share weights"),
        ("longcat_flash", "has weights, as of experts, that some tokens do not reach"),
    ],
)
def test_what_torch_would_shard_wrongly_or_not_at_all_is_refused_with_the_reason(
    architecture: str, reason: str
) -> None:
    model = tiny_model(tiny_config(architecture))
    with pytest.raises(RecipeError, match=rf"learners\.weights: 'sharded': whole: \w+ {reason}"):
        Sharded(model, [""], computation(model, 64, 256))


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gemma2", "mllama"])
def test_others_are_not(architecture: str) -> None:
    model = tiny_model(tiny_config(architecture))
    assert _unfit(model, decoder_layers(model), computation(model, 64, 256)) is None
