"""metadata.json: its entries by base name, and one line for whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramses_d2.data.checking.check import check_folders
from ramses_d2.data.convert.ramses import read_ramses
from ramses_d2.data.folder import image_entries, load_folder, read_metadata
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]


def write(folder: Path, content: Any) -> Path:
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder


def test_entries_are_found_however_their_image_is_named(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == image_entries(tmp_path) == {}
    names = ["images/a.png", "b", "rec_0.5", "D:\\c.TIF"]
    write(tmp_path, {"images": [{"file_name": name, "res": 2} for name in names]})
    assert list(image_entries(tmp_path)) == ["a", "b", "rec_0.5", "c"]


@pytest.mark.parametrize(
    "content", [[], {"images": None}, {"images": ["a.png"]}, {"images": [{"res": 3}]}, {"images": [{"file_name": 5}]}]
)
def test_wrong_content_is_one_line_everywhere(tiny_folder: Folder, content: Any) -> None:
    folder = write(tiny_folder(), content)
    for read in (image_entries, load_folder, read_ramses):
        with pytest.raises(RamsesError, match=r"metadata\.json: .*see datasets/README.md") as error:
            read(folder)
        assert "\n" not in str(error.value)
    assert [finding.kind for finding in check_folders([folder]).findings] == ["json-unreadable"]


@pytest.mark.parametrize(
    ("batches", "message"),
    [(None, "batches must be a list"), ([{"mass": {}}], "batch 1: needs image_names")],
)
def test_wrong_batches_stop_a_conversion(tiny_folder: Folder, batches: Any, message: str) -> None:
    folder = write(tiny_folder(), {"images": [], "batches": batches})
    with pytest.raises(RamsesError, match=rf"metadata\.json.* {message}"):
        read_ramses(folder)
