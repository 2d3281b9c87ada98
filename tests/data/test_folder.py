"""RAMSES folders: dataset dicts as the rest of the program expects them; every defect named with file and row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from detectron2.structures import BoxMode
from PIL import Image
from scipy import ndimage

from ramses_d2.data.folder import load_folder
from ramses_d2.errors import RamsesError

Folder = Callable[..., Path]


def edit_csv(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "annotations.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def test_dataset_dicts(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96), (96, 64)), count=6, resolution=(2.0, 4.0), extension=".jpg")
    dataset_dicts, class_names = load_folder(folder)
    assert class_names == ["brick", "concrete", "glass"]
    assert [dataset_dict["image_name"] for dataset_dict in dataset_dicts] == ["demo/img0", "demo/img1"]
    assert [dataset_dict["image_id"] for dataset_dict in dataset_dicts] == [1, 2]
    assert [dataset_dict["resolution"] for dataset_dict in dataset_dicts] == [2.0, 4.0]
    first = dataset_dicts[0]
    assert (first["height"], first["width"]) == (64, 96)
    assert Path(first["file_name"]).is_file() and first["file_name"].endswith("img0.jpg")
    assert [a["label"] for a in first["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [a["category_id"] for a in first["annotations"]] == [0, 1, 2, 0, 1, 2]
    annotation = first["annotations"][4]
    assert annotation["bbox_mode"] is BoxMode.XYXY_ABS and annotation["iscrowd"] == 0
    assert annotation["gt_mass"] is True
    assert annotation["mass"] == pytest.approx(0.02 * 2 * annotation["area"] / 2.0**2)
    assert all(type(annotation[key]) in (int, float, list, bool, BoxMode) for key in annotation)


@pytest.mark.parametrize(
    ("convention", "message"),
    [
        ("rows", "x0, x1 are rows"),
        ("columns", "x0, x1 are columns"),
        ("wrong", "do not match the label images"),
        ("none", "no box columns"),
    ],
)
def test_boxes_follow_the_label_images(
    tiny_folder: Folder, caplog: pytest.LogCaptureFixture, convention: str, message: str
) -> None:
    with caplog.at_level(logging.INFO, logger="ramses_d2"):
        dataset_dicts, _ = load_folder(tiny_folder(count=5, box_convention=convention))
    assert [message in dataset_dict.message for dataset_dict in caplog.records] == [True]
    for dataset_dict in dataset_dicts:
        label_map = np.asarray(Image.open(dataset_dict["label_file_name"]))
        for annotation, (rows, columns) in zip(
            dataset_dict["annotations"], ndimage.find_objects(label_map), strict=True
        ):
            assert annotation["bbox"] == [columns.start, rows.start, columns.stop, rows.stop]


def test_annotations_are_sorted_by_label(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    expected, _ = load_folder(folder)
    edit_csv(folder, lambda table: table.sample(frac=1, random_state=0))
    assert load_folder(folder)[0] == expected


def test_unknown_masses(tiny_folder: Folder) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(nan_masses=True))
    assert all(np.isnan(a["mass"]) and a["gt_mass"] is False for r in dataset_dicts for a in r["annotations"])


def test_base_names_may_carry_the_extension(tiny_folder: Folder) -> None:
    folder = tiny_folder(extension=".jpg")
    expected, _ = load_folder(folder)
    table = pd.read_csv(folder / "annotations.csv")
    for form in ("{}.jpg", "{}.JPG", "{}.tif", "images/{}.jpg", "D:\\belt\\{}.png"):
        table.assign(baseimg=table["baseimg"].map(form.format)).to_csv(folder / "annotations.csv", index=False)
        assert load_folder(folder)[0] == expected
        assert load_folder(folder, only=["img0"])[0] == expected[:1]


def test_size_from_the_header_where_the_csv_has_none(tiny_folder: Folder) -> None:
    folder = tiny_folder(extension=".jpg")
    edit_csv(folder, lambda table: table.drop(columns=["height", "width"]))
    assert [(r["height"], r["width"]) for r in load_folder(folder)[0]] == [(64, 96), (96, 64)]

    exif = Image.Exif()
    exif[0x0112] = 8  # turned by a quarter
    with Image.open(folder / "images/img0.jpg") as image:
        image.save(folder / "images/img0.jpg", exif=exif)
    assert (load_folder(folder)[0][0]["height"], load_folder(folder)[0][0]["width"]) == (96, 64)


def test_class_order(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    names = ["unused", "glass", "concrete", "brick"]
    dataset_dicts, class_names = load_folder(folder, names)
    assert class_names == names
    assert [a["category_id"] for a in dataset_dicts[0]["annotations"]][:3] == [3, 2, 1]
    (folder / "classes.json").write_text(json.dumps({"glass": 2, "brick": 1, "concrete": 3}))
    assert load_folder(folder)[1] == ["brick", "glass", "concrete"]
    (folder / "classes.json").write_text(json.dumps({"glass": 0, "brick": 1, "concrete": 2}))
    with pytest.raises(RamsesError, match="classes.json: class ids must be the numbers 1"):
        load_folder(folder)


def test_images_without_objects(tiny_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 0, 0), resolution=(2.0, 3.0, 2.0))
    (folder / "labels/img2.png").unlink()
    dataset_dicts, _ = load_folder(folder)
    assert [(r["image_name"], r["resolution"]) for r in dataset_dicts] == [("demo/img0", 2.0), ("demo/img1", 3.0)]
    assert dataset_dicts[1]["annotations"] == []
    assert "1 images without rows and label image are skipped" in caplog.text


def test_dataset_dicts_are_sorted_by_name(tiny_folder: Folder) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(sizes=((64, 96),) * 3, count=(0, 4, 0)))
    assert [dataset_dict["image_name"] for dataset_dict in dataset_dicts] == ["demo/img0", "demo/img1", "demo/img2"]
    assert [dataset_dict["image_id"] for dataset_dict in dataset_dicts] == [1, 2, 3]


def test_resolution_of_a_image_without_objects(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 4, 0), resolution=(2.0, 2.0, 3.0), metadata=False)
    assert load_folder(folder)[0][2]["resolution"] == 2.0  # the folder has one resolution
    edit_csv(folder, lambda table: table.assign(res=np.where(table["baseimg"] == "img0", 2.0, 2.5)))
    with pytest.raises(RamsesError, match="img2.png: an empty image of unknown resolution"):
        load_folder(folder)


def test_folder_without_any_object(tiny_folder: Folder) -> None:
    dataset_dicts, class_names = load_folder(tiny_folder(count=0))
    assert class_names == []
    assert [dataset_dict["annotations"] for dataset_dict in dataset_dicts] == [[], []]


def test_only_some_images(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 4, count=(4, 4, 0, 0))
    edit_csv(folder, lambda table: table.replace({"class": {"glass": "?"}}).query("baseimg == 'img1' or label < 3"))
    dataset_dicts, _ = load_folder(folder, ["brick", "concrete"], key="k", only=["img0", "img3"])
    assert [dataset_dict["image_name"] for dataset_dict in dataset_dicts] == ["k/img0", "k/img3"]


def test_a_mistyped_name_makes_no_empty_image(tiny_folder: Folder) -> None:
    """The rows of IMG0 have no image, and img0 would be learned as one without particles."""
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 4, 0))
    edit_csv(folder, lambda table: table.assign(baseimg=table["baseimg"].replace("img0", "IMG0")))
    with pytest.raises(
        RamsesError, match=r"row 2: image .*IMG0\.\* is missing, while .*img0\.png has .*correct baseimg"
    ):
        load_folder(folder, only=["img0", "img1"])
    # Images that are not in doubt can be used
    assert [len(dataset_dict["annotations"]) for dataset_dict in load_folder(folder, only=["img1", "img2"])[0]] == [
        4,
        0,
    ]


def test_resolution_of_a_name_with_dots(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 4, 0), resolution=(2.0, 2.5, 3.0))
    for kind in ("images", "labels"):
        (folder / kind / "img2.png").rename(folder / kind / "rec_0.5.png")
    (folder / "metadata.json").write_text(json.dumps({"images": [{"file_name": "rec_0.5", "res": 7}]}))
    assert load_folder(folder)[0][2]["resolution"] == 7


def test_missing_things(tiny_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="nothing: no such folder"):
        load_folder(tmp_path / "nothing")
    for victim, message in (
        ("annotations.csv", "annotations.csv: no such file"),
        ("images/img1.png", "annotations.csv, row 8: image .*img1.* is missing"),
        ("labels/img1.png", "annotations.csv, row 8: label image .*img1.png is missing"),
    ):
        folder = tiny_folder(name=victim.replace("/", "_"), count=6)
        (folder / victim).unlink()
        with pytest.raises(RamsesError, match=message):
            load_folder(folder)


def test_wrong_rows(tiny_folder: Folder) -> None:
    folder = tiny_folder(count=6)
    with pytest.raises(RamsesError, match="row 4: class 'glass' is not in the class list"):
        load_folder(folder, ["brick", "concrete"])
    edit_csv(folder, lambda table: table.assign(res=np.where(table["label"] == 3, 5.0, 2.0)))
    with pytest.raises(RamsesError, match="row 4: res is 5, but another row of the same image says 2"):
        load_folder(folder)
    edit_csv(folder, lambda table: table.assign(res=2.0, label=table["label"].clip(upper=5)))
    with pytest.raises(RamsesError, match="row 7: label 5 of image img0 appears a second time"):
        load_folder(folder)


def test_two_images_of_one_base_name(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    (folder / "images/img0.jpg").write_bytes((folder / "images/img0.png").read_bytes())
    with pytest.raises(RamsesError, match="a second image with the base name"):
        load_folder(folder)


def test_unreadable_header(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    edit_csv(folder, lambda table: table.drop(columns=["height", "width"]))
    (folder / "images/img0.png").write_text("no picture")
    with pytest.raises(RamsesError, match="img0.png: the image cannot be read"):
        load_folder(folder)
