"""The learner: holds the weights and moves them, one optimizer step an update.

It knows token rows and losses, nothing of agents, rollouts' meaning or engines. Of several policies it holds
the model once, and an adapter with its optimizer and reference for each. Several learners
hold equal weights or share them out, and sum their gradients: a step equals that of one learner with
all rows, however rows are packed and spread.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from al_ray.actors.learner.model import in_files, in_state, load_model, peak_bytes, sequence_logprobs
from al_ray.actors.learner.observing import Observations, observe, with_proximal
from al_ray.actors.learner.recomputation import recompute_layers
from al_ray.actors.learner.spec import LearnerSpec, StageSpec
from al_ray.actors.learner.stage import Stage, spec_of
from al_ray.actors.learner.tally import OF_POLICIES, Tally, moves, of_norms
from al_ray.actors.weights.publisher import PUBLISHERS
from al_ray.actors.weights.pushed import PushingPublisher
from al_ray.actors.weights.update import WeightUpdate, name_of_policy
from al_ray.algorithms.batching import MicroBatch, pack
from al_ray.algorithms.critic import Critic
from al_ray.algorithms.losses.token import Loss
from al_ray.algorithms.optimization import adamw, learning_rate
from al_ray.errors import Problem, RecipeError
from al_ray.machines.whole import whole_folder
from al_ray.types import Row, UpdateReport


class Learner:
    """Make it an actor; what concerns the weights is called on all ranks alike. With ``later`` it loads its
    model in ``start``, beside which ``alive`` answers."""

    def __init__(self, spec: LearnerSpec, rank: int = 0, world_size: int = 1, *, later: bool = False) -> None:
        self._spec = spec
        self._rank = rank
        self._world_size = world_size
        if not later:
            self.start()

    def start(self) -> None:
        """Load the model."""
        spec, rank, world_size = self._spec, self._rank, self._world_size
        torch.set_num_threads(spec.threads)
        self._device = torch.device(spec.device)
        self._model = load_model(spec.model, self._device)
        self._policies = list(spec.policies)
        if spec.lora is not None:
            adapter.add_adapters(self._model, spec.lora, self._policies, spec.seed)
        if spec.recompute:
            recompute_layers(self._model)
        self._held: Held
        if not (spec.sharded and world_size > 1):
            self._held = Whole(self._model, self._policies, world_size)
            self._begin()
        self._how: Computation | None = None
        self._stages: dict[str, Stage] = {}
        """By policy."""
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
            self._held = Sharded(self._model, self._policies, how)
            self._begin()

    def _begin(self) -> None:
        """As the adapters that the policies are to begin as."""
        for policy in self._each_policy():
            if (folder := self._spec.policies[policy]) is not None:
                checkpoint.read_adapter(self._held, policy, Path(folder))

    def _each_policy(self) -> Iterator[str]:
        """In use while it is looked at."""
        for policy in self._policies:
            self._held.use(policy)
            yield policy

    def computes(self) -> str:
        """How rows are computed, in words. Raises ``RecipeError`` where the model cannot be trained."""
        return self._computation().told

    def _computation(self) -> Computation:
        """Tried out with the first weights; it does not depend on them."""
        if self._how is None:
            tried = computation(self._model, self._spec.max_length, self._spec.micro_batch_tokens)
            self._how = replace(tried, dtype=self._spec.dtype)
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
        """A fresh optimizer, reference and critic, for each policy."""
        how = self._computation()  # which may give the model another attention
        if spec.critic is not None and how.head is None:
            cure = f"needs the last states of the model, which {type(self._model).__name__} does not tell"
            raise RecipeError(Problem("stages.credit", "gae", cure))
        self._stages = {policy: self._new_stage(spec) for policy in self._each_policy()}

    def _new_stage(self, spec: StageSpec) -> Stage:
        """Of the policy in use."""
        optimizer = adamw([parameter for _, parameter in self._held.trained()], spec.optimizer)
        reference = Kept(self._held, spec.reference) if spec.reference else None
        critic = None
        if spec.critic is not None:
            critic = Critic(self._model.get_output_embeddings().weight.shape[1], spec.critic)
        return Stage(spec, self._held, optimizer, reference, critic)

    def observe(
        self, rows: Sequence[Row], loss: Loss, estimator: str | None, *, features: bool
    ) -> Observations:
        """Of this rank's calls: their divergence from the reference by an ``estimator``, if one is named, and
        ``features`` for the critic."""
        assert self._stages, "start_stage comes first"
        found = []
        for policy in self._each_policy():
            reference = self._stages[policy].reference if estimator else None
            assert reference is not None or not estimator, "the stage keeps no reference"
            part = observe(
                self._held,
                reference,
                [row for row in rows if row.policy == policy],
                self._computation(),
                loss.temperature,
                estimator or "k1",
                features=features,
            )
            found.append(part)
        return Observations.joined(found)

    def critic_values(self, features: np.ndarray) -> np.ndarray:
        """What the first rank's critic expects, ``[C]``, of calls of these features, ``[C, H]``."""
        return self._critic.values(features)

    def fit_critic(self, features: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Let the first rank's critic learn ``targets``, ``[C]``; returns metrics."""
        return self._critic.fit(features, targets)

    @property
    def _critic(self) -> Critic:
        stage = self._stages.get(self._policies[0])
        assert stage is not None and stage.critic is not None, "the stage has no critic"
        return stage.critic

    def update(self, batches: Sequence[Sequence[Row]], loss: Loss) -> UpdateReport:
        """An optimizer step of each policy for each of ``batches``, this rank's rows of it; the report is of
        all ranks.

        A policy is moved by its own rows as if it were alone. Gradients that are not finite move nothing,
        which ``optim/steps_refused`` counts. So it is where no token has a gradient (``optim/steps_empty``):
        what AdamW remembers of earlier steps must not move the weights alone. The policy version rises by one
        if anything moved.
        """
        assert self._stages, "start_stage comes first"
        if unknown := {row.policy for rows in batches for row in rows} - self._stages.keys():
            raise ValueError(f"rows of policies that do not learn: {sorted(unknown)}")
        tally, norms, of_policies = Tally(), list[float](), dict[str, float]()
        for policy in self._each_policy():
            own = self._steps([[row for row in rows if row.policy == policy] for rows in batches])
            own_tally, own_norms = self._update(own, loss, self._stages[policy])
            tally.add(own_tally)
            norms += own_norms
            if len(self._policies) > 1:
                told = own_tally.metrics(len(own)) | of_norms(own_norms)
                of_policies |= {f"{key}/{policy}": told[key] for key in OF_POLICIES if key in told}
        self._version += any(map(moves, norms))
        metrics = {
            **tally.metrics(len(norms)),
            **of_norms(norms),
            **of_policies,
            "learner/peak_gib": peak_bytes(self._device) / 2**30,
            "learner/estimated_gib": self._spec.estimated / 2**30,
            "optim/lr": self._stages[self._policies[0]].optimizer.param_groups[0]["lr"],
        }
        return UpdateReport(self._version, metrics)

    def _steps(self, batches: Sequence[Sequence[Row]]) -> Sequence[Sequence[Row]]:
        """A policy's own batches, as many as it would have alone: those at the end in which no rank has a row
        are there for others."""
        count = len(batches)
        while count > 1 and not self._on_any_rank(bool(batches[count - 1])):
            count -= 1
        return batches[:count]

    def _update(
        self, batches: Sequence[Sequence[Row]], loss: Loss, stage: Stage
    ) -> tuple[Tally, list[float]]:
        """An update of the policy in use; returns also the norm of each step's gradient."""
        if loss.kl_coefficient > 0 and stage.reference is None:
            raise ValueError(f"kl_coefficient {loss.kl_coefficient} needs a stage that keeps a reference")
        if len(batches) > 1 and self._on_any_rank(_needs_proximal(batches, loss)):
            batches = with_proximal(self._held, batches, self._computation(), loss.temperature)
        rate = learning_rate(stage.spec.optimizer, stage.step, stage.spec.updates)
        for group in stage.optimizer.param_groups:
            group["lr"] = rate
        tally = Tally()
        norms = [self._step(rows, loss, stage, tally) for rows in batches]
        stage.step += 1
        if stage.reference is not None:
            stage.reference.move(stage.step)
        return tally, norms

    def _step(self, rows: Sequence[Row], loss: Loss, stage: Stage, tally: Tally) -> float:
        """One optimizer step on all ranks' rows, added to ``tally``; returns the norm of its gradient, which
        is taken if that is finite and not 0."""
        self._held.zero_gradient()
        mine = list(pack(rows, self._computation().packed_tokens))
        batches = self._held.even(mine)
        reference = stage.reference if loss.kl_coefficient > 0 else None
        references = self._reference_logprobs(batches, loss.temperature, reference)
        own = Tally()
        for batch, logprobs in zip(mine, references, strict=False):
            own.add(self._backward(batch.to(self._device), loss, logprobs))
        for batch in batches[len(mine) :]:
            self._logprobs(batch, loss.temperature)[0].sum().mul(0).backward()
        self._held.sum_gradient()
        tally.add(self._of_all_ranks(own))
        norm = self._held.clip(stage.spec.optimizer.max_grad_norm)
        if moves(norm):
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
        moved, how = batch.to(self._device), self._computation()
        return self._held.logprobs(moved, how, temperature, entropy_gradient=entropy_gradient)

    def _backward(self, batch: MicroBatch, loss: Loss, reference: Tensor | None) -> Tally:
        """Adds the micro-batch's gradient to what is there."""
        wanted = loss.entropy_coefficient > 0
        logprobs, entropy = self._logprobs(batch, loss.temperature, entropy_gradient=wanted)
        losses = loss(logprobs, reference, batch)
        total = ((losses.values - loss.entropy_coefficient * entropy) * batch.weights).sum()
        total.backward()
        return Tally.of(batch, total.detach(), {**losses.metrics, "policy/entropy": entropy.detach()})

    def _on_any_rank(self, here: bool) -> bool:
        if self._world_size == 1:
            return here
        anywhere = torch.tensor(int(here), device=self._device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        return bool(anywhere)

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
        """What engines are given, as it is held, what is trained in the published dtype: the adapter of each
        policy by names in files; a model with its buffers, by its own names (``in_files``)."""
        dtype = getattr(torch, self._spec.dtype)
        if self._spec.lora is not None:
            for policy in self._each_policy():
                for name, parameter in self._held.trained():
                    public = name_of_policy(policy, adapter.public_name(policy, name))
                    yield public, parameter.detach().to(dtype)
            return
        for name, tensor in in_state(self._model):
            yield name, tensor.detach().to(dtype) if tensor.requires_grad else tensor

    def publish(self, version: int) -> WeightUpdate:
        """Make the weights available to the engines as policy ``version``; the first rank's answer counts."""
        if isinstance(self._publisher, PushingPublisher):
            return self._publisher.publish(self.named_tensors(), partial(in_files, self._model), version)
        whole = ((name, self._held.whole(tensor)) for name, tensor in self.named_tensors())
        if self._rank > 0:
            for _ in whole:
                pass
            return WeightUpdate(version)
        adapts = self._spec.lora is not None
        return self._publisher.publish(whole if adapts else in_files(self._model, whole), version)

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

    def logprobs(self, token_ids: Sequence[int], policy: str = "") -> list[float]:
        """Of each token but the first, given those before it, at temperature 1, by a policy."""
        self._computation()
        self._held.use(policy)
        asked = partial(sequence_logprobs, token_ids=token_ids, dtype=self._spec.dtype)
        with torch.no_grad():
            return self._held.compute(asked)

    def save(self, folder: str) -> None:
        """A model's or an adapter's folder, with the resume state, whole or not at all; the first rank's.
        Raises ``CheckpointError`` where it cannot be written."""
        state = {
            "policy_version": self._version,
            "stages": {policy: stage.state() for policy, stage in self._stages.items()},
        }
        values = {
            policy: {name: self._held.whole(parameter.detach()) for name, parameter in self._held.trained()}
            for policy in self._each_policy()
        }
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
        self._stages = {}
        if saved := state["stages"]:
            self.start_stage(spec_of(saved[self._policies[0]]))
            for policy in self._each_policy():
                self._stages[policy].load(saved[policy])


def _needs_proximal(batches: Sequence[Sequence[Row]], loss: Loss) -> bool:
    """Tokens that a grammar held are measured against the policy that the update begins with."""
    return loss.needs_proximal or any(row.constrained is not None for rows in batches for row in rows)
