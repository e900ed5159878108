"""The learner: holds the weights and moves them, one optimizer step an update.

It knows token rows and losses, nothing of agents, rollouts' meaning or engines. Several learners
hold equal weights, sum their gradients and take equal steps, so a step equals that of one learner
with all rows, however rows are packed and spread.
"""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from al_ray.actors.learner.recomputation import recompute_layers
from al_ray.actors.learner.spec import LearnerSpec
from al_ray.actors.learner.tally import Tally
from al_ray.actors.weights.publisher import PUBLISHERS
from al_ray.actors.weights.pushed import PushingPublisher
from al_ray.actors.weights.update import WeightUpdate
from al_ray.algorithms.batching import MicroBatch, pack
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.optimization import FlatGradient, adamw, learning_rate
from al_ray.machines.whole import whole_folder
from al_ray.recipe import OptimizerSection
from al_ray.types import Row, UpdateReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True)
class _Stage:
    """The state of a stage; ``step`` counts its updates, also refused ones."""

    section: OptimizerSection
    total_steps: int
    optimizer: torch.optim.AdamW
    reference: PreTrainedModel | None
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

    def start_stage(self, section: OptimizerSection, total_steps: int, keep_reference: bool) -> None:
        """A fresh optimizer for ``total_steps`` updates, and a frozen copy of the weights as reference."""
        self._stage = self._fresh_stage(section, total_steps, keep_reference)

    def _fresh_stage(self, section: OptimizerSection, total_steps: int, keep_reference: bool) -> _Stage:
        self._computation()  # which may give the model another attention
        reference = copy.deepcopy(self._model).requires_grad_(False) if keep_reference else None
        return _Stage(section, total_steps, adamw(self._model, section), reference)

    def update(self, rows: Sequence[Row], loss: Loss) -> UpdateReport:
        """One optimizer step on all ranks' rows; the report is of all ranks.

        Gradients that are not finite move nothing: the report then has ``optim/steps_refused`` 1 and
        the policy version stays. So it is where no token has a gradient, with ``optim/steps_empty`` 1:
        what AdamW remembers of earlier steps must not move the weights alone.
        """
        assert self._stage is not None, "start_stage comes first"
        stage = self._stage
        if loss.kl_coefficient > 0 and stage.reference is None:
            raise ValueError(f"kl_coefficient {loss.kl_coefficient} needs start_stage(keep_reference=True)")
        self._gradient.vector.zero_()
        tally = Tally()
        for batch in pack(rows, self._computation().packed_tokens):
            tally.add(self._backward(batch.to(self._device), loss, stage.reference))
        tally = self._sum_over_ranks(tally)
        grad_norm = self._gradient.clip(stage.section.max_grad_norm)
        rate = learning_rate(stage.section, stage.step, stage.total_steps)
        finite, empty = math.isfinite(grad_norm), grad_norm == 0
        if finite and not empty:
            for group in stage.optimizer.param_groups:
                group["lr"] = rate
            stage.optimizer.step()
            self._version += 1
        stage.step += 1
        metrics = tally.metrics() | {
            "learner/peak_gib": peak_bytes(self._device) / 2**30,
            "learner/estimated_gib": self._spec.estimated / 2**30,
            "optim/grad_norm": grad_norm,
            "optim/lr": rate,
            "optim/steps_refused": float(not finite),
            "optim/steps_empty": float(empty),
        }
        return UpdateReport(self._version, metrics)

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
            "section": self._stage.section.model_dump(),
            "total_steps": self._stage.total_steps,
            "step": self._stage.step,
            "optimizer": self._stage.optimizer.state_dict(),
            "reference": self._stage.reference and self._stage.reference.state_dict(),
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
            section = OptimizerSection(**saved["section"])
            stage = self._fresh_stage(section, saved["total_steps"], saved["reference"] is not None)
            stage.step = saved["step"]
            stage.optimizer.load_state_dict(saved["optimizer"])
            if stage.reference is not None:
                stage.reference.load_state_dict(saved["reference"])
            self._stage = stage
