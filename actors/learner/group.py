"""The driver's handle on the learners: several processes that act as one learner.

Calls block until every rank has answered. Ranks wait for each other, so the first that fails ends them all:
its error is raised, and the group is of no more use until ``restart``. ``LearnerLostError`` says that nothing
was wrong but that a process died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.observing import Observations
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.actors.learner.tally import worth_computing
from al_ray.actors.ray_errors import unwrapped
from al_ray.actors.waiting import silence
from al_ray.actors.weights.update import WeightUpdate, pushes
from al_ray.algorithms.batching import spread
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.passes import ONCE, Passes
from al_ray.errors import LearnerLostError
from al_ray.types import Row, UpdateReport

_OTHERS_SECONDS: Final = 2.0
"""Until the other ranks may have failed as well: one that lost another may be the first to tell."""
_CLOSE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 10.0
"""After which it is asked whether the learners are alive."""
_ANSWER_SECONDS: Final = 60.0
_ALIVE: Final = "alive"


class LearnerGroup:
    """One learner for each entry of ``options``, the Ray options of its actor."""

    def __init__(self, spec: LearnerSpec, options: Sequence[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._options = options
        self.pushes_weights = pushes(spec.transport)
        """Weights are sent to paused engines, not stored for them."""
        self.adapts = spec.lora is not None
        """Engines keep the model, and are given adapters of it."""
        self._learners: Sequence[ActorHandle[Any]] = ()
        self._up = False
        """All have answered: their models are loaded."""
        self.restart()

    def restart(self) -> None:
        """Learners in new processes, with the weights of the model's folder: they have no stage, and know no
        engines."""
        self._end()
        ranks = len(self._options)
        # Where there is a second group, all methods run in threads that are not the first; to these only the
        # variable tells how many there are to be.
        actor_class: Any = ray.remote(concurrency_groups={_ALIVE: 1})(Learner)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(self._spec.threads)}}
        self._up = False
        self._learners = [
            actor_class.options(**option, runtime_env=environment).remote(self._spec, rank, ranks)
            for rank, option in enumerate(self._options)
        ]
        if ranks > 1:
            self._on_all("connect", *self._on_first("open_rendezvous"))

    def computes(self) -> str:
        """How rows are computed, in words; raises ``RecipeError`` where the model cannot be trained."""
        told: str = self._on_all("computes")[0]
        return told

    def policy_version(self) -> int:
        version: int = self._on_first("policy_version")
        return version

    def start_stage(self, spec: StageSpec) -> None:
        """A fresh optimizer; the reference is the weights as they are now."""
        self._on_all("start_stage", spec)

    def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        """Of all trained calls; see ``Learner.observe``."""
        shares = zip(self._learners, spread(rows, len(self._learners)), strict=True)
        found: list[Observations] = self._all(
            [learner.observe.remote(share, loss, estimator, features=features) for learner, share in shares]
        )
        return Observations.joined(found)

    def critic_values(self, features: np.ndarray) -> np.ndarray:
        """What the critic expects, ``[C]``."""
        values: np.ndarray = self._on_first("critic_values", features)
        return values

    def fit_critic(self, features: np.ndarray, targets: np.ndarray) -> Mapping[str, float]:
        """Let the critic learn ``targets``, ``[C]``; returns metrics."""
        metrics: Mapping[str, float] = self._on_first("fit_critic", features, targets)
        return metrics

    def update(self, rows: Sequence[Row], loss: Loss, passes: Passes = ONCE) -> UpdateReport:
        """An optimizer step for each of the passes' batches, its whole rollouts spread over the learners."""
        kept, told = worth_computing(rows, loss)
        shares = zip(*(spread(batch, len(self._learners)) for batch in passes(kept)), strict=True)
        pairs = zip(self._learners, shares, strict=True)
        report: UpdateReport = self._all([learner.update.remote(share, loss) for learner, share in pairs])[0]
        return UpdateReport(report.policy_version, {**report.metrics, **told})

    def publish(self, version: int) -> WeightUpdate:
        """Make the weights available to the engines as policy ``version``."""
        update: WeightUpdate = self._on_all("publish", version)[0]
        return update

    def connect_engines(self, engines: Sequence[ActorHandle[Any]], tensor_parallel: int) -> None:
        """For transports that push: whenever the engines are new, before the next ``send_weights``."""
        self._on_all("connect_engines", engines, tensor_parallel, self._on_first("free_address"))

    def send_weights(self) -> None:
        """For transports that push: what was published last, to engines that are paused."""
        self._on_all("send_weights")

    def logprobs(self, token_ids: Sequence[int], policy: str = "") -> list[float]:
        """Of each token but the first, under a policy's current weights at temperature 1."""
        logprobs: list[float] = self._on_all("logprobs", token_ids, policy)[0]
        return logprobs

    def save(self, folder: str) -> None:
        """A checkpoint on the first learner's node; see ``Learner.save``."""
        self._on_all("save", folder)

    def load(self, folder: str) -> None:
        """Resume from a checkpoint that every learner's node can read."""
        self._on_all("load", folder)

    def nodes(self) -> set[str]:
        """The ids of Ray's nodes that the learners are on, as far as they answer, also at their work."""
        asked = self._ask_alive()
        told, _ = ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)
        return {ray.get(answer) for answer in told if _error(answer) is None}

    def close(self) -> None:
        """End the learners, also those that hang, and free what they published."""
        ray.wait(
            [learner.close.remote() for learner in self._learners],
            num_returns=len(self._learners),
            timeout=_CLOSE_SECONDS,
        )
        self._end()

    def _end(self) -> None:
        for learner in self._learners:
            ray.kill(learner)

    def _on_first(self, method: str, *arguments: Any) -> Any:
        return self._all([getattr(self._learners[0], method).remote(*arguments)])[0]

    def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        answers = self._all([getattr(learner, method).remote(*arguments) for learner in self._learners])
        self._up = True
        return answers

    def _all(self, answers: Sequence[ObjectRef[Any]]) -> list[Any]:
        """What all ranks answer. When one fails, the others are ended: they may wait for it for good."""
        waiting, failed = list(answers), False
        while waiting and not failed:
            done, waiting = ray.wait(waiting, timeout=_LOOK_SECONDS)
            failed = any(_error(answer) is not None for answer in done)
            if not done:
                self._require_answering()
        if failed:
            told, _ = ray.wait(answers, num_returns=len(answers), timeout=_OTHERS_SECONDS)
            errors = [error for answer in told if (error := _error(answer))]
            if len(answers) > 1:
                self._end()
            first = min(errors, key=_is_of_another)
            if isinstance(first, RayActorError):
                raise LearnerLostError(f"a learner died: {first}") from first
            with unwrapped():
                raise first
        found: list[Any] = ray.get(list(answers))
        return found

    def _require_answering(self) -> None:
        """Raises once a process does not answer that has loaded its model."""
        if not self._up:
            return
        asked = self._ask_alive()
        _, silent = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
        if silent:
            self._end()
            raise LearnerLostError(silence("a learner", _ANSWER_SECONDS))

    def _ask_alive(self) -> list[ObjectRef[Any]]:
        return [each.alive.options(concurrency_group=_ALIVE).remote() for each in self._learners]


def _error(answer: ObjectRef[Any]) -> RayError | None:
    """Of an answer that is there."""
    try:
        ray.get(answer)
    except RayError as error:
        return error
    return None


def _is_of_another(error: RayError) -> bool:
    """Whether a rank only tells that it lost another."""
    told = str(error)
    return isinstance(error, RayTaskError) and any(name in told for name in ("gloo", "NCCL", "ProcessGroup"))
