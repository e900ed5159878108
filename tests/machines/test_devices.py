"""GPUs are counted and judged as CUDA shows them, which heeds ``CUDA_VISIBLE_DEVICES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.machines import devices
from al_ray.machines.devices import Gpu, gpus, listed, nvidia_gpus
from al_ray.machines.plan import this_machine

TURING, ADA = Gpu(7.5, 4096 * 2**20), Gpu(8.9, 24_564 * 2**20)
CARDS = {"GPU-aa11": TURING, "GPU-ab22": ADA, "GPU-cc33": ADA}
TOLD = "".join(f"{uuid}, {gpu.capability}, {gpu.memory // 2**20}\n" for uuid, gpu in CARDS.items())
Tell = Callable[[str], None]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tell]:
    """Three devices, of which ``nvidia-smi`` tells what it is given; nothing hides one."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def write(told: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat << END\n{told}END\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    devices._cards.cache_clear()
    yield write
    devices._cards.cache_clear()


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (None, [TURING, ADA, ADA]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [ADA]),
        ("2, 0", [ADA, TURING]),
        ("1,3,0", [ADA]),
        ("GPU-ab22", [ADA]),
        ("GPU-c,GPU-aa", [ADA, TURING]),
        ("GPU-cc33,GPU-none,GPU-aa11", [ADA]),
        ("GPU-a", []),  # which of the two?
        ("1,1", []),
    ],
)
def test_those_are_seen_that_the_variable_names_and_a_plan_counts_the_same(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, names: str | None, shown: list[Gpu]
) -> None:
    """Those behind a name of none are hidden too, and a list that names one twice shows none."""
    tell(TOLD)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert gpus() == shown
    assert nvidia_gpus() == this_machine()[0].gpus == len(shown)


def test_a_number_of_cudas_own_order_may_be_any_of_several_kinds(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with the fastest, and nothing tells which that is; so the least of all is reckoned with."""
    tell(TOLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert gpus() == [TURING, TURING]


@pytest.mark.parametrize(("names", "count"), [("0,2", 2), ("3", 0), ("GPU-ab22", 1), ("MIG-1,MIG-2", 2)])
def test_those_that_nothing_tells_of_are_counted(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, names: str, count: int
) -> None:
    tell("No devices were found\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert (nvidia_gpus(), gpus()) == (count, [])


NAMES = st.one_of(st.integers(-1, 4).map(str), st.sampled_from([*CARDS, "GPU-a", "GPU-c", "x", ""]))


@given(st.lists(NAMES, max_size=5))
def test_none_is_shown_twice_or_behind_a_name_of_none(names: list[str]) -> None:
    found = listed(",".join(names), [*CARDS])
    assert len(set(found)) == len(found) <= len(names)
    for index, name in zip(found, names, strict=False):
        assert name == str(index) or [*CARDS][index].startswith(name)
