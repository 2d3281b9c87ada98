"""RAMSES folders: every file read with the right types, every defect named with file and row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from detectron2.structures import BoxMode
from PIL import Image
from scipy import ndimage

from ramses_d2.data.checking.check import check_folders
from ramses_d2.data.convert.ramses import read_ramses
from ramses_d2.data.folder import image_entries, load_folder, read_annotations, read_metadata
from tests.conftest import edit_csv, refused, write_json

Folder = Callable[..., Path]
Change = Callable[[pd.DataFrame], pd.DataFrame]
CLASSES = ["brick", "concrete", "glass"]
HEADER = "label,baseimg,class,res,mass,gt_mass"


# ---- annotations.csv


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "annotations.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_types_and_unknown_masses(tmp_path: Path) -> None:
    rows = ["1,007,NA,2.5,nan,False", "2.0,007,Rc,2.5,NaN,", "3,007,Rc,2.5,,0", "65535, a b ,Rc,2.5,1e-1,True"]
    table = read_annotations(write(tmp_path, *rows))
    assert table["label"].tolist() == [1, 2, 3, 65535]
    assert table["baseimg"].tolist() == ["007", "007", "007", "a b"]  # text, not the number 7
    assert table["class"].tolist() == ["NA", "Rc", "Rc", "Rc"]  # a class name, not a missing value
    assert np.isnan(table["mass"][:3]).all() and table["mass"].iloc[3] == 0.1
    assert table["gt_mass"].tolist() == [False, False, False, True]
    assert table.index.tolist() == [2, 3, 4, 5]
    assert np.isnan(table["area"]).all()


def test_what_a_table_may_lack(tmp_path: Path) -> None:
    assert len(read_annotations(write(tmp_path))) == 0
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,,", header="\ufeff" + HEADER))) == 1  # a byte order mark
    table = read_annotations(write(tmp_path, "1,a,Rc,2", header="label,baseimg,class,res"))
    assert np.isnan(table["mass"].iloc[0]) and not table["gt_mass"].iloc[0]
    assert "x0" not in table.columns and "height" not in table.columns
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,1,True,3,4", header=f"{HEADER},mass.1,")))


WRONG_CELLS = {
    "label": ["0", "-1", "1.5", "65536", "", "x"],
    "baseimg": [""],
    "class": [""],
    "res": ["", "NaN", "0", "-2", "inf"],
    "mass": ["0", "-1", "inf", "heavy"],
    "gt_mass": ["maybe"],
    "height": ["inf", "0"],
    "width": ["inf", "-3"],
}


@pytest.mark.parametrize(
    ("column", "cell"), [(column, cell) for column, cells in WRONG_CELLS.items() for cell in cells]
)
def test_a_wrong_cell_is_named_with_its_row(tmp_path: Path, column: str, cell: str) -> None:
    good = {"label": "9", "baseimg": "a", "class": "Rc", "res": "2", "mass": "1.5", "gt_mass": "True"}
    good |= {"height": "1", "width": "1"}
    rows = [",".join(cells.values()) for cells in (good, good | {column: cell})]
    with refused("annotations.csv, row 4", f"{column} is"):  # a blank line does not shift the numbers
        read_annotations(write(tmp_path, rows[0], "", rows[1], "", header=",".join(good)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("a,b\n1,2,3\n1,2,3,4,5\n", "table"),
        ("\udcff\udcfe", "UTF-8"),
        ("label;baseimg;class;res\n1;a;Rc;2,5\n", "semicolons"),
        (f"{HEADER}\n1,a,Rc,2,5,0,1,True\n", "more cells than the header"),
        *((f"{HEADER},{second}\n1,a,Rc,2,1,True,3\n", "column mass") for second in ("mass", " mass", "mass ")),
        *((f"{HEADER.replace(name, 'other', 1)}\n", f"column {name}") for name in HEADER.split(",")[:4]),
    ],
)
def test_a_file_that_is_no_such_table(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "annotations.csv").write_text(content, errors="surrogateescape")
    with refused("annotations.csv: ", words):
        read_annotations(tmp_path / "annotations.csv")


# ---- the folder


def test_dataset_dicts(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96), (96, 64)), count=6, resolution=(2.0, 4.0), extension=".jpg")
    dataset_dicts, class_names = load_folder(folder)
    assert class_names == CLASSES
    assert [(each["image_name"], each["image_id"], each["resolution"]) for each in dataset_dicts] == [
        ("demo/img0", 1, 2.0),
        ("demo/img1", 2, 4.0),
    ]
    first = dataset_dicts[0]
    assert (first["height"], first["width"]) == (64, 96)
    assert Path(first["file_name"]).is_file() and first["file_name"].endswith("img0.jpg")
    assert [(a["label"], a["category_id"]) for a in first["annotations"]] == list(
        zip(range(1, 7), (0, 1, 2) * 2, strict=True)
    )
    annotation = first["annotations"][4]
    assert annotation["bbox_mode"] is BoxMode.XYXY_ABS and annotation["iscrowd"] == 0
    assert annotation["gt_mass"] is True
    assert annotation["mass"] == pytest.approx(0.02 * 2 * annotation["area"] / 2.0**2)
    assert all(type(annotation[key]) in (int, float, list, bool, BoxMode) for key in annotation)
    unknown, _ = load_folder(tiny_folder("unknown", nan_masses=True))
    assert all(np.isnan(a["mass"]) and a["gt_mass"] is False for each in unknown for a in each["annotations"])


@pytest.mark.parametrize(
    ("convention", "logged"),
    [("rows", "x0, x1 are rows"), ("columns", "x0, x1 are columns"), ("wrong", "do not match"), ("none", "no box")],
)
def test_boxes_follow_the_label_images(
    tiny_folder: Folder, caplog: pytest.LogCaptureFixture, convention: str, logged: str
) -> None:
    with caplog.at_level(logging.INFO, logger="ramses_d2"):
        dataset_dicts, _ = load_folder(tiny_folder(count=5, box_convention=convention))
    assert [logged in record.message for record in caplog.records] == [True]
    for dataset_dict in dataset_dicts:
        found = ndimage.find_objects(np.asarray(Image.open(dataset_dict["label_file_name"])))
        for annotation, (rows, columns) in zip(dataset_dict["annotations"], found, strict=True):
            assert annotation["bbox"] == [columns.start, rows.start, columns.stop, rows.stop]


FORMS = ("{}.jpg", "{}.JPG", "{}.tif", "images/{}.jpg", "D:\\belt\\{}.png")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.sample(frac=1, random_state=0),
        lambda table: table.drop(columns=["height", "width"]),  # they are read from the image
        *(lambda table, form=form: table.assign(baseimg=table["baseimg"].map(form.format)) for form in FORMS),
    ],
    ids=["order", "sizes", *FORMS],
)
def test_tables_that_mean_the_same(tiny_folder: Folder, change: Change) -> None:
    folder = tiny_folder(extension=".jpg")
    expected, _ = load_folder(folder)
    edit_csv(folder, change)
    assert load_folder(folder)[0] == expected
    assert load_folder(folder, only=["img0"])[0] == expected[:1]


def test_the_size_of_a_turned_image(tiny_folder: Folder) -> None:
    folder = tiny_folder(extension=".jpg")
    edit_csv(folder, lambda table: table.drop(columns=["height", "width"]))
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
    write_json(folder / "classes.json", {"glass": 2, "brick": 1, "concrete": 3})
    assert load_folder(folder)[1] == ["brick", "glass", "concrete"]
    for wrong in ({"glass": 0, "brick": 1, "concrete": 2}, {"glass": 1, "brick": 1}, ["glass"]):
        write_json(folder / "classes.json", wrong)
        with refused("classes.json"):
            load_folder(folder)


def test_images_without_objects(tiny_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 4, count=(0, 4, 0, 0), resolution=(3.0, 2.0, 2.0, 2.0))
    (folder / "labels/img3.png").unlink()
    dataset_dicts, _ = load_folder(folder)
    assert [(each["image_name"], each["image_id"], each["resolution"]) for each in dataset_dicts] == [
        *(("demo/img0", 1, 3.0), ("demo/img1", 2, 2.0), ("demo/img2", 3, 2.0)),
    ]
    assert [len(each["annotations"]) for each in dataset_dicts] == [0, 4, 0]
    assert "1 images without rows and label image are skipped" in caplog.text
    dataset_dicts, class_names = load_folder(tiny_folder("empty", count=0))
    assert class_names == [] and [each["annotations"] for each in dataset_dicts] == [[], []]


def test_the_resolution_of_an_image_without_objects(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 4, 0), resolution=(2.0, 2.0, 3.0), metadata=False)
    assert load_folder(folder)[0][2]["resolution"] == 2.0  # the folder has one resolution
    edit_csv(folder, lambda table: table.assign(res=np.where(table["baseimg"] == "img0", 2.0, 2.5)))
    with refused("img2.png", "metadata.json"):
        load_folder(folder)
    for kind in ("images", "labels"):
        (folder / kind / "img2.png").rename(folder / kind / "rec_0.5.png")  # a name with dots
    write_json(folder / "metadata.json", {"images": [{"file_name": "rec_0.5", "res": 7}]})
    assert load_folder(folder)[0][2]["resolution"] == 7


def test_only_some_images(tiny_folder: Folder) -> None:
    folder = tiny_folder(sizes=((64, 96),) * 4, count=(4, 4, 0, 0))
    edit_csv(folder, lambda table: table.replace({"class": {"glass": "?"}}).query("baseimg == 'img1' or label < 3"))
    dataset_dicts, _ = load_folder(folder, ["brick", "concrete"], key="k", only=["img0", "img3"])
    assert [dataset_dict["image_name"] for dataset_dict in dataset_dicts] == ["k/img0", "k/img3"]


def test_a_mistyped_name_makes_no_empty_image(tiny_folder: Folder) -> None:
    """The rows of IMG0 have no image, and img0 would be learned as one without particles."""
    folder = tiny_folder(sizes=((64, 96),) * 3, count=(4, 4, 0))
    edit_csv(folder, lambda table: table.assign(baseimg=table["baseimg"].replace("img0", "IMG0")))
    with refused("annotations.csv, row 2", "images/IMG0.*", "labels/img0.png"):
        load_folder(folder, only=["img0", "img1"])
    # Images that are not in doubt can be used
    assert [len(each["annotations"]) for each in load_folder(folder, only=["img1", "img2"])[0]] == [4, 0]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit(change: Change) -> Callable[[Path], None]:
    return lambda folder: edit_csv(folder, change)


def without_sizes_and_image(folder: Path) -> None:
    edit_csv(folder, lambda table: table.drop(columns=["height", "width"]))
    (folder / "images/img0.png").write_text("no image")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), ["demo: no such folder"]),
        (remove("annotations.csv"), ["annotations.csv: no such file"]),
        (remove("images/img1.png"), ["annotations.csv, row 8: image", "img1"]),
        (remove("labels/img1.png"), ["annotations.csv, row 8: label image", "img1.png"]),
        (edit(lambda t: t.replace({"class": {"glass": "gold"}})), ["annotations.csv, row 4", "class 'gold'"]),
        (edit(lambda t: t.assign(res=np.where(t["label"] == 3, 5.0, 2.0))), ["row 4", "res is 5", "says 2"]),
        (edit(lambda t: t.assign(label=t["label"].clip(upper=5))), ["row 7", "label 5 of image img0"]),
        (lambda folder: (folder / "images/img0.jpg").write_bytes(b""), ["img0.png", "base name of img0.jpg"]),
        (without_sizes_and_image, ["img0.png: the image cannot be read"]),
    ],
)
def test_faults_of_a_folder(tiny_folder: Folder, damage: Callable[[Path], None], words: list[str]) -> None:
    folder = tiny_folder(count=6)
    damage(folder)
    with refused(*words):
        load_folder(folder, CLASSES)


# ---- metadata.json


def test_entries_are_found_however_their_image_is_named(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == image_entries(tmp_path) == {}
    names = ["images/a.png", "b", "rec_0.5", "D:\\c.TIF"]
    write_json(tmp_path / "metadata.json", {"images": [{"file_name": name, "res": 2} for name in names]})
    assert list(image_entries(tmp_path)) == ["a", "b", "rec_0.5", "c"]


@pytest.mark.parametrize(
    "content", [[], {"images": None}, {"images": ["a.png"]}, {"images": [{"res": 3}]}, {"images": [{"file_name": 5}]}]
)
def test_wrong_metadata_is_one_line_everywhere(tiny_folder: Folder, content: Any) -> None:
    folder = tiny_folder()
    write_json(folder / "metadata.json", content)
    for read in (image_entries, load_folder, read_ramses):
        with refused("metadata.json", "images"):
            read(folder)
    assert [finding.kind for finding in check_folders([folder]).findings] == ["json-unreadable"]


def test_wrong_batches_stop_a_conversion(tiny_folder: Folder) -> None:
    folder = tiny_folder()
    for batches, words in ((None, "batches"), ([{"mass": {}}], "batch 1")):
        write_json(folder / "metadata.json", {"images": [], "batches": batches})
        with refused("metadata.json", words):
            read_ramses(folder)
