"""setup.py, requirements.txt, Makefile and .ci/run agree with each other; nothing is installed here."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ramses_d2

ROOT = Path(__file__).parents[1]
STAMP = ".venv/.ramses-installed"
INPUTS = ("requirements.txt", "setup.py", "tools/install_detectron2.py")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> email.message.Message:
    """What pip reads of this package, built from a copy so that no build folder appears in the tree."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "ramses_d2", folder / "ramses_d2", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "out").mkdir()
    command = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('out')"
    subprocess.run([sys.executable, "-c", command], cwd=folder, check=True, capture_output=True)
    return email.message_from_string(next(folder.glob("out/*.dist-info/METADATA")).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Version]:
    """requirements.txt as {canonical name: version}."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


@pytest.fixture
def set_up(tmp_path: Path) -> Path:
    """A folder whose set-up is complete, as far as make can tell."""
    for name in ("Makefile", *INPUTS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1000, 1000))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / STAMP).touch()
    return tmp_path


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    # The `make test` that may run this must not pass its variables on, and a set-up must never start here
    own = dict(MAKEFLAGS="", MAKEOVERRIDES="", PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    return subprocess.run(["make", *arguments], cwd=folder, env=os.environ | own, capture_output=True, text=True)


def write_python(path: Path, *options: str) -> Path:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(options)} "$@"\n')
    path.chmod(0o755)
    return path


def test_metadata_and_lock_agree(metadata: email.message.Message, lock: dict[str, Version]) -> None:
    assert metadata["Version"] == ramses_d2.__version__
    assert "Apache-2.0" in (metadata["License"] or metadata["License-Expression"])
    needs = {Requirement(line) for line in metadata.get_all("Requires-Dist")}
    names = {need.name for need in needs}
    assert {"torch", "torchvision", "timm", "pytest", "hypothesis", "ruff"} <= names
    assert [str(need) for need in needs if lock.get(canonicalize_name(need.name), "0") not in need.specifier] == []
    assert "detectron2" not in names | lock.keys(), "tools/install_detectron2.py, or a source build, provides it"
    assert not [name for name in lock if name.startswith(("nvidia-", "cuda-", "triton"))], "torch chooses these"
    assert lock["torch"] != Version("2.13.0")
    assert lock["setuptools"] < Version("82"), "pkg_resources is gone from 82 on"


def test_every_folder_of_the_package_is_packaged() -> None:
    assert [path for path in (ROOT / "ramses_d2").rglob("*.py") if not (path.parent / "__init__.py").is_file()] == []


def test_setup_runs_again_only_after_a_change(set_up: Path) -> None:
    os.utime(set_up / STAMP, (2000, 2000))
    assert make("--question", "setup", folder=set_up).returncode == 0
    for name in INPUTS:
        os.utime(set_up / name, (3000, 3000))
        assert make("--question", "setup", folder=set_up).returncode == 1
        os.utime(set_up / name, (1000, 1000))


def test_setup_stops_with_the_reason(set_up: Path) -> None:
    (set_up / STAMP).unlink()
    python = write_python(set_up / ".venv/bin/python")
    for options, reason in (
        (["BASE_PYTHON=no-such-python"], "no-such-python not found"),
        ([f"BASE_PYTHON={sys.executable}", "DISK_GB=1000000000"], "less than 1000000000 GB free"),
        ([f"BASE_PYTHON={python}", "DISK_GB=0"], "pip cannot reach its package index"),
    ):
        result = make("setup", *options, folder=set_up)
        assert result.returncode != 0 and result.stderr.startswith(f"error: {reason}"), result.stderr
        assert not (set_up / STAMP).exists()


def test_given_python_is_used_and_nothing_is_installed(tmp_path: Path) -> None:
    commands = make("--dry-run", "test", f"PYTHON={sys.executable}").stdout
    assert f"{sys.executable} -m pytest" in commands and "pip" not in commands
    python = write_python(tmp_path / "python", "-S")  # -S: no site-packages
    assert make("test", f"PYTHON={python}").stderr.startswith(f"error: {python} is not ready (ModuleNotFoundError")


def test_ci_runs_make_test() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert "set -euo pipefail" in lines and lines[-1] == "make test" and os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True, capture_output=True)
