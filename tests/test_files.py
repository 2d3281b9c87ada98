"""Files and folders that appear whole or not at all, and the line that a full disk ends with."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ramses_d2.errors import RamsesError, exit_on_error, full_disk_is_one_line
from ramses_d2.files import atomic_file, folder_swap


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
