"""A model is given to a hub by the hub's own client: here to one of this test, over real HTTP."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from al_ray.errors import UserError
from al_ray.run.ended.push import pushed


@dataclass
class Hub:
    """What a hub was given."""

    url: str = ""
    made: list[dict[str, object]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    given = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != "Bearer hf_right":
                self._answer(401, {"error": "Invalid credentials"})
            elif self.path == "/api/repos/create":
                given.made.append(json.loads(body))
                self._answer(200, {"url": f"{given.url}/somebody/model"})
            elif self.path == "/api/validate-yaml":  # of the model card
                self._answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                told = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked
                ]
                self._answer(200, {"files": told})
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        given.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                told = {"commitUrl": f"{given.url}/somebody/model/commit/1", "commitOid": "1"}
                self._answer(200, {**told, "success": True})

        def do_GET(self) -> None:
            self._answer(200, {"id": "somebody/model", "sha": "0", "siblings": []})

        def _answer(self, status: int, told: object) -> None:
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given.url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", given.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield given
        server.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "README.md", "model.safetensors"):
        (folder / name).write_text(f"the {name}", encoding="utf-8")
    return folder


def test_every_file_of_a_model_reaches_the_hub_in_a_repository_that_is_private(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert pushed(model, "somebody/model") == f"{hub.url}/somebody/model"
    (made,) = hub.made
    assert (made["name"], made["organization"]) == ("model", "somebody")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert hub.files == {path.name: path.read_bytes() for path in model.iterdir()}


def test_a_hub_that_lets_us_not_or_is_not_there_is_told_and_the_model_stays(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"--push: 'somebody/model': http://127.0.0.1:\d+: .*401.*hf auth"):
        pushed(model, "somebody/model")
    with pytest.raises(UserError, match=r"no name at all"):
        pushed(model, "no name at all")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9: .*The model is in .*/model"):
        pushed(model, "somebody/model")
    assert hub.files == {} and len(list(model.iterdir())) == 3
