"""Folders that a command may replace, until somebody puts anything of his own into them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder

KIND = OwnFolder("sample", "sampling", "sample.json", "ramses-sample")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "xmls").mkdir(parents=True)
    (folder / "xmls/a.xml").write_text("<name>Ra</name>")
    (folder / "table.csv").write_text("a")
    (folder / "link").symlink_to("table.csv")
    (folder / KIND.record).write_text(json.dumps(KIND.entries(folder) | {"more": 1}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(RamsesError) as error:
        KIND.check_replaceable(folder, force=True)
    return str(error.value).replace(str(folder), "out")


def test_what_nobody_touched_is_replaceable(written: Path, tmp_path: Path) -> None:
    KIND.check_replaceable(written, force=True)
    KIND.check_replaceable(shutil.copytree(written, tmp_path / "copy", symlinks=True), force=True)
    (written / "xmls/a.xml").unlink()  # nothing is lost with what is not there
    KIND.check_replaceable(written, force=True)
    with pytest.raises(RamsesError, match="out already exists: .* --force"):
        KIND.check_replaceable(written, force=False)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        KIND.check_replaceable(tmp_path / name, force=False)


@pytest.mark.parametrize("name", ["notes.txt", "xmls/b.xml", "new/deep/b"])
def test_what_was_added(written: Path, name: str) -> None:
    (written / name).parent.mkdir(parents=True, exist_ok=True)
    (written / name).touch()
    assert refusal(written).startswith(f"out/{name} was added after the sampling: refusing to replace the folder")


def test_links_count_too(written: Path) -> None:
    (written / "xmls/link").symlink_to(written.parent)
    assert refusal(written).startswith("out/xmls/link was added")
    (written / "xmls/link").unlink()
    (written / "link").unlink()
    (written / "link").symlink_to("xmls")
    assert refusal(written).startswith("out/link was changed")


def test_what_was_changed(written: Path) -> None:
    (written / "xmls/a.xml").write_text("<name>Rb</name>")  # of the same size
    assert refusal(written).startswith("out/xmls/a.xml was changed after the sampling: refusing to replace the folder")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": "ramses-other", "contents": {}}'])
def test_what_somebody_else_wrote(written: Path, content: str | None) -> None:
    (written / KIND.record).unlink()
    if content is not None:
        (written / KIND.record).write_text(content)
    assert refusal(written).startswith("out is no sample (no sample.json of one): refusing to replace it")
    assert "is a file: name a folder to write the sample to" in refusal(written / "table.csv")
