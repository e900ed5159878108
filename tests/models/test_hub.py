"""A model comes from a hub, here one of this test over real HTTP, and is found in its cache afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from al_ray.errors import RecipeError
from al_ray.models import folders, hub
from al_ray.recipe import ModelSection
from tests.support.models.weights import write_weights

_COMMIT = "a" * 40


@dataclass
class Hub:
    """What it answers with: every model has the same files."""

    files: dict[str, bytes]
    gated: bool = False
    breaks_off: set[str] = field(default_factory=set)
    """Files of which it sends the beginning alone."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With a model, what hubs have beside one, and its weights a second time."""
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path / "home"))
    write_weights(tmp_path / "weights", {"a.weight": (8, 8)})
    found = Hub(dict.fromkeys(("config.json", "tokenizer.json", "README.md", ".gitattributes"), b"{}"))
    for name in ("model.safetensors", "consolidated.safetensors"):
        found.files[name] = (tmp_path / "weights").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": _tag(content)}
                    for name, content in found.files.items()
                ]
                about = {"id": "o/m", "sha": _COMMIT, "siblings": []}
                self._answer(200, json.dumps(tree if "/tree/" in path else about).encode())
            elif found.gated:
                self._answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
            else:
                name = path.rpartition("/")[2]
                content = found.files[name]
                self._answer(200, content, {"ETag": f'"{_tag(content)}"', "X-Repo-Commit": _COMMIT}, name)

        def _answer(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, name: str = ""
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[:100] if name in found.breaks_off else content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        sleep = time.sleep  # between the client's tries
        monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.05)))
        yield found
        server.shutdown()


def _tag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _quiet(*_: object) -> None: ...


def test_a_model_that_was_downloaded_is_there_when_the_hub_is_away(
    served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the hub has more files of it than anybody here loads: these are left there, and so are weights
    that it has twice."""
    assert folders.at_hand("o/m") is None and folders.check("o/m") is None
    folder = folders.resolve("o/m", _quiet)
    assert served.files.keys() - {file.name for file in folder.iterdir()} == {
        "README.md",
        ".gitattributes",
        "consolidated.safetensors",
    }
    folders.require_whole(folder, ModelSection(path="o/m", max_length=64))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert folders.resolve("o/m", _quiet) == folders.check("o/m") == folders.at_hand("o/m") == folder
    (folder / "config.json").unlink()
    assert folders.at_hand("o/m") is None
    with pytest.raises(RecipeError, match=r"the Hugging Face hub does not give it \(Offline.*name a folder"):
        folders.check("o/m")


def test_a_download_that_fails_says_why(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"^model\.path: '{}': cannot be downloaded from the Hugging Face hub: {}"
    served.gated = True
    with pytest.raises(RecipeError, match=told.format("o/gated", "it is gated: .*`hf auth login`")):
        folders.resolve("o/gated", _quiet)
    served.gated, served.breaks_off = False, {"model.safetensors"}
    with pytest.raises(RecipeError, match=told.format("o/breaks", "RemoteProtocolError: peer closed")):
        folders.resolve("o/breaks", _quiet)
    served.breaks_off = set()

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(RecipeError, match=told.format("o/full", r"OSError: .*No space left on device")):
        folders.resolve("o/full", _quiet)


def test_a_name_that_the_hub_does_not_have_is_told_as_such(
    served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2
    from huggingface_hub.errors import RepositoryNotFoundError

    def none(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=request))

    request = httpx2.Request("GET", "http://hub")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", none)
    for look in (folders.check, folders.resolve):
        with pytest.raises(RecipeError, match=r"no such folder, .*\(it has none of that name, or a private"):
            look("o/none")


def test_a_snapshot_in_the_cache_that_is_not_whole_is_not_at_hand(served: Hub, tmp_path: Path) -> None:
    folder = hub.download("o/m", _quiet)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="incomplete"):
        hub.cached("o/m")
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(OSError, match="cached snapshot"):
        hub.cached("o/m")
