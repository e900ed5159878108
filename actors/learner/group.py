"""The driver's handle on the learners: several processes that act as one learner.

Calls block until every rank has answered; an error of any rank is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.weights.update import WeightUpdate, pushes
from al_ray.algorithms.batching import spread
from al_ray.algorithms.losses.token import Loss
from al_ray.recipe import OptimizerSection
from al_ray.types import Row, UpdateReport


class LearnerGroup:
    """One learner for each entry of ``options``, the Ray options of its actor."""

    def __init__(self, spec: LearnerSpec, options: Sequence[Mapping[str, Any]]) -> None:
        ranks = len(options)
        actor_class: Any = ray.remote(Learner)
        self._learners: list[ActorHandle[Any]] = [
            actor_class.options(**option).remote(spec, rank, ranks) for rank, option in enumerate(options)
        ]
        self.pushes_weights = pushes(spec.transport)
        """Weights are sent to paused engines, not stored for them."""
        # What is stored is published once; what is pushed is gathered from all ranks.
        self._publishers = self._learners if self.pushes_weights else self._learners[:1]
        if ranks > 1:
            self._on_all("connect", *self._on_first("open_rendezvous"))

    def computes(self) -> str:
        """How rows are computed, in words; raises ``RecipeError`` where the model cannot be trained."""
        with unwrapped():
            told: str = self._on_all("computes")[0]
        return told

    def policy_version(self) -> int:
        version: int = self._on_first("policy_version")
        return version

    def start_stage(self, section: OptimizerSection, total_steps: int, keep_reference: bool) -> None:
        """A fresh optimizer for ``total_steps`` updates; the reference is the weights as they are now."""
        self._on_all("start_stage", section, total_steps, keep_reference)

    def update(self, rows: Sequence[Row], loss: Loss) -> UpdateReport:
        """One optimizer step, whole rollouts spread over the learners."""
        kept = [row for row in rows if loss.trains(row)]
        shares = spread(kept, len(self._learners))
        pairs = zip(self._learners, shares, strict=True)
        report: UpdateReport = ray.get([learner.update.remote(share, loss) for learner, share in pairs])[0]
        dropped = {
            "learner/rows": float(len(rows)),
            "learner/rows_without_advantage": float(len(rows) - len(kept)),
        }
        return UpdateReport(report.policy_version, {**report.metrics, **dropped})

    def publish(self, version: int) -> WeightUpdate:
        """Make the weights available to the engines as policy ``version``."""
        update: WeightUpdate = ray.get([learner.publish.remote(version) for learner in self._publishers])[0]
        return update

    def connect_engines(self, engines: Sequence[ActorHandle[Any]], tensor_parallel: int) -> None:
        """For transports that push: whenever the engines are new, before the next ``send_weights``."""
        self._on_all("connect_engines", engines, tensor_parallel, self._on_first("free_address"))

    def send_weights(self) -> None:
        """For transports that push: what was published last, to engines that are paused."""
        self._on_all("send_weights")

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Of each token but the first, under the current weights at temperature 1."""
        logprobs: list[float] = self._on_first("logprobs", token_ids)
        return logprobs

    def save(self, folder: str) -> None:
        """A checkpoint on the first learner's node; see ``Learner.save``."""
        self._on_first("save", folder)

    def load(self, folder: str) -> None:
        """Resume from a checkpoint that every learner's node can read."""
        self._on_all("load", folder)

    def close(self) -> None:
        """End the learners and free what they published."""
        self._on_all("close")
        for learner in self._learners:
            ray.kill(learner)

    def _on_first(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._learners[0], method).remote(*arguments))

    def _on_all(self, method: str, *arguments: Any, **named: Any) -> list[Any]:
        return ray.get([getattr(learner, method).remote(*arguments, **named) for learner in self._learners])
