"""The learner: holds the weights and moves them, one optimizer step an update.

It knows token rows and losses, nothing of agents, rollouts' meaning or engines. Several learners
hold equal weights, sum their gradients and take equal steps, so a step equals that of one learner
with all rows, however rows are packed and spread.
"""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from torch import Tensor

from al_ray.actors.learner import checkpoint
from al_ray.actors.learner.computation import Computation, computation
from al_ray.actors.learner.model import (
    load_model,
    named_tensors,
    peak_bytes,
    sequence_logprobs,
    trained_logprobs,
)
from al_ray.actors.learner.observing import Observations, observe
from al_ray.actors.learner.recomputation import recompute_layers
from al_ray.actors.learner.spec import LearnerSpec, Reference, StageSpec
from al_ray.actors.learner.tally import Tally
from al_ray.actors.weights.publisher import PUBLISHERS
from al_ray.actors.weights.pushed import PushingPublisher
from al_ray.actors.weights.update import WeightUpdate
from al_ray.algorithms.batching import MicroBatch, in_order, pack
from al_ray.algorithms.critic import Critic
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.optimization import FlatGradient, adamw, learning_rate
from al_ray.errors import Problem, RecipeError
from al_ray.machines.whole import whole_folder
from al_ray.recipe import CriticSection, OptimizerSection
from al_ray.types import Row, UpdateReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True)
class _Stage:
    """The state of a stage; ``step`` counts its updates, also refused ones."""

    spec: StageSpec
    optimizer: torch.optim.AdamW
    reference: PreTrainedModel | None
    critic: Critic | None
    step: int = 0


