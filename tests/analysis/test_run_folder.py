"""A run can be stopped anywhere, continued, and is never overwritten unasked."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from ramses_d2.analysis.particles import particle_table
from ramses_d2.analysis.run import ImageFile, RunFolder
from ramses_d2.errors import RamsesError

SETTINGS = {"weights_sha256": "abc", "options": {"score_threshold": 0.5}}


def image(number: int) -> ImageFile:
    return ImageFile(Path(f"in/p{number}.png"), f"p{number}", 2.0)


def add(run: RunFolder, number: int, particles: int = 2) -> None:
    labels = np.zeros((20, 30), np.uint16)
    for label in range(1, particles + 1):
        labels[2:7, 6 * label - 4 : 6 * label] = label
    table = particle_table(
        f"p{number}.png", labels, ["Ra", "Rc"][:particles], [1.5, math.nan][:particles], [0.9, 0.8][:particles], 2.0
    )
    run.add(image(number), (20, 30), 2.0, labels, table, np.zeros((40, 60, 3), np.uint8))


def test_the_files_of_a_run(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS, {"command": ["predict.py"]})
    assert not (tmp_path / "out").exists()  # nothing before the first image
    add(run, 10)
    add(run, 9, particles=0)
    table = run.finish([("in/broken.png", "truncated")])
    assert len(table) == 2 and table["mass"].sum() == 1.5
    read = pd.read_csv(tmp_path / "out/annotations.csv")
    assert (
        read["class"].tolist() == ["Ra", "Rc"]
        and read["area"].tolist() == [20, 20]
        and read["mass"].isna().tolist() == [False, True]
    )
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["complete"] and record["settings"]["weights_sha256"] == "abc" and record["command"] == ["predict.py"]
    assert [p["file_name"] for p in record["pictures"]] == ["p9.png", "p10.png"]
    assert record["failed"] == [{"path": "in/broken.png", "error": "truncated"}]
    assert np.asarray(Image.open(tmp_path / "out/labels/p10.png")).dtype == np.uint16
    assert not list((tmp_path / "out").rglob(".*"))


def test_coco_files_are_valid_and_show_the_label_image(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    add(run, 1)
    add(run, 2, particles=1)
    run.finish()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out/coco_instances.json"))
        results = truth.loadRes(str(tmp_path / "out/coco_results.json"))
    assert sorted(truth.anns) == [1, 2, 3] and len(results.anns) == 3 and min(truth.imgs) == 1
    labels = np.asarray(Image.open(tmp_path / "out/labels/p1.png"))
    for annotation in truth.imgToAnns[1]:
        mask = mask_utils.decode(annotation["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, labels == annotation["label"])
        assert mask_utils.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
    assert [a["mass"] for a in truth.imgToAnns[1]] == [1.5, None] and truth.imgs[1]["resolution"] == 2.0


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    first = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    add(first, 1)  # and then it is killed
    again = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    assert again.is_done(image(1), 2.0) and not again.is_done(image(2), 2.0)
    add(again, 2)
    assert set(again.finish()["baseimg"]) == {"p1.png", "p2.png"}


def test_a_image_without_its_record_is_not_done(tmp_path: Path) -> None:
    """The record is written last: a kill between label image and record does the image again."""
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    add(run, 1)
    (tmp_path / "out/pictures/p1.json").unlink()
    assert not RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS).is_done(image(1), 2.0)


def test_other_settings_need_force_and_other_things_are_never_replaced(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    add(RunFolder(out, ["Ra", "Rc"], SETTINGS), 1)
    other = SETTINGS | {"weights_sha256": "def"}
    with pytest.raises(RamsesError, match="another setting, weights_sha256.*--force"):
        RunFolder(out, ["Ra", "Rc"], other)
    forced = RunFolder(out, ["Ra", "Rc"], other, force=True)
    assert (tmp_path / "out/pictures/p1.json").is_file()  # until the first new image
    add(forced, 2)
    assert [path.name for path in (tmp_path / "out/pictures").iterdir()] == ["p2.json"]
    (tmp_path / "out/precious.txt").write_text("mine")
    with pytest.raises(RamsesError, match="precious.txt.*not replaced"):
        RunFolder(out, ["Ra", "Rc"], SETTINGS, force=True)


def test_force_does_the_same_run_again(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    add(RunFolder(out, ["Ra", "Rc"], SETTINGS), 1)
    assert not RunFolder(out, ["Ra", "Rc"], SETTINGS, force=True).is_done(image(1), 2.0)


def test_a_image_is_done_as_it_was(tmp_path: Path) -> None:
    """Another resolution or another content is predicted again; another file of the same name is an error."""
    ours = ImageFile(tmp_path / "p1.png", "p1", 2.0)
    ours.path.write_bytes(b"one")
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    labels = np.zeros((4, 4), np.uint16)
    run.add(ours, (4, 4), 2.0, labels, particle_table("p1.png", labels, [], [], [], 2.0), None)
    again = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    assert again.resumed and again.is_done(ours, 2.0)
    assert not again.is_done(ours, 4.0) and not again.is_done(ours, None)
    ours.path.write_bytes(b"another")
    assert not again.is_done(ours, 2.0)
    other = ImageFile(tmp_path / "elsewhere/p1.png", "p1", 2.0)
    with pytest.raises(RamsesError, match="another image of this name"):
        again.is_done(other, 2.0)


@pytest.mark.parametrize("left", [".coco_instances.json.99", ".run.json.7"])
def test_what_a_kill_left_half_written_is_no_obstacle(tmp_path: Path, left: str) -> None:
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).write_text("{")
    run = RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS)
    add(run, 1)
    run.finish()
    (tmp_path / "out" / left).write_text("{")
    add(RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], SETTINGS | {"options": 2}, force=True), 2)
    assert not (tmp_path / "out" / left).exists()


def test_what_differs_from_the_run_that_is_there_is_named(tmp_path: Path) -> None:
    add(RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], {"options": {"stream": {"overlap": 1}}}), 1)
    with pytest.raises(RamsesError, match="a run with another setting, options.stream.overlap"):
        RunFolder(str(tmp_path / "out"), ["Ra", "Rc"], {"options": {"stream": {"overlap": 2}}})


def test_force_replaces_runs_only(tmp_path: Path) -> None:
    """Labels made by hand look like a part of a run, but for run.json."""
    (tmp_path / "mine/labels").mkdir(parents=True)
    (tmp_path / "mine/labels/by_hand.png").write_bytes(b"x")
    with pytest.raises(RamsesError, match="mine holds no run, it has no run.json: not replaced"):
        RunFolder(str(tmp_path / "mine"), ["Ra", "Rc"], SETTINGS, force=True)
    assert (tmp_path / "mine/labels/by_hand.png").exists()


@pytest.mark.parametrize("output", ["link", "."])
def test_force_on_a_link_and_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    add(RunFolder(str(tmp_path / "real"), ["Ra", "Rc"], SETTINGS), 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path if output == "link" else tmp_path / "real")
    add(RunFolder(output, ["Ra", "Rc"], SETTINGS | {"other": 1}, force=True), 2)
    assert [path.name for path in (tmp_path / "real/pictures").iterdir()] == ["p2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"] and (tmp_path / "link").is_symlink()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RamsesError, match="file/run: cannot be made .Not a directory.; choose another --output"):
        RunFolder(str(tmp_path / "file/run"), ["Ra", "Rc"], SETTINGS).start()
