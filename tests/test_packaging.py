"""setup.py, requirements.txt, Makefile and .ci/run agree with each other; nothing is installed here."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import ramses_d2

ROOT = Path(__file__).parents[1]
STAMP = ".venv/.ramses-installed"


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> email.message.Message:
    """What pip would read of this package, built from a copy so that no build folder appears in the tree."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "ramses_d2", folder / "ramses_d2", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "out").mkdir()
    code = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('out')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return email.message_from_string(next(folder.glob("out/*.dist-info/METADATA")).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Version]:
    """requirements.txt as {canonical name: version}."""
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): Version(version) for name, version in pins}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    # The `make test` that may run this must not pass its own variables on, and no set-up may ever start here.
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True)


# ---- setup.py and requirements.txt


def test_metadata(metadata: email.message.Message) -> None:
    assert metadata["Name"] in ("ramses_d2", "ramses-d2")
    assert metadata["Version"] == ramses_d2.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Apache-2.0" in (metadata["License"] or metadata["License-Expression"])
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_every_folder_of_the_package_is_packaged() -> None:
    folders = {path.parent for path in (ROOT / "ramses_d2").rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_lock_fits_the_declared_ranges(metadata: email.message.Message, lock: dict[str, Version]) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {"torch", "torchvision", "timm", "pytest", "hypothesis", "ruff"} <= {r.name for r in requirements}
    misfits = [
        str(r) for r in requirements if canonical(r.name) not in lock or lock[canonical(r.name)] not in r.specifier
    ]
    assert not misfits


def test_detectron2_is_left_to_its_tool(metadata: email.message.Message, lock: dict[str, Version]) -> None:
    assert "detectron2" not in lock
    assert "detectron2" not in {Requirement(line).name for line in metadata.get_all("Requires-Dist")}


def test_lock_leaves_cuda_to_torch_and_avoids_known_bad_versions(lock: dict[str, Version]) -> None:
    assert not [name for name in lock if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert lock["torch"] != Version("2.13.0")
    assert lock["setuptools"] < Version("82"), "pkg_resources is gone from 82 on"


# ---- Makefile and .ci/run


def test_help_names_every_command() -> None:
    out = make().stdout
    assert not [name for name in ("demo", "test", "lint", "setup", "clean") if f"make {name}" not in out]


@pytest.fixture
def set_up(tmp_path: Path) -> Path:
    """A folder whose set-up has just been completed, as far as make can tell."""
    for name in ("Makefile", "requirements.txt", "setup.py", "tools/install_detectron2.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / ".venv").mkdir()
    (tmp_path / STAMP).touch()
    return tmp_path


def test_second_setup_installs_nothing(set_up: Path) -> None:
    assert make("--question", "setup", folder=set_up).returncode == 0


@pytest.mark.parametrize("name", ["requirements.txt", "setup.py", "tools/install_detectron2.py"])
def test_setup_runs_again_after_a_change(set_up: Path, name: str) -> None:
    os.utime(set_up / STAMP, (2000, 2000))
    (set_up / name).touch()
    assert make("--question", "setup", folder=set_up).returncode == 1


def test_setup_without_python_stops_before_anything_else(set_up: Path) -> None:
    (set_up / STAMP).unlink()
    result = make("setup", "BASE_PYTHON=no-such-python", folder=set_up)
    assert result.returncode != 0
    assert result.stderr.startswith("error: no-such-python not found")
    assert not list((set_up / ".venv").iterdir())


def test_setup_without_disk_stops(set_up: Path) -> None:
    (set_up / STAMP).unlink()
    result = make("setup", f"BASE_PYTHON={sys.executable}", "DISK_GB=1000000000", folder=set_up)
    assert result.returncode != 0
    assert result.stderr.startswith("error: less than 1000000000 GB free")
    assert not list((set_up / ".venv").iterdir())


def test_setup_without_network_stops(set_up: Path) -> None:
    (set_up / STAMP).unlink()
    (set_up / ".venv/bin").mkdir()
    python = write_python(set_up / ".venv/bin/python")
    result = make("setup", f"BASE_PYTHON={python}", "DISK_GB=0", folder=set_up)
    assert result.returncode != 0
    assert result.stderr.startswith("error: pip cannot reach its package index")
    assert not (set_up / STAMP).exists()


def write_python(path: Path, *options: str) -> Path:
    """A `python` that is this one with extra options."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(options)} "$@"\n')
    path.chmod(0o755)
    return path


def test_given_python_is_used_and_nothing_is_installed() -> None:
    commands = make("--dry-run", "test", f"PYTHON={sys.executable}").stdout
    assert f"PYTHONPATH := {ROOT}" in make("-pn", "test", f"PYTHON={sys.executable}").stdout
    assert f"{sys.executable} -m pytest" in commands
    assert "pip" not in commands and "venv" not in commands.replace(sys.executable, "")


def test_given_python_without_the_libraries_stops(tmp_path: Path) -> None:
    python = write_python(tmp_path / "python", "-S")  # -S: no site-packages
    result = make("test", f"PYTHON={python}")
    assert result.returncode != 0
    assert result.stderr.startswith(f"error: {python} is not ready (ModuleNotFoundError: No module named")


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    commands = [line.strip() for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail" and commands[-1] == "make test"
    # Before that: into the folder, and a browser for the test that opens a report
    assert [line for line in commands if line.startswith(("pip", "python", "pytest"))] == []
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_tests_run_with_and_without_pytest_xdist() -> None:
    """An environment that was given to make need not have it."""
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "-m pytest" in line]
    assert 'import xdist" 2>/dev/null && echo "-n auto' in line
    assert "pytest-xdist==" in (ROOT / "requirements.txt").read_text()