class Learner:
    """Make it an actor; methods that change weights are called on all ranks alike."""

    def __init__(self, spec: LearnerSpec, rank: int = 0, world_size: int = 1) -> None:
        torch.set_num_threads(spec.threads)
        self._spec = spec
        self._rank = rank
        self._world_size = world_size
        self._device = torch.device(spec.device)
        self._model = load_model(spec.model, self._device)
        if spec.recompute:
            recompute_layers(self._model)
        self._how: Computation | None = None
        self._gradient = FlatGradient(self._model)
        self._stage: _Stage | None = None
        self._version = 0
        self._publisher = PUBLISHERS[spec.transport](rank)
        self._store: dist.TCPStore | None = None

    def __repr__(self) -> str:
        """What Ray's dashboard calls it."""
        return f"learner {self._rank} of {self._world_size}"

    def open_rendezvous(self) -> tuple[str, int]:
        """On rank 0: listen where the ranks meet; returns host and port."""
        host = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(host, 0, self._world_size, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def connect(self, host: str, port: int) -> None:
        """Join the group; returns when all ranks have."""
        store = self._store or dist.TCPStore(host, port, self._world_size, is_master=False)
        backend = "gloo" if self._device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=self._rank, world_size=self._world_size)

    def computes(self) -> str:
        """How rows are computed, in words. Raises ``RecipeError`` where the model cannot be trained."""
        return self._computation().told

    def _computation(self) -> Computation:
        """Tried out with the first weights; it does not depend on them."""
        if self._how is None:
            self._how = computation(self._model, self._spec.max_length, self._spec.micro_batch_tokens)
        return self._how

    def policy_version(self) -> int:
        """Weight updates since the model was loaded first, over all stages and resumes."""
        return self._version

    def start_stage(self, spec: StageSpec) -> None:
        """A fresh optimizer, reference and critic."""
        how = self._computation()  # which may give the model another attention
        reference = copy.deepcopy(self._model).requires_grad_(False) if spec.reference else None
        critic = None
        if spec.critic is not None:
            if how.head is None:
                cure = f"needs the last states of the model, which {type(self._model).__name__} does not tell"
                raise RecipeError(Problem("stages.credit", "gae", cure))
            critic = Critic(self._model.get_output_embeddings().weight.shape[1], spec.critic)
        self._stage = _Stage(spec, adamw(self._model, spec.optimizer), reference, critic)

    def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        """Of this rank's calls: their divergence from the reference by an ``estimator``, if one is named, and
        ``features`` for the critic."""
        assert self._stage is not None, "start_stage comes first"
        reference = self._stage.reference if estimator else None
        assert reference is not None or not estimator, "the stage keeps no reference"
        return observe(
            self._model,
            reference,
            rows,
            self._computation(),
            self._spec.dtype,
            loss.temperature,
            estimator or "k1",
            features=features,
        )

    def critic_values(self, features: np.ndarray) -> np.ndarray:
        """What the first rank's critic expects, ``[C]``, of calls of these features, ``[C, H]``."""
        return self._critic.values(features)

    def fit_critic(self, features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Let the first rank's critic learn ``targets``, ``[C]``; returns metrics."""
        return self._critic.fit(features, targets)

    @property
    def _critic(self) -> Critic:
        assert self._stage is not None and self._stage.critic is not None, "the stage has no critic"
        return self._stage.critic

    def update(self, batches: Sequence[Sequence[Row]], loss: Loss) -> UpdateReport:
        """An optimizer step for each of ``batches``, this rank's rows of it; the report is of all ranks.

        Gradients that are not finite move nothing, which ``optim/steps_refused`` counts. So it is where no
        token has a gradient (``optim/steps_empty``): what AdamW remembers of earlier steps must not move the
        weights alone. The policy version rises by one if anything moved.
        """
        assert self._stage is not None, "start_stage comes first"
        stage = self._stage
        if loss.kl_coefficient > 0 and stage.reference is None:
            raise ValueError(f"kl_coefficient {loss.kl_coefficient} needs a stage that keeps a reference")
        if loss.needs_proximal and len(batches) > 1:
            batches = self._with_proximal(batches, loss.temperature)
        rate = learning_rate(stage.spec.optimizer, stage.step, stage.spec.updates)
        for group in stage.optimizer.param_groups:
            group["lr"] = rate
        tally, norms = Tally(), []
        for rows in batches:
            norms.append(self._step(rows, loss, stage, tally))
        moved = [math.isfinite(norm) and norm > 0 for norm in norms]
        self._version += any(moved)
        stage.step += 1
        self._move_reference(stage)
        metrics = tally.metrics(len(batches)) | {
            "learner/peak_gib": peak_bytes(self._device) / 2**30,
            "learner/estimated_gib": self._spec.estimated / 2**30,
            "optim/grad_norm": math.fsum(norms) / len(norms),
            "optim/lr": rate,
            "optim/steps": float(sum(moved)),
            "optim/steps_refused": float(sum(not math.isfinite(norm) for norm in norms)),
            "optim/steps_empty": float(norms.count(0.0)),
        }
        return UpdateReport(self._version, metrics)

    def _step(self, rows: Sequence[Row], loss: Loss, stage: _Stage, tally: Tally) -> float:
        """One optimizer step on all ranks' rows, added to ``tally``; returns the norm of its gradient, which
        is taken if that is finite and not 0."""
        self._gradient.vector.zero_()
        own = Tally()
        for batch in pack(rows, self._computation().packed_tokens):
            own.add(self._backward(batch.to(self._device), loss, stage.reference))
        tally.add(self._sum_over_ranks(own))
        norm = self._gradient.clip(stage.spec.optimizer.max_grad_norm)
        if math.isfinite(norm) and norm > 0:
            stage.optimizer.step()
        return norm

    @torch.no_grad()
    def _move_reference(self, stage: _Stage) -> None:
        """Where it is time to (TR-DPO, arXiv 2404.09656, with hard and soft updates)."""
        if stage.reference is None or stage.spec.reference is None or not stage.spec.reference.every:
            return
        if stage.step % stage.spec.reference.every == 0:
            pairs = zip(stage.reference.parameters(), self._model.parameters(), strict=True)
            for kept, moved in pairs:
                kept.lerp_(moved, stage.spec.reference.mix)

    @torch.no_grad()
    def _with_proximal(self, batches: Sequence[Sequence[Row]], temperature: float) -> list[list[Row]]:
        """The same rows, with their log-probabilities under the policy as it is."""
        rows = in_order({id(row): row for batch in batches for row in batch}.values())
        how, dtype = self._computation(), self._spec.dtype
        found = [
            trained_logprobs(self._model, batch.to(self._device), how, dtype, temperature)[0]
            for batch in pack(rows, how.packed_tokens)
        ]
        values = iter(torch.cat(found).cpu().numpy()) if found else iter(())
        known = {}
        for row in rows:
            proximal = np.zeros(len(row.tokens), np.float32)
            proximal[row.trained] = list(islice(values, int(row.trained.sum())))
            known[id(row)] = replace(row, proximal=proximal)
        return [[known[id(row)] for row in batch] for batch in batches]

    def _backward(self, batch: MicroBatch, loss: Loss, reference: PreTrainedModel | None) -> Tally:
        """Adds the micro-batch's gradient to the buffer."""
        how, dtype, reference_logprobs = self._computation(), self._spec.dtype, None
        if reference is not None:
            with torch.no_grad():
                reference_logprobs, _ = trained_logprobs(reference, batch, how, dtype, loss.temperature)
        logprobs, entropy = trained_logprobs(
            self._model, batch, how, dtype, loss.temperature, entropy_gradient=loss.entropy_coefficient > 0
        )
        losses = loss(logprobs, reference_logprobs, batch)
        total = ((losses.values - loss.entropy_coefficient * entropy) * batch.weights).sum()
        total.backward()
        return Tally.of(batch, total.detach(), {**losses.metrics, "policy/entropy": entropy.detach()})

    def _sum_over_ranks(self, tally: Tally) -> Tally:
        """Sums the gradient in place; returns the tally of all ranks."""
        if self._world_size == 1:
            return tally
        dist.all_reduce(self._gradient.vector)
        tallies = [Tally() for _ in range(self._world_size)]
        dist.all_gather_object(tallies, tally)
        merged = Tally()
        for other in tallies:
            merged.add(other)
        return merged

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights by their checkpoint names, in the published dtype; tied ones once."""
        return named_tensors(self._model, self._spec.dtype)

    def publish(self, version: int) -> WeightUpdate:
        """Make the weights available to the engines as policy ``version``."""
        return self._publisher.publish(self.named_tensors(), version)

    def free_address(self) -> tuple[str, int]:
        """Where engines may meet this learner: its node, and a port that is free now."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def connect_engines(
        self, engines: Sequence[ActorHandle[Any]], tensor_parallel: int, address: tuple[str, int]
    ) -> None:
        """For transports that push: whenever the engines are new, before the next ``send_weights``."""
        assert isinstance(self._publisher, PushingPublisher)
        self._publisher.connect(engines, tensor_parallel, *address)

    def send_weights(self) -> None:
        """For transports that push: what was published last, to engines that are paused."""
        assert isinstance(self._publisher, PushingPublisher)
        self._publisher.send()

    def close(self) -> None:
        """Free what was published."""
        self._publisher.close()

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Of each token but the first, given those before it, at temperature 1."""
        return sequence_logprobs(self._model, token_ids, self._spec.dtype)

    def save(self, folder: str) -> None:
        """A model folder with the resume state beside it, whole or not at all; rank 0 alone is asked."""
        stage = self._stage and {
            "spec": _as_state(self._stage.spec),
            "step": self._stage.step,
            "optimizer": self._stage.optimizer.state_dict(),
            "reference": self._stage.reference and self._stage.reference.state_dict(),
            "critic": self._stage.critic and self._stage.critic.state(),
        }
        with whole_folder(Path(folder)) as partial:
            source, chat_template = Path(self._spec.model), self._spec.chat_template
            checkpoint.write_model(self._model, source, chat_template, partial)
            checkpoint.write_resume({"policy_version": self._version, "stage": stage}, partial)

    def load(self, folder: str) -> None:
        """Become, exactly, the learner that saved ``folder``."""
        self._model.load_state_dict(load_model(folder, self._device).state_dict())
        state = checkpoint.read_resume(Path(folder), self._device)
        self._version = state["policy_version"]
        self._stage = None
        if saved := state["stage"]:
            self.start_stage(_from_state(saved["spec"]))
            stage = self._stage
            assert stage is not None
            stage.step = saved["step"]
            stage.optimizer.load_state_dict(saved["optimizer"])
            if stage.reference is not None:
                stage.reference.load_state_dict(saved["reference"])
            if stage.critic is not None:
                stage.critic.load(saved["critic"])


def _as_state(spec: StageSpec) -> dict[str, Any]:
    """Plain values, which a checkpoint may hold."""
    return {
        "optimizer": spec.optimizer.model_dump(),
        "updates": spec.updates,
        "reference": spec.reference and asdict(spec.reference),
        "critic": spec.critic and spec.critic.model_dump(),
    }


def _from_state(state: Mapping[str, Any]) -> StageSpec:
    return StageSpec(
        OptimizerSection(**state["optimizer"]),
        state["updates"],
        state["reference"] and Reference(**state["reference"]),
        state["critic"] and CriticSection(**state["critic"]),
    )
