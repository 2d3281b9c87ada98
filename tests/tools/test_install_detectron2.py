"""tools/install_detectron2.py on small archives made here: nothing is downloaded and nothing is installed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import install_detectron2 as tool
import pytest

TOOL = Path(tool.__file__)
EDITS = (
    tool.Edit("layers/ops.py", "from detectron2 import _C\n", "_C = None\n"),
    tool.Edit("data/build.py", "np.int)", "int)", times=2),
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree like the unpacked release: the package, its three projects and a licence."""
    files = {
        "LICENSE": "Apache",
        "setup.py": "raise SystemExit('never run')",
        "detectron2/__init__.py": "__version__ = '0.6'\n",
        "detectron2/layers/ops.py": "import torch\nfrom detectron2 import _C\n",
        "detectron2/data/build.py": "a = f(1, np.int)\nb = f(2, dtype=np.int)\nc = np.int64(3)\n",
        "detectron2/projects/__init__.py": "import importlib\n",
    } | {f"{folder}/__init__.py": "" for folder in tool.PROJECTS.values()}
    root = tmp_path / "release-0.6"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def contents(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- the edit table


def test_edits_change_exactly_their_lines(source: Path) -> None:
    before = contents(source)
    tool.apply_edits(source / "detectron2", EDITS)
    assert (source / "detectron2/layers/ops.py").read_text() == "import torch\n_C = None\n"
    build = (source / "detectron2/data/build.py").read_text()
    assert build == "a = f(1, int)\nb = f(2, dtype=int)\nc = np.int64(3)\n"
    changed = {name for name, text in contents(source).items() if text != before[name]}
    assert {Path(name).name for name in changed} == {"ops.py", "build.py"}


@pytest.mark.parametrize(
    "text", ["import torch\n", "from detectron2 import _C\n" * 2, "from detectron2 import _C  # new\n"]
)
def test_a_changed_source_line_stops(source: Path, text: str) -> None:
    (source / "detectron2/layers/ops.py").write_text(text)
    with pytest.raises(tool.InstallError, match=r"detectron2/layers/ops\.py: .*'from detectron2 import _C' 1"):
        tool.apply_edits(source / "detectron2", EDITS)


def test_a_missing_file_and_a_second_time_stop(source: Path) -> None:
    tool.apply_edits(source / "detectron2", EDITS)
    with pytest.raises(tool.InstallError, match="found 0"):
        tool.apply_edits(source / "detectron2", EDITS)
    (source / "detectron2/data/build.py").unlink()
    with pytest.raises(tool.InstallError, match=r"detectron2/data/build\.py is not in the archive"):
        tool.apply_edits(source / "detectron2", EDITS[1:])


@pytest.mark.parametrize("edit", tool.EDITS, ids=lambda edit: f"{edit.file}:{edit.old.strip()}")
def test_every_edit_of_the_table_can_be_applied_once_only(edit: tool.Edit) -> None:
    assert edit.old not in edit.new
    assert "\n" not in edit.old[:-1], "one line per edit"
    assert edit.times >= 1


# ---- archive


def test_hash_mismatch_stops(tmp_path: Path) -> None:
    sha256 = "a4d451ec23463726f72c43d64c710968f6b602cd653b4de8adee1b556240a829"
    archive = tmp_path / "release.tar.gz"
    archive.write_bytes(b"release")
    tool.check_hash(archive, sha256)
    archive.write_bytes(b"relapse")
    with pytest.raises(tool.InstallError, match=r"release\.tar\.gz has sha256 .* do not use it"):
        tool.check_hash(archive, sha256)


def test_unpack(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    top = tool.unpack(archive, tmp_path / "out")
    assert top == tmp_path / "out" / source.name
    assert list(contents(top).values()) == list(contents(source).values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, tarfile.REGTYPE) for name in ("../evil.py", "release/../../evil.py", "/evil.py")),
        *(("release/evil.py", kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)),
    ],
)
def test_an_unsafe_member_stops(tmp_path: Path, name: str, kind: bytes) -> None:
    """A path outside of the folder, a link or a device."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    archive = tmp_path / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("release/good.py"), io.BytesIO())
        tar.addfile(member, io.BytesIO())
    with pytest.raises(tool.InstallError, match=r"unsafe .*evil\.py"):
        tool.unpack(archive, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*.py"))


# ---- wheel


def test_wheel_installs_and_imports(source: Path, tmp_path: Path) -> None:
    wheel = tool.write_wheel(source, tmp_path)
    assert list(tmp_path.glob("detectron2-*")) == [wheel]
    names = zipfile.ZipFile(wheel).namelist()
    assert "setup.py" not in names and "detectron2/projects/point_rend/__init__.py" in names
    # `wheel unpack` checks the hashes in RECORD, pip the metadata and tags; --target spares this environment
    unpack = [sys.executable, "-m", "wheel", "unpack", "--dest", tmp_path / "unpacked", wheel]
    subprocess.run(unpack, check=True, capture_output=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path / "site", wheel], check=True)
    code = "import detectron2, importlib.metadata as m; print(detectron2.__file__, m.requires('detectron2'))"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert out.startswith(str(tmp_path / "site"))
    assert "'fvcore>=0.1.5,<0.1.6'" in out and "black" not in out


def test_failing_wheel_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "LICENSE").unlink()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(OSError):
        tool.write_wheel(source, wheels)
    assert not list(wheels.iterdir())


# ---- command line


def fake_detectron2(folder: Path, init: str = "") -> dict[str, str]:
    """An importable package `detectron2` in ``folder``; returns the environment that finds it first."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    for name in ("engine", "evaluation", "modeling"):
        (package / f"{name}.py").write_text("")
    return os.environ | {"PYTHONPATH": str(folder)}


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *arguments], env=env, capture_output=True, text=True)


