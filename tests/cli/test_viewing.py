"""``al-ray view``, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from al_ray.recipe import Recipe
from al_ray.run.folder import RunFolder
from tests.support.machines.processes import ROOT
from tests.support.runs import toy

WITH_IMPORTS_TOLD = """
import sys
from al_ray.cli.app import main
try:
    main()
finally:
    heavy = sorted({"torch", "ray", "vllm", "transformers", "matplotlib", "wandb"} & sys.modules.keys())
    print("imported:", heavy)
"""


def test_it_prints_its_address_and_ends_with_ctrl_c_without_what_a_run_needs(tmp_path: Path) -> None:
    """Neither Ray nor torch is imported: that takes longer than to show a run."""
    folder = RunFolder.create(Recipe.model_validate(toy.recipe(tmp_path / "m", tmp_path / "out")), "a")
    command = [sys.executable, "-c", WITH_IMPORTS_TOLD, "view", str(folder.path), "--port", "0"]
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # as in ``Command``
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **listening) as viewer:
        assert viewer.stdout is not None
        assert viewer.stdout.readline().startswith("http://127.0.0.1:")
        viewer.send_signal(signal.SIGINT)
        rest = viewer.stdout.read()
    assert "imported: []" in rest and viewer.returncode == 0
