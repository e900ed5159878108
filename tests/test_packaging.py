"""However al_ray reaches a machine, the same code is imported under the same names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("actors", "algorithms", "envs")
KEPT = ("al_ray", *ROOMS, "recipes", "pyproject.toml", "setup.py", "README.md", "LICENSE", ".gitignore")

PROBE = """
import importlib, json, site, sys
target, packages = sys.argv[1:]
site.addsitedir(target)
sys.path[:] = [target, packages, *(path for path in sys.path if path not in (target, packages))]
names = ["al_ray.types", "al_ray.actors", "al_ray.algorithms.credit", "al_ray.envs.calc_x.data"]
modules = {name: importlib.import_module(name) for name in names}
from al_ray.envs.calc_x.data import Task
assert Task is modules["al_ray.types"].Task
assert not {"actors", "algorithms", "envs"} & sys.modules.keys()
print(json.dumps({name: module.__file__ for name, module in modules.items()}))
"""


def python(*arguments: str | Path, cwd: Path) -> str:
    """Without site: al_ray as installed in this environment must not stand in for the one tested."""
    command = [sys.executable, "-I", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """What a build front end asks of setuptools for ``pip install``."""
    code = f"import setuptools.build_meta as s, sys; print(s.build_{kind}(sys.argv[1]))"
    target.mkdir()
    return target / python("-c", code, target, cwd=source).splitlines()[-1]


def unzip(archive: Path, target: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)
    return target


def checkout(source: Path, _: Path) -> Path:
    return source


def wheel(source: Path, scratch: Path) -> Path:
    return unzip(build("wheel", source, scratch / "wheel"), scratch / "site")


def wheel_of_sdist(source: Path, scratch: Path) -> Path:
    with tarfile.open(build("sdist", source, scratch / "sdist")) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    (unpacked,) = (scratch / "unpacked").iterdir()
    return wheel(unpacked, scratch)


def editable(source: Path, scratch: Path) -> Path:
    return unzip(build("editable", source, scratch / "editable"), scratch / "site")


def ray_working_dir(source: Path, scratch: Path) -> Path:
    """What ``ray job submit --working-dir .`` uploads, unpacked."""
    code = (
        "import sys; from pathlib import Path; from ray._private.runtime_env.packaging import create_package;"
        "create_package(sys.argv[1], Path(sys.argv[2]), include_gitignore=True)"
    )
    python("-c", code, source, scratch / "working_dir.zip", cwd=scratch)
    return unzip(scratch / "working_dir.zip", scratch / "uploaded")


def text_for_links(source: Path, _: Path) -> Path:
    """A hosting site's zip, or a checkout on Windows."""
    for room in ROOMS:
        link = source / "al_ray" / room
        text = str(link.readlink())
        link.unlink()
        link.write_text(text)
    return source


def no_links(source: Path, _: Path) -> Path:
    for room in ROOMS:
        (source / "al_ray" / room).unlink()
    return source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the checkout, because builds write into it."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in KEPT:
        entry = ROOT / name
        if entry.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(entry, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(entry, copy / name)
    return copy


@pytest.mark.parametrize(
    "arrive",
    [checkout, wheel, wheel_of_sdist, editable, ray_working_dir, text_for_links, no_links],
    ids=lambda arrive: arrive.__name__,
)
def test_every_way_to_a_machine_imports_the_same_code(
    arrive: Callable[[Path, Path], Path], source: Path, tmp_path: Path
) -> None:
    """Rooms are imported as al_ray.<room>, once, from what arrived; never under a bare name."""
    target = arrive(source, tmp_path)
    probe = python("-S", "-c", PROBE, target, sysconfig.get_path("purelib"), cwd=tmp_path)
    files = {name: Path(file) for name, file in json.loads(probe).items()}
    home = source if arrive is editable else target
    assert all(file.resolve().is_relative_to(home.resolve()) for file in files.values()), files
    for name, file in files.items():
        original = ROOT.joinpath(*name.split("."))
        original = original / "__init__.py" if original.is_dir() else original.with_suffix(".py")
        assert file.read_bytes() == original.read_bytes()


def test_a_wheel_carries_every_module_and_the_sample_rows_and_nothing_else(
    source: Path, tmp_path: Path
) -> None:
    """Also modules that were added since: packages are found, not listed."""
    installed = wheel(source, tmp_path)
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*.py")}
    expected = {f"al_ray/{path.relative_to(ROOT / 'al_ray')}" for path in (ROOT / "al_ray").rglob("*.py")}
    for room in ROOMS:  # rglob does not follow the links
        expected |= {f"al_ray/{path.relative_to(ROOT)}" for path in (ROOT / room).rglob("*.py")}
    assert found == expected
    assert list(installed.glob("al_ray/envs/calc_x/samples/*.jsonl"))
    assert (installed / "al_ray" / "py.typed").exists()
    for folder in ("pages", "static"):
        names = {path.name for path in (ROOT / "al_ray" / "viewing" / folder).iterdir()}
        assert {path.name for path in (installed / "al_ray" / "viewing" / folder).iterdir()} == names
    assert list(installed.glob("al_ray/run/starter/templates/*.tmpl"))