def test_detectron2_that_imports_is_left_alone(tmp_path: Path) -> None:
    env = fake_detectron2(tmp_path)
    before = contents(tmp_path)
    result = run(env)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Detectron2 already imports from {tmp_path / 'detectron2'}: left alone.\n"
    assert {name: text for name, text in contents(tmp_path).items() if name in before} == before


def test_detectron2_that_does_not_import_is_reported(tmp_path: Path) -> None:
    result = run(fake_detectron2(tmp_path, init="import no_such_module\n"))
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "No module named 'no_such_module'" in result.stderr and "pip uninstall detectron2" in result.stderr


def test_no_index_gives_one_line_and_no_wheel(tmp_path: Path) -> None:
    env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    result = run(env, "--wheel-dir", str(tmp_path / "wheels"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: pip download failed") and result.stderr.count("\n") == 1
    assert "check the network" in result.stderr and "nothing was installed" in result.stderr
    assert not list((tmp_path / "wheels").iterdir())


@pytest.mark.parametrize(
    ("version", "found", "words"),
    [
        ("26.0", True, r"pip 26.0 refuses .* install \"pip<26\""),
        ("27.1.2", True, r"pip 27.1.2 refuses .* install \"pip<26\""),
        ("25.3", None, "torch is not installed"),
    ],
)
def test_too_new_a_pip_and_missing_torch_stop(
    monkeypatch: pytest.MonkeyPatch, version: str, found: bool | None, words: str
) -> None:
    monkeypatch.setattr(tool.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: found)
    with pytest.raises(tool.InstallError, match=words):
        tool.check_pip()


def test_wheel_that_does_not_import_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(tool, "run_pip", lambda *arguments: calls.append(arguments[0]))
    monkeypatch.setattr(tool, "find_installed", lambda: ("somewhere", "No module named 'yacs'"))
    with pytest.raises(tool.InstallError, match="No module named 'yacs'.*removed again"):
        tool.install(Path("detectron2.whl"))
    assert calls == ["install", "uninstall"]


def test_help_has_an_example() -> None:
    result = run(dict(os.environ), "--help")
    assert result.returncode == 0
    assert "python tools/install_detectron2.py --wheel-dir wheels" in result.stdout
