"""Files and folders that appear whole or not at all and are never replaced unasked; file names; a full disk."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ramses_d2.errors import RamsesError, exit_on_error, full_disk_is_one_line
from ramses_d2.files import OwnFolder, atomic_file, base_name, base_names, check_output, check_resolution, folder_swap


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    with atomic_file(path) as stream:
        stream.write("one\n")
    with pytest.raises(KeyError), atomic_file(path, "wb") as stream:
        stream.write(b"half of")
        raise KeyError
    assert path.read_text() == "one\n" and [p.name for p in tmp_path.iterdir()] == ["table.tsv"]


@pytest.fixture(scope="module")
def killed() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["unfinished", "replaced"])
@pytest.mark.parametrize("name", ["worst", "worst[1]"])
@pytest.mark.parametrize("is_own", [True, False], ids=["this process", "another"])
def test_what_a_killed_process_left_is_no_obstacle(
    tmp_path: Path, kind: str, name: str, is_own: bool, killed: int
) -> None:
    left = tmp_path / f"{name}.ramses-{kind}-{os.getpid() if is_own else killed}"
    for folder in (left, tmp_path / name):
        folder.mkdir()
        (folder / "old.jpg").write_bytes(b"old")
    with folder_swap(tmp_path / name) as folder:
        (folder / "new.jpg").write_bytes(b"new")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert [p.name for p in (tmp_path / name).iterdir()] == ["new.jpg"]


def test_folders_of_others_stay(tmp_path: Path, killed: int) -> None:
    running = os.getppid()
    others = [
        "a.replaced-2019",
        f"a.unfinished-{killed}",
        f"a.ramses-replaced-{killed}.csv",
        f"a.ramses-replaced-{running}",
    ]
    others += [f"a1.ramses-unfinished-{killed}", f"b.a.ramses-unfinished-{killed}", f"a.ramses-unfinished-{running}"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious.csv").write_text("x")
    for output in ("a", "a[1]"):
        with folder_swap(tmp_path / output):
            pass
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "a", "a[1]"])
    assert all((tmp_path / name / "precious.csv").is_file() for name in others)


def test_the_later_of_two_processes_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_swap(tmp_path / "out") as later:
        (later / "later").touch()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: 1)  # always running
            with folder_swap(tmp_path / "out") as first:
                (first / "first").touch()
        # The other process looks for this one's number, which runs too
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["first"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["later"]


def test_the_only_copy_outlives_a_kill_between_the_two_renames(tmp_path: Path, killed: int) -> None:
    for kind, content in (("replaced", "the only copy"), ("unfinished", "never in place")):
        folder = tmp_path / f"out.ramses-{kind}-{killed}"
        folder.mkdir()
        (folder / "data").write_text(content)
    with pytest.raises(KeyError), folder_swap(tmp_path / "out"):
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/data").read_text() == "the only copy"


def test_what_cannot_take_its_place_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data").touch()
    with pytest.raises(FileNotFoundError), folder_swap(tmp_path / "out") as folder:
        folder.rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/data").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_leads_to_the_new_folder(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/data")
    if exists:
        (tmp_path / "disk/data").mkdir()
        (tmp_path / "disk/data/old").touch()
    with folder_swap(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert os.readlink(tmp_path / "link") == "disk/data"
    assert [p.name for p in (tmp_path / "link").iterdir()] == ["new"]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "disk",
        "disk/data",
        "disk/data/new",
        "link",
    ]


def test_the_working_directory_is_filled_but_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with folder_swap(Path()) as folder:
        (folder / "images").mkdir()
        (folder / "images/a.png").touch()
    assert Path("images/a.png").is_file() and Path.cwd() == tmp_path / "here"
    for output in (Path(), Path("../here")):
        with pytest.raises(RamsesError, match="here is the working directory: change to another"), folder_swap(output):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["here"] and Path("images/a.png").is_file()


def test_a_full_disk_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(RamsesError, match="No space left on device; make room"), full_disk_is_one_line("make room"):
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
    with pytest.raises(ConnectionResetError), exit_on_error():  # of no file: not the user's to mend
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_folder_and_extension_go_but_dots_stay() -> None:
    names = ("x.JPG", "D:\\pictures\\x.tif", "images/x.png", "x", "scan.1", "rec_0.5", "rec_0.5.webp")
    assert [base_name(name) for name in names] == ["x", "x", "x", "x", "scan.1", "rec_0.5", "rec_0.5"]


def test_a_base_name_that_looks_like_a_file_name_stays() -> None:
    column = pd.Series(["a.tif", "b.tif", "images/b.png"], index=[4, 6, 7])
    assert base_names(column, {"a.tif": 1, "b": 2}).to_dict() == {4: "a.tif", 6: "b", 7: "b"}


# ---- what may be replaced, and resolutions

KIND = OwnFolder("sample", "sample.json", "ramses-sample")


def test_a_folder_of_this_kind_is_replaced_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    KIND.check_replaceable(folder, force=False)  # an empty one, and one that is missing
    KIND.check_replaceable(tmp_path / "missing", force=False)
    (folder / KIND.marker).write_text(json.dumps(KIND.entries() | {"more": 1}))
    (folder / "table.csv").write_text("a")
    KIND.check_replaceable(folder, force=True)
    with pytest.raises(RamsesError, match="out already exists: .* --force"):
        KIND.check_replaceable(folder, force=False)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": "ramses-other"}'])
def test_a_folder_of_another_kind_is_never_replaced(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "table.csv").write_text("a")
    if content is not None:
        (tmp_path / KIND.marker).write_text(content)
    with pytest.raises(RamsesError, match=r"is not a sample \(its sample.json is missing\): refusing to replace it"):
        KIND.check_replaceable(tmp_path, force=True)
    with pytest.raises(RamsesError, match="is a file: name a folder to write the sample to"):
        KIND.check_replaceable(tmp_path / "table.csv", force=True)


def test_a_file_is_replaced_when_asked_and_a_folder_never(tmp_path: Path) -> None:
    check_output(tmp_path / "new.csv", force=False)
    (tmp_path / "old.csv").touch()
    check_output(tmp_path / "old.csv", force=True)
    for path, force, message in (
        (tmp_path / "old.csv", False, "old.csv exists: .*--force"),
        (tmp_path, True, "folder"),
    ):
        with pytest.raises(RamsesError, match=message):
            check_output(path, force=force)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, None, "x", True, [2]])
def test_a_resolution_is_a_finite_number_above_0(value: object) -> None:
    assert check_resolution("2.5", "a.csv") == 2.5
    with pytest.raises(RamsesError, match="a.csv, row 3: resolution is .*; it is px per mm, above 0"):
        check_resolution(value, "a.csv, row 3")
