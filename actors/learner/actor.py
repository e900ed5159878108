"""The learner: holds the weights and moves them, one optimizer step an update.

It knows token rows and losses, nothing of agents, rollouts' meaning or engines. Several learners
hold equal weights, sum their gradients and take equal steps, so a step equals that of one learner
with all rows, however rows are packed and spread.

Master weights are float32, since steps of ordinary learning rates vanish in a bfloat16 weight.
``dtype`` is what the weights are published in, and for bfloat16 what a forward computes in; float16
has too little range for gradients, so its forward computes in float32.
"""

from __future__ import annotations

import copy
import math
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from al_ray.actors.learner import checkpoint
from al_ray.actors.weights.update import (
    IpcPublisher,
    NcclPublisher,
    ObjectStorePublisher,
    SharedMemoryPublisher,
    Transport,
    WeightUpdate,
)
from al_ray.algorithms.batching import MicroBatch, pack
from al_ray.algorithms.losses.clipped import Loss, token_logprobs
from al_ray.algorithms.optimization import FlatGradient, adamw, learning_rate
from al_ray.recipe import OptimizerSection
from al_ray.types import Row, UpdateReport


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What all learners of a group have in common."""

    model: str
    """A model folder."""
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["cpu", "cuda"]
    threads: int
    """CPU threads of one learner."""
    micro_batch_tokens: int
    transport: Transport
    """How weights reach the engines."""
    chat_template: str | None = None
    """Jinja source saved in place of the model's own template."""


@dataclass(slots=True)
class _Stage:
    """The state of a stage; ``step`` counts its updates, also refused ones."""

    section: OptimizerSection
    total_steps: int
    optimizer: torch.optim.AdamW
    reference: PreTrainedModel | None
    step: int = 0


@dataclass(slots=True)
class _Tally:
    """What the micro-batches of an update add up to."""

    sums: Counter[str] = field(default_factory=Counter)
    """Token metrics are sums over trained tokens."""
    ratio_max: float = 0.0

    def add(self, other: _Tally) -> None:
        self.sums.update(other.sums)
        self.ratio_max = max(self.ratio_max, other.ratio_max)


