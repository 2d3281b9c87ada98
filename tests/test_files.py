"""Files and folders that appear whole or not at all and are never replaced unasked; file names; a full disk."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ramses_d2.errors import exit_on_error, full_disk_is_one_line
from ramses_d2.files import OwnFolder, atomic_file, base_name, base_names, check_output, check_resolution, folder_swap
from tests.conftest import refused, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, name: str, content: str = "x") -> Path:
    """Make a folder with one file."""
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    return folder


# ---- written whole or not at all


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    with atomic_file(path) as stream:
        stream.write("one\n")
    with pytest.raises(KeyError), atomic_file(path, "wb") as stream:
        stream.write(b"half of")
        raise KeyError
    assert path.read_text() == "one\n" and names(tmp_path) == ["table.tsv"]


@pytest.fixture(scope="module")
def killed() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["unfinished", "replaced"])
@pytest.mark.parametrize("name", ["worst", "worst[1]"])
@pytest.mark.parametrize("is_own", [True, False], ids=["this process", "another"])
def test_what_a_killed_process_left_is_no_obstacle(
    tmp_path: Path, kind: str, name: str, is_own: bool, killed: int
) -> None:
    fill(tmp_path / f"{name}.ramses-{kind}-{os.getpid() if is_own else killed}", "old.jpg")
    fill(tmp_path / name, "old.jpg")
    with folder_swap(tmp_path / name) as folder:
        (folder / "new.jpg").write_bytes(b"new")
    assert names(tmp_path) == [name] and names(tmp_path / name) == ["new.jpg"]


def test_folders_of_others_stay(tmp_path: Path, killed: int) -> None:
    running = os.getppid()
    others = ["a.replaced-2019", f"a.unfinished-{killed}", f"a.ramses-replaced-{killed}.csv"]
    others += [f"a1.ramses-unfinished-{killed}", f"b.a.ramses-unfinished-{killed}"]
    others += [f"a.ramses-replaced-{running}", f"a.ramses-unfinished-{running}"]
    for name in others:
        fill(tmp_path / name, "precious.csv")
    for output in ("a", "a[1]"):
        with folder_swap(tmp_path / output):
            pass
    assert names(tmp_path) == sorted([*others, "a", "a[1]"])
    assert all((tmp_path / name / "precious.csv").is_file() for name in others)


def test_the_later_of_two_processes_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_swap(tmp_path / "out") as later:
        (later / "later").touch()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: 1)  # always running
            with folder_swap(tmp_path / "out") as first:
                (first / "first").touch()
        # The other process looks for this one's number, which runs too
        assert names(tmp_path / "out") == ["first"]
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["later"]


def test_the_only_copy_outlives_a_kill_between_the_two_renames(tmp_path: Path, killed: int) -> None:
    fill(tmp_path / f"out.ramses-replaced-{killed}", "data", "the only copy")
    fill(tmp_path / f"out.ramses-unfinished-{killed}", "data", "never in place")
    with pytest.raises(KeyError), folder_swap(tmp_path / "out"):
        raise KeyError
    assert names(tmp_path) == ["out"] and (tmp_path / "out/data").read_text() == "the only copy"


def test_what_cannot_take_its_place_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "data")
    with pytest.raises(FileNotFoundError), folder_swap(tmp_path / "out") as folder:
        folder.rmdir()
    assert names(tmp_path) == ["out"] and (tmp_path / "out/data").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_leads_to_the_new_folder(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/data")
    if exists:
        fill(tmp_path / "disk/data", "old")
    with folder_swap(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert os.readlink(tmp_path / "link") == "disk/data"
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["disk", "disk/data", "disk/data/new", "link"] and names(tmp_path / "link") == ["new"]


def test_the_working_directory_is_filled_but_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with folder_swap(Path()) as folder:
        fill(folder / "images", "a.png")
    assert Path("images/a.png").is_file() and Path.cwd() == tmp_path / "here"
    for output in (Path(), Path("../here")):
        with refused("here", "working directory"), folder_swap(output):
            pass
    assert names(tmp_path) == ["here"] and Path("images/a.png").is_file()


# ---- errors of the disk


def test_a_full_disk_is_one_line_that_says_what_to_do() -> None:
    with refused("No space left on device; make room"), full_disk_is_one_line("make room"):
        with open("/dev/full", "w") as stream:
            stream.write("x")
    with pytest.raises(FileNotFoundError), full_disk_is_one_line("make room"):
        raise FileNotFoundError(errno.ENOENT, "missing")
    with pytest.raises(SystemExit) as stop, exit_on_error():
        raise OSError(errno.ENOSPC, "No space left on device", "out/x.png")
    assert stop.value.code == "error: out/x.png: No space left on device; make room and try again"


@pytest.mark.parametrize("name", ["/proc/x", "/etc/hostname/x"])
def test_a_folder_that_cannot_be_made_is_one_line(name: str) -> None:
    with pytest.raises(SystemExit) as stop, exit_on_error():
        Path(name).mkdir()
    assert stop.value.code in (f"error: {name}: No such file or directory", f"error: {name}: Not a directory")
    with pytest.raises(ConnectionResetError), exit_on_error():  # of no file: not the user's to repair
        raise ConnectionResetError(errno.ECONNRESET, "reset")


# ---- names and resolutions


def test_folder_and_extension_go_but_dots_stay() -> None:
    given = ("x.JPG", "D:\\pictures\\x.tif", "images/x.png", "x", "scan.1", "rec_0.5", "rec_0.5.webp")
    assert [base_name(name) for name in given] == ["x", "x", "x", "x", "scan.1", "rec_0.5", "rec_0.5"]
    # One that looks like a file name stays
    column = pd.Series(["a.tif", "b.tif", "images/b.png"], index=[4, 6, 7])
    assert base_names(column, {"a.tif": 1, "b": 2}).to_dict() == {4: "a.tif", 6: "b", 7: "b"}


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, None, "x", True, [2]])
def test_a_resolution_is_a_finite_number_above_0(value: Any) -> None:
    assert check_resolution("2.5", "a.csv") == 2.5
    with refused("a.csv, row 3: resolution is", repr(value)):
        check_resolution(value, "a.csv, row 3")


# ---- what may be replaced

KIND = OwnFolder("sample", "sample.json", "ramses-sample")


def test_a_folder_of_this_kind_is_replaced_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for free in (folder, tmp_path / "missing"):
        KIND.check_replaceable(free, force=False)
    write_json(folder / KIND.marker, KIND.entries() | {"more": 1})
    KIND.check_replaceable(folder, force=True)
    with refused("out", "--force"):
        KIND.check_replaceable(folder, force=False)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": "ramses-other"}'])
def test_a_folder_of_another_kind_is_never_replaced(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "table.csv").write_text("a")
    if content is not None:
        (tmp_path / KIND.marker).write_text(content)
    with refused(f"{tmp_path} is not a sample", "sample.json"):
        KIND.check_replaceable(tmp_path, force=True)
    with refused("table.csv is a file"):
        KIND.check_replaceable(tmp_path / "table.csv", force=True)


def test_a_file_is_replaced_when_asked_and_a_folder_never(tmp_path: Path) -> None:
    check_output(tmp_path / "new.csv", force=False)
    (tmp_path / "old.csv").touch()
    check_output(tmp_path / "old.csv", force=True)
    for path, force, words in ((tmp_path / "old.csv", False, "--force"), (tmp_path, True, "is a folder")):
        with refused(str(path), words):
            check_output(path, force=force)
