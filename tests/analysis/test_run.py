"""A prediction run: which images it is of, what is known of each, and a folder that is never overwritten unasked."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from ramses_d2.analysis.particles import particle_table
from ramses_d2.analysis.run import (
    ImageFile,
    RunFolder,
    find_images,
    image_overlay,
    image_result,
    in_given_order,
    read_resolutions,
)
from ramses_d2.errors import RamsesError
from ramses_d2.masks import RLEMasks

# ---- images and resolutions


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "b/f10.png b/f9.png b/notes.txt b/deep/f1.jpg c/f9.tif d/x.png e/x.png e/x-2.png".split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "d/link.png").symlink_to(tmp_path / "b/f9.png")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "recursive", "names"),
    [
        (["b"], False, ["f9", "f10"]),  # in natural order, and deep only when asked
        (["b"], True, ["f1", "f9", "f10"]),
        (["b/*.png"], False, ["f9", "f10"]),
        (["b/**/*.jpg", "b/f10.png"], False, ["f1", "f10"]),
        (["b", "b/f9.png", "c"], False, ["f9", "f10", "f9-2"]),  # a file once, equal names get a number
        (["d/x.png", "e/x.png", "e/x-2.png"], False, ["x", "x-3", "x-2"]),  # but never that of another image
        (["b", "c/../b/f9.png", "d/link.png"], False, ["f9", "f10"]),
    ],
)
def test_images_and_their_names(images, sources, recursive, names):
    found = find_images(sources, recursive=recursive)
    assert [image.name for image in found] == names
    assert all(image.path.is_file() and image.resolution is None for image in found)


def test_resolutions_from_a_number_a_csv_and_metadata(images):
    assert read_resolutions(None) is None and read_resolutions("28.7") == 28.7
    Path("r.csv").write_text("file_name,res\nf9.png,2.5\nf10.png,3\n")
    assert [image.resolution for image in find_images(["b"], read_resolutions("r.csv"))] == [2.5, 3.0]
    assert [image.resolution for image in find_images(["b"], 28.7)] == [28.7, 28.7]
    Path("metadata.json").write_text(json.dumps({"images": [{"file_name": "f9.png", "resolution": 4}]}))
    listed = read_resolutions("metadata.json")
    assert find_images(["b/f9.png", "c"], listed)[1].resolution == 4  # by the base name
    with pytest.raises(RamsesError, match="f10.png"):
        find_images(["b"], listed)


def test_the_order_of_a_list(images):
    """Written by Notepad: a byte order mark in front and CRLF; comments, names, names without extension and paths."""
    Path("order.txt").write_bytes("\ufefff10\r\n# second\r\n\r\nc/f9.tif\r\nb/f9.png\r\n".encode())
    found = in_given_order(find_images(["b", "c"]), "order.txt")
    assert [str(image.path) for image in found] == ["b/f10.png", "c/f9.tif", "b/f9.png"]


@pytest.mark.parametrize(
    ("door", "given", "message"),
    [
        ("images", "nowhere", "nowhere"),
        ("images", "b/*.bmp", "b/.*bmp"),
        ("images", ".", "--recursive"),
        *(("--resolution", text, f"--resolution {text}") for text in ("0", "-1", "nan", "inf", "many")),
        ("r.csv", "file_name,res\na.png,0\n", "a.png"),
        ("r.csv", "file_name,res\na.png,nan\n", "a.png"),
        ("r.csv", "file_name,res\na.png,inf\n", "a.png"),
        ("r.csv", "name,res\na.png,1\n", "file_name"),
        ("r.csv", "file_name,res\na.png,1\na.png,2\n", "a.png .* 1 and 2"),
        ("m.json", "[]", "m.json"),
        ("order.txt", "f10\nf10.png\n", "f10.png is named twice"),
        ("order.txt", "f9\n", "f9 is several"),
        ("order.txt", "f7\n", "f7 is none"),
        ("order.txt", "#\n", "no name"),
        ("order.txt", None, "order.txt"),
    ],
)
def test_faults_are_one_line(images, door, given, message):
    if given is not None and "." in door:
        Path(door).write_text(given)
    with pytest.raises(RamsesError, match=message) as caught:
        if door == "images":
            find_images([given])
        elif door == "order.txt":
            in_given_order(find_images(["b", "c"]), door)
        else:
            read_resolutions(given if door == "--resolution" else door)
    assert "\n" not in str(caught.value) and ("." not in door or door in str(caught.value))


def test_a_name_that_is_not_utf_8_is_one_line(images):
    (images / "b" / b"st\xfcck.png".decode(errors="surrogateescape")).write_bytes(b"x")
    with pytest.raises(RamsesError, match=r"st\\udcfcck.png"):
        find_images(["b"])


# ---- one image


def test_result_and_overlay_of_predicted_instances():
    boxes = torch.tensor([[5, 5, 35, 30], [20.4, 10, 60.2, 50], [70, 40, 80, 50]])
    masks = torch.zeros(3, 60, 90, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    masks[2, 44:46] = False  # in two parts of 40 px each
    fields = {"scores": torch.tensor([0.9, 0.8, 0.7]), "pred_classes": torch.tensor([1, 0, 1])}
    instances = Instances((60, 90), pred_boxes=Boxes(boxes), pred_masks=masks, **fields)
    instances.pred_masses = torch.tensor([1.0, 2.0, 4.0])
    labels, table, classes = image_result("a.png", instances, ["Ra", "Rc"], 2.0, fragments="split")
    # The surer one owns the pixels that the first two share
    assert (labels[5:30, 5:35] == 1).all() and labels[40, 30] == 2 and labels.dtype == np.uint16
    assert table["label"].tolist() == [1, 2, 3, 4] and table["class"].tolist() == ["Rc", "Ra", "Rc", "Rc"]
    assert table["mass"].tolist() == [1, 2, 2, 2] and classes.tolist() == [1, 0, 1, 1]
    assert table["score"].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.7])
    result, image = image_result("a.png", instances, ["Ra", "Rc"], 2.0), np.full((60, 90, 3), 90, np.uint8)
    drawn = image_overlay(image, result, ["Ra", "Rc"])
    scale = drawn.shape[0] // 60
    assert (drawn[55 * scale :, : 60 * scale] == 90).all() and (drawn != 90).any()
    arrays = [np.asfortranarray(mask.numpy().astype(np.uint8)) for mask in masks]
    instances.pred_masks = RLEMasks(map(mask_utils.encode, arrays))
    instances.remove("pred_masses")
    again = image_result("a.png", instances, ["Ra", "Rc"], math.nan, fragments="split", min_area_px=41)
    np.testing.assert_array_equal(again.labels, np.where(labels > 2, 0, labels))
    assert again.table["mass"].isna().all() and again.table["area_mm2"].isna().all()
    assert again.table["area"].tolist() == table["area"].tolist()[:2]


# ---- the folder

SETTINGS = {"weights_sha256": "abc", "options": {"score_threshold": 0.5}}


def open_run(output, settings=SETTINGS, **options):
    return RunFolder(str(output), ["Ra", "Rc"], settings, **options)


def image(number):
    return ImageFile(Path(f"in/p{number}.png"), f"p{number}", 2.0)


def add(run, number, particles=2):
    labels = np.zeros((20, 30), np.uint16)
    for label in range(1, particles + 1):
        labels[2:7, 6 * label - 4 : 6 * label] = label
    values = ["Ra", "Rc"][:particles], [1.5, math.nan][:particles], [0.9, 0.8][:particles]
    table = particle_table(f"p{number}.png", labels, *values, 2.0)
    run.add(image(number), (20, 30), 2.0, labels, table, np.zeros((40, 60, 3), np.uint8))


def done(output):
    return sorted(path.name for path in (output / "pictures").iterdir())


def test_the_files_of_a_run(tmp_path):
    out = tmp_path / "out"
    run = open_run(out, about={"command": ["predict.py"]})
    assert not out.exists()  # nothing before the first image
    add(run, 10)
    add(run, 9, particles=0)
    table = run.finish([("in/broken.png", "truncated")], ["A note."])
    assert len(table) == 2 and table["mass"].sum() == 1.5
    read = pd.read_csv(out / "annotations.csv")
    assert read["class"].tolist() == ["Ra", "Rc"] and read["area"].tolist() == [20, 20]
    assert read["mass"].isna().tolist() == [False, True]
    record = json.loads((out / "run.json").read_text())
    assert record["complete"] and record["settings"]["weights_sha256"] == "abc" and record["command"] == ["predict.py"]
    assert [p["file_name"] for p in record["pictures"]] == ["p9.png", "p10.png"] and record["notes"] == ["A note."]
    assert [p["particles"] for p in record["pictures"]] == [p["particles"] for p in run.images] == [0, 2]
    assert record["failed"] == [{"path": "in/broken.png", "error": "truncated"}]
    assert np.asarray(Image.open(out / "labels/p10.png")).dtype == np.uint16
    assert {path.suffix for path in out.rglob("*")} == {"", ".csv", ".json", ".png", ".jpg"}
    open_run(tmp_path / "none").finish()
    assert len(pd.read_csv(tmp_path / "none/annotations.csv")) == 0


def test_coco_files_are_valid_and_show_the_label_image(tmp_path):
    run = open_run(tmp_path)
    add(run, 1)
    add(run, 2, particles=1)
    run.finish()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "coco_instances.json"))
        results = truth.loadRes(str(tmp_path / "coco_results.json"))
    assert sorted(truth.anns) == [1, 2, 3] and len(results.anns) == 3 and min(truth.imgs) == 1
    labels = np.asarray(Image.open(tmp_path / "labels/p1.png"))
    for annotation in truth.imgToAnns[1]:
        mask = mask_utils.decode(annotation["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, labels == annotation["label"])
        assert mask_utils.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
    assert [a["mass"] for a in truth.imgToAnns[1]] == [1.5, None] and truth.imgs[1]["resolution"] == 2.0
    assert [truth.cats[a["category_id"]]["name"] for a in truth.imgToAnns[1]] == ["Ra", "Rc"]


def test_a_stopped_run_goes_on(tmp_path):
    add(open_run(tmp_path), 1)  # and then it is killed
    again = open_run(tmp_path)
    assert again.resumed and again.is_done(image(1), 2.0) and not again.is_done(image(2), 2.0)
    add(again, 2)
    assert set(again.finish()["baseimg"]) == {"p1.png", "p2.png"}
    # The record is written last: a kill between label image and record does the image again
    (tmp_path / "pictures/p1.json").unlink()
    assert not open_run(tmp_path).is_done(image(1), 2.0)
    assert not open_run(tmp_path, force=True).is_done(image(2), 2.0)


def test_other_settings_need_force(tmp_path):
    add(open_run(tmp_path), 1)
    other = SETTINGS | {"options": {"score_threshold": 0.6}}
    with pytest.raises(RamsesError, match="options.score_threshold.*--force"):
        open_run(tmp_path, other)
    forced = open_run(tmp_path, other, force=True)
    assert done(tmp_path) == ["p1.json"]  # until the first new image
    add(forced, 2)
    assert done(tmp_path) == ["p2.json"]


def test_a_kill_while_a_run_is_replaced_leaves_one_with_less_done(tmp_path, monkeypatch):
    add(open_run(tmp_path), 1)
    removed, rmtree = [], shutil.rmtree

    def killed_later(path):
        removed.append(path.name)
        if len(removed) > 1:
            raise KeyboardInterrupt
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", killed_later)
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path, SETTINGS | {"other": 1}, force=True).start()
    assert removed[0] == "pictures" and open_run(tmp_path).resumed


def test_an_image_is_done_as_it_was(tmp_path):
    """Another resolution or another content is predicted again; another file of the same name is an error."""
    ours, labels = ImageFile(tmp_path / "p1.png", "p1", 2.0), np.zeros((4, 4), np.uint16)
    ours.path.write_bytes(b"one")
    table = particle_table("p1.png", labels, [], [], [], 2.0)
    open_run(tmp_path / "out").add(ours, (4, 4), 2.0, labels, table, None)
    again = open_run(tmp_path / "out")
    assert again.is_done(ours, 2.0) and not again.is_done(ours, 4.0) and not again.is_done(ours, None)
    ours.path.write_bytes(b"another")
    assert not again.is_done(ours, 2.0) and again.has(ours)
    with pytest.raises(RamsesError, match="another image of this name"):
        again.is_done(ImageFile(tmp_path / "elsewhere/p1.png", "p1", 2.0), 2.0)


@pytest.mark.parametrize("left", [".coco_instances.json.99", ".run.json.7", "annotations.csv.unfinished-12"])
def test_what_a_kill_left_half_written_is_no_obstacle(tmp_path, left):
    (tmp_path / left).write_text("{")
    run = open_run(tmp_path)
    assert not run.resumed
    add(run, 1)
    run.finish()
    (tmp_path / left).write_text("{")
    add(open_run(tmp_path, SETTINGS | {"options": 2}, force=True), 2)
    assert not (tmp_path / left).exists()


@pytest.mark.parametrize(
    ("files", "force", "message"),
    [
        (["labels/by_hand.png"], True, "run.json"),  # like a part of a run, but for run.json
        (["run.json", "precious.txt"], True, "precious.txt"),
        (["precious.txt"], False, "--force"),
        (["run.json"], False, "run.json"),  # not readable
    ],
)
def test_other_things_are_never_replaced(tmp_path, files, force, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(RamsesError, match=message):
        open_run(tmp_path, force=force)
    assert all((tmp_path / name).read_text() == "x" for name in files)


@pytest.mark.parametrize("output", ["link", "."])
def test_force_on_a_link_and_on_the_current_folder(tmp_path, monkeypatch, output):
    add(open_run(tmp_path / "real"), 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path if output == "link" else tmp_path / "real")
    add(open_run(output, SETTINGS | {"other": 1}, force=True), 2)
    assert done(tmp_path / "real") == ["p2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"] and (tmp_path / "link").is_symlink()


def test_folders_and_files_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RamsesError, match="file/run: cannot be made"):
        open_run(tmp_path / "file/run").start()
    with pytest.raises(RamsesError, match="is a file"):
        open_run(tmp_path / "file")
    run = open_run(tmp_path / "run")
    run.start()
    (tmp_path / "run/labels").rmdir()
    with pytest.raises(RamsesError, match="labels/p1.png: cannot be written"):
        add(run, 1)
