"""Files and folders that appear whole or not at all, and the line that a full disk ends with."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ramses_d2.atomic_file import atomic_file
from ramses_d2.errors import RamsesError, exit_on_error, full_disk_is_one_line
from ramses_d2.folder_swap import folder_swap


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    with atomic_file(path) as stream:
        stream.write("one\n")
    with pytest.raises(KeyError), atomic_file(path, "wb") as stream:
        stream.write(b"half of")
        raise KeyError
    assert path.read_text() == "one\n" and [p.name for p in tmp_path.iterdir()] == ["table.tsv"]


@pytest.mark.parametrize("kind", ["unfinished", "replaced"])
@pytest.mark.parametrize("process", [os.getpid(), 1], ids=["this one", "another"])
def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path, kind: str, process: int) -> None:
    (tmp_path / "worst").mkdir()
    (tmp_path / f"worst.{kind}-{process}").mkdir()
    (tmp_path / f"worst.{kind}-{process}/old.jpg").write_bytes(b"old")
    with folder_swap(tmp_path / "worst") as folder:
        (folder / "new.jpg").write_bytes(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["worst"]
    assert [p.name for p in (tmp_path / "worst").iterdir()] == ["new.jpg"]


def test_a_full_disk_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(RamsesError, match="No space left on device; make room"), full_disk_is_one_line("make room"):
        with open("/dev/full", "w") as stream:
            stream.write("x")
    with pytest.raises(FileNotFoundError), full_disk_is_one_line("make room"):
        raise FileNotFoundError(errno.ENOENT, "missing")
    with pytest.raises(SystemExit) as stop, exit_on_error():
        raise OSError(errno.ENOSPC, "No space left on device", "out/x.png")
    assert stop.value.code == "error: out/x.png: No space left on device; make room and try again"
