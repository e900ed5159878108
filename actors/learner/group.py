"""The driver's handle on the learners: several processes that act as one learner.

Calls block until every rank has answered. Ranks wait for each other, so the first that fails ends them all:
its error is raised, and the group is of no more use until ``restart``. Only after a checkpoint that could not
be written it is as it was. ``LearnerLostError`` says that nothing was wrong but that a process died.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import ray
from ray import ActorID, ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from al_ray.actors.keepers import MAX_LOST
from al_ray.actors.learner.actor import Learner
from al_ray.actors.learner.observing import Observations
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.actors.learner.tally import worth_computing
from al_ray.actors.ray_errors import DIED, in_brief, unwrapped
from al_ray.actors.waiting import silence
from al_ray.actors.weights.update import WeightUpdate, pushes
from al_ray.algorithms.batching import spread
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.passes import ONCE, Passes
from al_ray.errors import AlRayError, CheckpointError, LearnerLostError
from al_ray.machines import cluster
from al_ray.types import Row, UpdateReport

_Answer = TypeVar("_Answer")

_log = logging.getLogger(__name__)

_OTHERS_SECONDS: Final = 2.0
"""Until the other ranks may have failed as well: one that lost another may be the first to tell."""
_CLOSE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 10.0
"""After which it is asked whether the learners are alive."""
_ANSWER_SECONDS: Final = 60.0
"""In which a learner tells that it is, while it computes."""
_LOADING_SECONDS: Final = 300.0
"""... and while it loads its model."""
_ALIVE: Final = "alive"


class LearnerGroup:
    """One learner for each entry of ``options``, the Ray options of its actor. None is there before
    ``start``."""

    def __init__(self, spec: LearnerSpec, options: Sequence[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._options = options
        self.pushes_weights = pushes(spec.transport)
        """Weights are sent to paused engines, not stored for them."""
        self.adapts = spec.lora is not None
        """Engines keep the model, and are given adapters of it."""
        self._learners: Sequence[ActorHandle[Any]] = ()
        self._there: Sequence[ObjectRef[Any]] = ()
        """Answers of all, once they are there: who waits for a node may wait for long."""
        self._placed: dict[ActorID, float] = {}
        """Since when those that are not are known to have a process."""
        self._told_of_waiting = False
        self._starting: Sequence[ObjectRef[Any]] = ()
        """Until all are known to have loaded their models."""
        self._closed = False

    def restart(self) -> None:
        """Learners in new processes, with the weights of the model's folder: they have no stage, and know no
        engines. Those that are lost before they have met are followed by others, as far as that helps."""
        self._while_lost(self._restart)

    def start(self) -> str:
        """Returns how rows are computed, in words, once the models are loaded. Learners that are lost
        meanwhile are followed by others, as far as that helps. Raises ``RecipeError`` where the model cannot
        be trained."""
        return self._while_lost(self._begin)

    def _begin(self) -> str:
        self._restart()
        return self.computes()

    def _restart(self) -> None:
        self.end()
        ranks = len(self._options)
        # Where there is a second group, all methods run in threads that are not the first; to these only the
        # variable tells how many there are to be.
        actor_class: Any = ray.remote(concurrency_groups={_ALIVE: 1})(Learner)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(self._spec.threads)}}
        self._learners = [
            actor_class.options(**option, runtime_env=environment).remote(self._spec, rank, ranks, later=True)
            for rank, option in enumerate(self._options)
        ]
        if self._closed:  # meanwhile, by another thread
            self.end()
        self._there, self._placed, self._told_of_waiting = self._ask_alive(), {}, False
        self._starting = [learner.start.remote() for learner in self._learners]
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
        # The first alone writes, when all have gathered what it does, and nothing of theirs changes.
        self._all([learner.save.remote(folder) for learner in self._learners], harmless=CheckpointError)

    def load(self, folder: str) -> None:
        """Resume from a checkpoint that every learner's node can read."""
        self._on_all("load", folder)

    def nodes(self) -> set[str]:
        """The ids of Ray's nodes that the learners are on, as far as they answer, also at their work."""
        asked = self._ask_alive()
        told, _ = ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)
        return {ray.get(answer) for answer in told if _error(answer) is None}

    def end(self) -> None:
        """End the learners, whatever they are at; asked by another thread than one that waits for them, which
        is told that they died. Next comes ``restart``."""
        for learner in self._learners:
            ray.kill(learner)

    def close(self) -> None:
        """End the learners, also those that hang or start, and free what they published."""
        self._closed = True
        asked = [learner.close.remote() for learner in self._learners]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=_CLOSE_SECONDS)
        self.end()

    def _while_lost(self, ask: Callable[[], _Answer]) -> _Answer:
        """What is answered; asked again where learners are lost meanwhile."""
        lost = 0
        while True:
            try:
                return ask()
            except LearnerLostError as error:
                lost += 1
                if lost > MAX_LOST or self._closed:
                    raise
                _log.warning("learners are started anew: %s", error)

    def _on_first(self, method: str, *arguments: Any) -> Any:
        return self._all([getattr(self._learners[0], method).remote(*arguments)])[0]

    def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        return self._all([getattr(learner, method).remote(*arguments) for learner in self._learners])

    def _all(self, answers: Sequence[ObjectRef[Any]], harmless: type[AlRayError] | None = None) -> list[Any]:
        """What all ranks answer. When one fails, the others are ended: they may wait for it for good. Not so
        where nothing but a ``harmless`` error is raised, and all have answered."""
        asked = [*self._starting, *answers]  # of what could not start, the start tells why
        waiting, failed = asked, False
        while waiting and not failed:
            done, waiting = ray.wait(waiting, timeout=_LOOK_SECONDS)
            failed = any(_error(answer) is not None for answer in done)
            if not done:
                self._require_answering()
        if failed:
            told, _ = ray.wait(asked, num_returns=len(asked), timeout=_OTHERS_SECONDS)
            errors = [error for answer in told if (error := _error(answer))]
            harmed = len(told) < len(asked) or not all(_is_a(harmless, error) for error in errors)
            if len(answers) > 1 and harmed:
                self.end()
            first = min(errors, key=_is_of_another)
            if isinstance(first, DIED):
                raise LearnerLostError(f"a learner died: {in_brief(first)}") from first
            with unwrapped():
                raise first
        self._starting = ()
        found: list[Any] = ray.get(list(answers))
        return found

    def _require_answering(self) -> None:
        """Raises once a process does not answer."""
        _, coming = ray.wait(self._there, num_returns=len(self._there), timeout=0)
        if coming:
            self._require_coming([self._learners[self._there.index(answer)] for answer in coming])
            return
        asked, seconds = self._ask_alive(), _LOADING_SECONDS if self._starting else _ANSWER_SECONDS
        _, silent = ray.wait(asked, num_returns=len(asked), timeout=seconds)
        if silent:
            self.end()
            raise LearnerLostError(silence("a learner", seconds))

    def _require_coming(self, learners: Sequence[ActorHandle[Any]]) -> None:
        """Raises once one of them, which have not answered yet, has had a process for long."""
        now = time.monotonic()
        there = [learner for learner in learners if cluster.has_process(learner)]
        if len(there) < len(learners) and not self._told_of_waiting:
            self._told_of_waiting = True
            _log.warning("learners wait for Ray to start them: it may be that no node has room")
        for learner in there:
            if now > self._placed.setdefault(learner._actor_id, now) + _LOADING_SECONDS:
                self.end()
                raise LearnerLostError(silence("a learner, which starts,", _LOADING_SECONDS))

    def _ask_alive(self) -> list[ObjectRef[Any]]:
        return [each.alive.options(concurrency_group=_ALIVE).remote() for each in self._learners]


def _error(answer: ObjectRef[Any]) -> RayError | None:
    """Of an answer that is there."""
    try:
        ray.get(answer)
    except RayError as error:
        return error
    return None


def _is_a(ours: type[AlRayError] | None, error: RayError) -> bool:
    return ours is not None and isinstance(error, RayTaskError) and isinstance(error.cause, ours)


def _is_of_another(error: RayError) -> bool:
    """Whether a rank only tells that it lost another."""
    told = str(error)
    return isinstance(error, RayTaskError) and any(name in told for name in ("gloo", "NCCL", "ProcessGroup"))
