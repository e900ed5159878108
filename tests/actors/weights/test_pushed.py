"""Weights that are pushed, without a device. (With one: ``test_gpu_weights``.)"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from al_ray.actors.weights.pushed import PushingPublisher


class Publisher(PushingPublisher):
    """Over nothing."""

    def _init_info(self, workers: int, address: str, port: int) -> str:
        return f"{workers} at {address}:{port}"

    def _source(self) -> Any:
        """Nothing is sent."""


def test_whoever_connects_to_others_lets_go_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of NCCL each keeps memory of the device."""
    done: list[str] = []

    class Trainer:
        @classmethod
        def trainer_init(cls, info: str, **_: Any) -> Trainer:
            done.append(f"connect {info}")
            return cls()

        def shutdown(self) -> None:
            done.append("shutdown")

    room = "vllm.distributed.weight_transfer"
    clients, factory = SimpleNamespace(RayVLLMWeightSyncClient=list), SimpleNamespace()
    factory.WeightTransferTrainerFactory = Trainer
    monkeypatch.setitem(sys.modules, f"{room}.clients", clients)
    monkeypatch.setitem(sys.modules, f"{room}.factory", factory)
    publisher = Publisher(0)
    engines: Any = ["one", "another"]
    publisher.connect(engines, 2, "node", 1)
    publisher.connect(engines[:1], 2, "node", 2)
    assert done == ["connect 4 at node:1", "shutdown", "connect 2 at node:2"]
    publisher.close()
    publisher.close()
    assert done[3:] == ["shutdown"]