class Learner:
    """Make it an actor; methods that change weights are called on all ranks alike."""

    def __init__(self, settings: LearnerSettings, rank: int = 0, world_size: int = 1) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._rank = rank
        self._world_size = world_size
        self._device = torch.device(settings.device)
        self._model = _load_model(settings.model, self._device)
        self._gradient = FlatGradient(self._model)
        self._stage: _Stage | None = None
        self._version = 0
        self._publisher = _publisher(settings.transport, rank)
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

    def policy_version(self) -> int:
        """Weight updates since the model was loaded first, over all stages and resumes."""
        return self._version

    def start_stage(self, section: OptimizerSection, total_steps: int, keep_reference: bool) -> None:
        """A fresh optimizer for ``total_steps`` updates, and a frozen copy of the weights as reference."""
        self._stage = self._fresh_stage(section, total_steps, keep_reference)

    def _fresh_stage(self, section: OptimizerSection, total_steps: int, keep_reference: bool) -> _Stage:
        reference = copy.deepcopy(self._model).requires_grad_(False) if keep_reference else None
        return _Stage(section, total_steps, adamw(self._model, section), reference)

    def update(self, rows: Sequence[Row], loss: Loss) -> UpdateReport:
        """One optimizer step on all ranks' rows; the report is of all ranks.

        Gradients that are not finite move nothing: the report then has ``steps_refused`` 1 and the
        policy version stays.
        """
        assert self._stage is not None, "start_stage comes first"
        stage, started = self._stage, time.perf_counter()
        if loss.kl_coefficient > 0 and stage.reference is None:
            raise ValueError(f"kl_coefficient {loss.kl_coefficient} needs start_stage(keep_reference=True)")
        self._gradient.vector.zero_()
        tally = _Tally()
        for batch in pack(rows, self._settings.micro_batch_tokens):
            tally.add(self._backward(batch.to(self._device), loss, stage.reference))
        tally = self._sum_over_ranks(tally)
        grad_norm = self._gradient.clip(stage.section.max_grad_norm)
        rate = learning_rate(stage.section, stage.step, stage.total_steps)
        accepted = math.isfinite(grad_norm)
        if accepted:
            for group in stage.optimizer.param_groups:
                group["lr"] = rate
            stage.optimizer.step()
            self._version += 1
        stage.step += 1
        metrics = _metrics(tally) | {
            "grad_norm": grad_norm,
            "lr": rate,
            "steps_refused": float(not accepted),
            "seconds": time.perf_counter() - started,
        }
        return UpdateReport(self._version, metrics)

    def _backward(self, batch: MicroBatch, loss: Loss, reference: PreTrainedModel | None) -> _Tally:
        """Adds the micro-batch's gradient to the buffer."""
        reference_logprobs = None
        if reference is not None:
            with torch.no_grad():
                logits = self._logits(reference, batch)
                reference_logprobs, _ = token_logprobs(logits, batch, loss.temperature)
        logprobs, entropy = token_logprobs(self._logits(self._model, batch), batch, loss.temperature)
        losses = loss(logprobs, reference_logprobs, batch)
        total = (losses.values * batch.weights).sum()
        total.backward()
        ratio_max = float(losses.metrics["ratio"].max()) if "ratio" in losses.metrics else 0.0
        per_token = {**losses.metrics, "entropy": entropy}
        sums = {name: float(values.sum()) for name, values in per_token.items()}
        totals = {
            "loss": float(total.detach()),
            "tokens": len(batch.targets),
            "tokens_computed": batch.computed,
            "tokens_shared": batch.saved,
            "micro_batches": 1,
        }
        return _Tally(Counter(sums | totals), ratio_max)

    def _logits(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        """``[P, V]``, at the predecessors only."""
        narrow = self._settings.dtype == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=narrow):
            output = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                logits_to_keep=batch.predecessors,
                use_cache=False,
            )
        return cast(Tensor, output.logits[0])

    def _sum_over_ranks(self, tally: _Tally) -> _Tally:
        """Sums the gradient in place; returns the tally of all ranks."""
        if self._world_size == 1:
            return tally
        dist.all_reduce(self._gradient.vector)
        tallies = [_Tally() for _ in range(self._world_size)]
        dist.all_gather_object(tallies, tally)
        merged = _Tally()
        for other in tallies:
            merged.add(other)
        return merged

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights by their checkpoint names, in the published dtype; tied ones once."""
        dtype = getattr(torch, self._settings.dtype)
        for name, parameter in self._model.named_parameters():
            yield name, parameter.detach().to(dtype)

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
        assert isinstance(self._publisher, NcclPublisher | IpcPublisher)
        self._publisher.connect(engines, tensor_parallel, *address)

    def send_weights(self) -> None:
        """For transports that push: what was published last, to engines that are paused."""
        assert isinstance(self._publisher, NcclPublisher | IpcPublisher)
        self._publisher.send()

    def close(self) -> None:
        """Free what was published."""
        self._publisher.close()

    @torch.no_grad()
    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Of each token but the first, given those before it, at temperature 1."""
        ids = torch.tensor([list(token_ids)], device=self._device)
        narrow = self._settings.dtype == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=narrow):
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, :-1]
        selected = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return [float(value) for value in selected]

    def save(self, folder: str) -> None:
        """A model folder with the resume state beside it, whole or not at all; rank 0 alone is asked."""
        stage = self._stage and {
            "section": self._stage.section.model_dump(),
            "total_steps": self._stage.total_steps,
            "step": self._stage.step,
            "optimizer": self._stage.optimizer.state_dict(),
            "reference": self._stage.reference and self._stage.reference.state_dict(),
        }
        with checkpoint.atomic_folder(Path(folder)) as partial:
            source, chat_template = Path(self._settings.model), self._settings.chat_template
            checkpoint.write_model(self._model, source, chat_template, partial)
            checkpoint.write_resume({"policy_version": self._version, "stage": stage}, partial)

    def load(self, folder: str) -> None:
        """Become, exactly, the learner that saved ``folder``."""
        self._model.load_state_dict(_load_model(folder, self._device).state_dict())
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


def _publisher(
    transport: Transport, rank: int
) -> SharedMemoryPublisher | ObjectStorePublisher | NcclPublisher | IpcPublisher:
    match transport:
        case "shared_memory":
            return SharedMemoryPublisher()
        case "object_store":
            return ObjectStorePublisher()
        case "nccl":
            return NcclPublisher(rank)
        case "ipc":
            return IpcPublisher(rank)


def _load_model(folder: str, device: torch.device) -> PreTrainedModel:
    """In evaluation mode: sharing prefixes is exact only without dropout."""
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return cast(PreTrainedModel, model.to(device).eval())


def _metrics(tally: _Tally) -> dict[str, float]:
    """Totals as they are, token metrics as means over trained tokens."""
    totals = ("loss", "tokens", "tokens_computed", "tokens_shared", "micro_batches")
    metrics = {name: float(tally.sums[name]) for name in totals}
    means = {name: value / tally.sums["tokens"] for name, value in tally.sums.items() if name not in totals}
    return metrics | means | ({"ratio_max": tally.ratio_max} if "ratio" in means else {})
