"""The learner: holds the weights and moves them, one optimizer step an update.

It knows token rows and losses, nothing of agents, rollouts' meaning or engines. Several learners
hold equal weights or share them out, and sum their gradients: a step equals that of one learner with
all rows, however rows are packed and spread.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from torch import Tensor

from al_ray.actors.learner import checkpoint
from al_ray.actors.learner.computation import Computation, computation
from al_ray.actors.learner.holding import adapter
from al_ray.actors.learner.holding.held import Held
from al_ray.actors.learner.holding.kept import Kept
from al_ray.actors.learner.holding.whole import Whole
from al_ray.actors.learner.model import load_model, peak_bytes, sequence_logprobs
from al_ray.actors.learner.observing import Observations, observe, with_proximal
from al_ray.actors.learner.recomputation import recompute_layers
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.actors.learner.stage import Stage, spec_of
from al_ray.actors.learner.tally import Tally
from al_ray.actors.weights.publisher import PUBLISHERS
from al_ray.actors.weights.pushed import PushingPublisher
from al_ray.actors.weights.update import WeightUpdate
from al_ray.algorithms.batching import MicroBatch, pack
from al_ray.algorithms.critic import Critic
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.optimization import adamw, learning_rate
from al_ray.errors import Problem, RecipeError
from al_ray.machines.whole import whole_folder
from al_ray.types import Row, UpdateReport


class Learner:
    """Make it an actor; what concerns the weights is called on all ranks alike."""

    def __init__(self, spec: LearnerSpec, rank: int = 0, world_size: int = 1) -> None:
        torch.set_num_threads(spec.threads)
        self._spec = spec
        self._rank = rank
        self._world_size = world_size
        self._device = torch.device(spec.device)
        self._model = load_model(spec.model, self._device)
        if spec.lora is not None:
            adapter.add_adapter(self._model, spec.lora, spec.seed)
        if spec.recompute:
            recompute_layers(self._model)
        self._held: Held
        if not (spec.sharded and world_size > 1):
            self._held = Whole(self._model, world_size)
        self._how: Computation | None = None
        self._stage: Stage | None = None
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
        """Join the group; returns when all ranks have. Raises ``RecipeError`` where the model cannot be
        sharded."""
        store = self._store or dist.TCPStore(host, port, self._world_size, is_master=False)
        backend = "gloo" if self._device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=self._rank, world_size=self._world_size)
        if self._spec.sharded:
            from al_ray.actors.learner.holding.sharded import Sharded  # torch's FSDP takes a second to import

            how = self._computation()  # which is tried out on the whole model
            self._held = Sharded(self._model, how, self._spec.dtype)

    def computes(self) -> str:
        """How rows are computed, in words. Raises ``RecipeError`` where the model cannot be trained."""
        return self._computation().told

    def _computation(self) -> Computation:
        """Tried out with the first weights, in float32; it does not depend on them."""
        if self._how is None:
            longest, tokens = self._spec.max_length, self._spec.micro_batch_tokens
            self._how = computation(self._model, longest, tokens)
            if self._spec.lora is not None:
                adapter.freeze_in(self._model, self._spec.dtype)
        return self._how

    def alive(self) -> str:
        """Answers, in a thread of its own, unless the process is stopped: the id of Ray's node here."""
        return str(ray.get_runtime_context().get_node_id())

    def policy_version(self) -> int:
        """Weight updates since the model was loaded first, over all stages and resumes."""
        return self._version

    def start_stage(self, spec: StageSpec) -> None:
        """A fresh optimizer, reference and critic."""
        how = self._computation()  # which may give the model another attention
        model = self._model
        reference = Kept(self._held, spec.reference) if spec.reference else None
        critic = None
        if spec.critic is not None:
            if how.head is None:
                cure = f"needs the last states of the model, which {type(model).__name__} does not tell"
                raise RecipeError(Problem("stages.credit", "gae", cure))
            critic = Critic(model.get_output_embeddings().weight.shape[1], spec.critic)
        self._stage = Stage(spec, self._held, adamw(model, spec.optimizer), reference, critic)

    def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        """Of this rank's calls: their divergence from the reference by an ``estimator``, if one is named, and
        ``features`` for the critic."""
        assert self._stage is not None, "start_stage comes first"
        reference = self._stage.reference if estimator else None
        assert reference is not None or not estimator, "the stage keeps no reference"
        return observe(
            self._held,
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
            how, dtype = self._computation(), self._spec.dtype
            batches = with_proximal(self._held, batches, how, dtype, loss.temperature)
        rate = learning_rate(stage.spec.optimizer, stage.step, stage.spec.updates)
        for group in stage.optimizer.param_groups:
            group["lr"] = rate
        tally, norms = Tally(), []
        for rows in batches:
            norms.append(self._step(rows, loss, stage, tally))
        moved = [math.isfinite(norm) and norm > 0 for norm in norms]
        self._version += any(moved)
        stage.step += 1
        if stage.reference is not None:
            stage.reference.move(stage.step)
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

    def _step(self, rows: Sequence[Row], loss: Loss, stage: Stage, tally: Tally) -> float:
        """One optimizer step on all ranks' rows, added to ``tally``; returns the norm of its gradient, which
        is taken if that is finite and not 0."""
        self._held.zero_gradient()
        mine = list(pack(rows, self._computation().packed_tokens))
        batches = self._held.even(mine)
        references = self._reference_logprobs(batches, loss.temperature, stage.reference)
        own = Tally()
        for batch, logprobs in zip(mine, references, strict=False):
            own.add(self._backward(batch.to(self._device), loss, logprobs))
        for batch in batches[len(mine) :]:
            self._logprobs(batch, loss.temperature)[0].sum().mul(0).backward()
        self._held.sum_gradient()
        tally.add(self._of_all_ranks(own))
        norm = self._held.clip(stage.spec.optimizer.max_grad_norm)
        if math.isfinite(norm) and norm > 0:
            stage.optimizer.step()
        return norm

    def _reference_logprobs(
        self, batches: Sequence[MicroBatch], temperature: float, reference: Kept | None
    ) -> list[Tensor | None]:
        """Of the trained tokens of each micro-batch."""
        if reference is None:
            return [None] * len(batches)
        with reference.in_place():
            return [self._logprobs(batch, temperature)[0] for batch in batches]

    def _logprobs(
        self, batch: MicroBatch, temperature: float, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See ``Held.logprobs``."""
        moved, how, dtype = batch.to(self._device), self._computation(), self._spec.dtype
        return self._held.logprobs(moved, how, dtype, temperature, entropy_gradient=entropy_gradient)

    def _backward(self, batch: MicroBatch, loss: Loss, reference: Tensor | None) -> Tally:
        """Adds the micro-batch's gradient to what is there."""
        wanted = loss.entropy_coefficient > 0
        logprobs, entropy = self._logprobs(batch, loss.temperature, entropy_gradient=wanted)
        losses = loss(logprobs, reference, batch)
        total = ((losses.values - loss.entropy_coefficient * entropy) * batch.weights).sum()
        total.backward()
        return Tally.of(batch, total.detach(), {**losses.metrics, "policy/entropy": entropy.detach()})

    def _of_all_ranks(self, tally: Tally) -> Tally:
        if self._world_size == 1:
            return tally
        tallies = [Tally() for _ in range(self._world_size)]
        dist.all_gather_object(tallies, tally)
        merged = Tally()
        for other in tallies:
            merged.add(other)
        return merged

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained, as it is held, by its names in files, in the published dtype; tied ones once."""
        for name, parameter in self._held.trained():
            public = name if self._spec.lora is None else adapter.public_name(name)
            yield public, parameter.detach().to(getattr(torch, self._spec.dtype))

    def publish(self, version: int) -> WeightUpdate:
        """Make the weights available to the engines as policy ``version``; the first rank's answer counts."""
        if isinstance(self._publisher, PushingPublisher):
            return self._publisher.publish(self.named_tensors(), version)
        pieces = ((name, self._held.whole(tensor)) for name, tensor in self.named_tensors())
        if self._rank > 0:
            for _ in pieces:
                pass
            return WeightUpdate(version)
        return self._publisher.publish(pieces, version)

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
        self._computation()
        asked = partial(sequence_logprobs, token_ids=token_ids, dtype=self._spec.dtype)
        with torch.no_grad():
            return self._held.compute(asked)

    def save(self, folder: str) -> None:
        """A model's or an adapter's folder, with the resume state, whole or not at all; the first rank's.
        Raises ``CheckpointError`` where it cannot be written."""
        state = {"policy_version": self._version, "stage": self._stage and self._stage.state()}
        values = {name: self._held.whole(parameter.detach()) for name, parameter in self._held.trained()}
        if self._rank > 0:
            return
        with checkpoint.writing(Path(folder)), whole_folder(Path(folder)) as unfinished:
            checkpoint.write_model(self._held, values, self._spec, unfinished)
            checkpoint.write_resume(state, unfinished)

    def load(self, folder: str) -> None:
        """Become, exactly, the learner that saved ``folder``. Raises ``CheckpointError`` if it is damaged."""
        with checkpoint.reading(Path(folder)):
            checkpoint.read_model(self._held, self._spec, Path(folder))
            state = checkpoint.read_resume(Path(folder), in_parts=self._spec.sharded)
        self._version = state["policy_version"]
        self._stage = None
        if saved := state["stage"]:
            self.start_stage(spec_of(saved))
            assert self._stage is not None
            self._stage.load(saved)
