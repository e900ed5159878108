"""What goes up with a job is told before it does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from al_ray.errors import UserError
from al_ray.machines import jobs
from al_ray.machines.jobs import Jobs, upload_of


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With what git and Ray leave out, and what nobody else should read."""
    written = {
        "recipes/own.yaml": "name: own",
        "agent.py": "#" * 3000,
        ".env": "KEY=secret",
        "certificates/server.pem": "secret",
        "outputs/own/a/recipe.yaml": "name: own",
        "outputs/own/a/.rayignore": "*",
        "wandb/log": "long",
        ".gitignore": "wandb/\n",
        ".rayignore": "models/\n",
        "models/config.json": "{}",
        ".git/HEAD": "ref",
    }
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_what_goes_up_is_what_neither_git_nor_ray_is_told_to_leave_out(project: Path) -> None:
    """A run's folder keeps itself out. What others should not read is named."""
    upload = upload_of(project)
    own = {"recipes/own.yaml", "agent.py", ".env", "certificates/server.pem", ".gitignore", ".rayignore"}
    assert set(upload.files) == own
    assert upload.files["agent.py"] == 3000
    assert sorted(upload.secrets) == [".env", "certificates/server.pem"]
    assert str(upload).startswith("6 files, 0.0 MiB packed; the largest: agent.py 0.0 MiB, ")


def test_more_than_ray_takes_is_refused_with_the_largest_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "GCS_STORAGE_MAX_SIZE", 1000)
    with pytest.raises(UserError, match=r"--working-dir: .* at most, .* agent\.py .* in \.rayignore there"):
        upload_of(project)


def test_an_address_where_no_dashboard_answers_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "restored afterwards")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UserError, match=f"--address: '{free}': no dashboard of Ray answers there"):
        Jobs(free)
    with pytest.raises(UserError, match="--address: 'HEAD:6379': must be that of Ray's dashboard"):
        Jobs("HEAD:6379")
