"""What is written is whole or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from al_ray.machines.whole import whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_all_that_was_written_and_replaces_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "x.json"
    for content in (b"one", b"another"):
        before = place.read_bytes() if place.exists() else None
        with whole_file(place) as file:
            file.write(content)
            file.flush()
            assert (place.read_bytes() if place.exists() else None) == before
        assert place.read_bytes() == content
    assert names(tmp_path) == ["x.json"]


def test_a_folder_appears_with_all_that_was_written_and_replaces_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "made" / "x"
    for content in ("one", "another"):
        with whole_folder(place) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / content).touch()
        assert names(place / "deep") == [content]
    assert names(place.parent) == ["x"]


def test_several_may_write_a_file_at_once(tmp_path: Path) -> None:
    """Also on machines that share a disk, whose processes may have one number."""
    place = tmp_path / "x"
    with whole_file(place) as one:
        one.write(b"one")
        with whole_file(place) as other:
            other.write(b"other")
        assert place.read_bytes() == b"other"
    assert place.read_bytes() == b"one" and names(tmp_path) == ["x"]


def test_a_folder_takes_the_place_of_what_a_link_leads_to(tmp_path: Path) -> None:
    """As of models that lie on a larger disk; whether there is something yet or not."""
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "model"
    link.symlink_to(tmp_path / "disk" / "model")
    for content in ("one", "another"):
        with whole_folder(link) as folder:
            (folder / content).touch()
        assert link.is_symlink() and names(tmp_path / "disk" / "model") == [content]
    assert (names(tmp_path / "here"), names(tmp_path / "disk")) == (["model"], ["model"])


def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full"), whole_file(tmp_path / "file") as file:
        file.write(b"new")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
        raise OSError("full")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path / "folder") == ["old"]


def test_what_a_killed_writer_left_of_a_folder_is_removed_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys; from al_ray.machines.whole import whole_folder\n"
        "with whole_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "x"], check=False)
    assert killed.returncode == -signal.SIGKILL and names(tmp_path) == [".x.partial"]
    with whole_folder(tmp_path / "x") as folder:
        (folder / "whole").touch()
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["whole"]


def test_what_was_there_comes_back_where_its_writer_was_killed_or_failed_as_it_replaced_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x"
    (tmp_path / ".x.replaced").mkdir()
    (tmp_path / ".x.replaced" / "old").touch()
    with pytest.raises(OSError, match="full"), whole_folder(place):
        assert names(place) == ["old"]
        raise OSError("full")
    assert (names(tmp_path), names(place)) == (["x"], ["old"])
    rename = Path.rename

    def stale(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError("stale")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stale)
    with pytest.raises(OSError, match="stale"), whole_folder(place) as folder:
        (folder / "new").touch()
    assert (names(tmp_path), names(place)) == (["x"], ["old"])
