"""What a publisher promises: a version's weights can be read until the next but one, and no longer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from al_ray.actors.weights import stored
from al_ray.actors.weights.stored import ObjectStorePublisher, SharedMemoryPublisher, local_files
from al_ray.actors.weights.update import WeightUpdate
from al_ray.errors import DiskError, WeightsLostError
from tests.support.machines.processes import files_up_to


def tensors(version: int) -> dict[str, torch.Tensor]:
    """Every kind there is: a matrix and what is tied to it, a transposed view, half precision."""
    matrix = torch.arange(12.0).reshape(3, 4) + version
    return {"embed": matrix, "head": matrix, "view": matrix.T, "half": matrix.bfloat16()}


async def read(update: WeightUpdate) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    async for path in local_files(update):
        found |= {name: tensor.clone() for name, tensor in load_file(path).items()}
    return found


async def test_a_file_holds_what_was_published(tmp_path: Path) -> None:
    publisher = SharedMemoryPublisher(tmp_path)
    update = publisher.publish(tensors(1).items(), 1)
    assert update.version == 1 and update.stored
    torch.testing.assert_close(await read(update), tensors(1), atol=0, rtol=0)
    publisher.close()


async def test_a_file_that_its_publisher_removes_as_it_is_read_can_be_read_to_its_end(tmp_path: Path) -> None:
    """Asked for later, it is told to be gone."""
    publisher = SharedMemoryPublisher(tmp_path)
    update = publisher.publish(tensors(1).items(), 1)
    async for path in local_files(update):
        publisher.close()
        code = f"from safetensors.torch import load_file; print(load_file({path!r})['embed'].sum())"
        asked = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1)
        assert (await asked.communicate())[0] == b"tensor(78.)\n"
    with pytest.raises(WeightsLostError, match="policy version 1 are gone with the learner that stored them"):
        await read(update)


def test_shared_memory_that_is_full_is_told_with_its_place_and_the_room_that_is_left(tmp_path: Path) -> None:
    """The version before can still be read."""
    publisher = SharedMemoryPublisher(tmp_path)
    before = publisher.publish(tensors(1).items(), 1)
    told = r"weights of policy version 2 .*too large.* GiB are free there"
    with files_up_to(64), pytest.raises(DiskError, match=told):
        publisher.publish(tensors(2).items(), 2)
    assert before.path is not None and load_file(before.path).keys() == tensors(1).keys()
    publisher.close()
    assert list(tmp_path.iterdir()) == []


async def test_the_object_store_holds_what_was_published_in_shards(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "SHARD_BYTES", 100)
    publisher = ObjectStorePublisher()
    update = publisher.publish(tensors(1).items(), 1)
    assert len(update.shards) == 2 and update.stored
    torch.testing.assert_close(await read(update), tensors(1), atol=0, rtol=0)
    publisher.close()


async def test_a_shard_is_read_by_another_process_and_ends_with_the_one_that_took_it(
    ray_cluster: None,
) -> None:
    """It has a name in no folder: an engine that is killed while it loads leaves none in shared memory."""
    publisher = ObjectStorePublisher()
    async for path in local_files(publisher.publish(tensors(1).items(), 1)):
        code = f"from safetensors.torch import load_file; print(load_file({path!r})['embed'].sum())"
        asked = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1)
        assert (await asked.communicate())[0] == b"tensor(78.)\n"
        assert path.startswith(f"/proc/{os.getpid()}/")
        assert os.readlink(path).startswith("/memfd:")
    publisher.close()


async def test_a_version_outlives_the_next_but_not_the_one_after_nor_its_publisher(tmp_path: Path) -> None:
    publisher = SharedMemoryPublisher(tmp_path)
    first, second = (publisher.publish(tensors(version).items(), version) for version in (1, 2))
    torch.testing.assert_close(await read(first), tensors(1), atol=0, rtol=0)
    third = publisher.publish(tensors(3).items(), 3)
    assert {str(path) for path in tmp_path.glob("*/*")} == {second.path, third.path}
    publisher.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_publisher_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, torch; from al_ray.actors.weights.stored import SharedMemoryPublisher as P\n"
        "publisher = P(pathlib.Path(sys.argv[1])); publisher.publish([('a', torch.ones(2))], 1)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        SharedMemoryPublisher(tmp_path).close()
        assert len(list(tmp_path.glob("*/*"))) == 1
        process.send_signal(signal.SIGKILL)
    SharedMemoryPublisher(tmp_path).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_what_another_user_holds_or_left_in_shared_memory_is_left_alone() -> None:
    """Whether it may not even be read, or may be read and not removed."""
    with tempfile.TemporaryDirectory(dir=stored.SHARED_MEMORY) as folder:
        parent = Path(folder)
        parent.chmod(0o1777)  # as shared memory itself is
        others = SharedMemoryPublisher(parent)
        left = parent / f"{stored.PREFIX}left"
        left.mkdir(mode=0o755)
        os.seteuid(65534)
        try:
            SharedMemoryPublisher(parent).close()
        finally:
            os.seteuid(0)
        assert left.exists() and len(list(parent.iterdir())) == 2
        others.close()


def test_publishers_that_start_at_the_same_time_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        publishers = list(threads.map(lambda _: SharedMemoryPublisher(tmp_path), range(200)))
    assert len(list(tmp_path.iterdir())) == len(publishers)
    for publisher in publishers:
        publisher.close()
    assert not list(tmp_path.iterdir())
