"""GRPO, from sampled calls through credit, advantage, rows and loss to the learner, learns."""

from __future__ import annotations

from pathlib import Path

import torch

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import StageSpec
from al_ray.algorithms.named import algorithm as algorithm_of
from al_ray.recipe import ReinforcementStage, SamplingSection
from al_ray.types import Trajectory, Transition
from tests.support.models.learner_inputs import learner_spec

STAGE = ReinforcementStage.model_validate(
    {"algorithm": "grpo", "steps": 12, "optimizer": {"learning_rate": 1e-3}, "group_size": 16}
)
PROMPTS = [[1, 70, 71], [1, 80, 81], [1, 90, 91]]
WANTED = range(100, 160)
"""Tokens that a random model of some 260 samples about one time in four."""


def rollout(learner: Learner, group: int, member: int, draw: torch.Generator) -> Trajectory:
    """Two calls of one token each, the second after the first; a wanted token is worth a half."""
    tokens, calls = list(PROMPTS[group]), []
    for number in range(2):
        with torch.no_grad():
            logits = learner._held.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        token = int(torch.multinomial(logits.softmax(-1), 1, generator=draw))
        logprob = float(logits.log_softmax(-1)[token])
        reward = 0.5 * (token in WANTED)
        calls.append(Transition(str(number), "", tuple(tokens), (token,), (logprob,), 0, reward))
        tokens = [*tokens, token, 60 + number]
    total = sum(call.reward for call in calls)
    return Trajectory(f"{group}/{member}", str(group), str(group), calls, total)


def test_the_reward_rises(tiny_model: Path) -> None:
    """A sign, a weight or a mask that is wrong anywhere on the way would keep it down."""
    learner = Learner(learner_spec(tiny_model))
    learner.start_stage(StageSpec(STAGE.optimizer, STAGE.steps))
    draw = torch.Generator().manual_seed(0)
    algorithm, rewards = algorithm_of(STAGE, SamplingSection()), []
    for _ in range(STAGE.steps):
        groups = [
            [rollout(learner, group, member, draw) for member in range(STAGE.group_size)]
            for group in range(len(PROMPTS))
        ]
        episodes = [episode.reward for group in groups for episode in group]
        rewards.append(sum(episodes) / len(episodes))
        learner.update([algorithm.rows(groups)], algorithm.loss)
    assert rewards[0] < 0.35
    assert sum(rewards[-3:]) / 3 > 0.55, rewards
