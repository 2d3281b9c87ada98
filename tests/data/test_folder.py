"""RAMSES folders: every file read with the right types, every defect named with file and row."""

from __future__ import annotations

import json
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
from ramses_d2.data.folder import image_entries, load_folder, read_annotations, read_metadata, reject_duplicates
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
    assert [message in record.message for record in caplog.records] == [True]
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
    with pytest.raises(RamsesError, match="img2.png: an empty image needs its file_name and res in .*metadata.json"):
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


HEADER = "label,baseimg,class,res,mass,gt_mass"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "annotations.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_types_and_unknown_masses(tmp_path: Path) -> None:
    rows = ["1,007,NA,2.5,nan,False", "2.0,007,Rc,2.5,NaN,", "3,007,Rc,2.5,,0", "4, a b ,Rc,2.5,1e-1,True"]
    table = read_annotations(write(tmp_path, *rows))
    assert table["label"].tolist() == [1, 2, 3, 4]
    assert table["baseimg"].tolist() == ["007", "007", "007", "a b"]  # text, not the number 7
    assert table["class"].tolist() == ["NA", "Rc", "Rc", "Rc"]  # a class name, not a missing value
    assert np.isnan(table["mass"][:3]).all() and table["mass"].iloc[3] == 0.1
    assert table["gt_mass"].tolist() == [False, False, False, True]
    assert table.index.tolist() == [2, 3, 4, 5]
    assert np.isnan(table["area"]).all()


def test_optional_columns(tmp_path: Path) -> None:
    table = read_annotations(write(tmp_path, "1,a,Rc,2", header="label,baseimg,class,res"))
    assert np.isnan(table["mass"].iloc[0]) and not table["gt_mass"].iloc[0]
    assert "x0" not in table.columns and "height" not in table.columns


def test_header_alone_and_byte_order_mark(tmp_path: Path) -> None:
    assert len(read_annotations(write(tmp_path))) == 0
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,,", header="\ufeff" + HEADER))) == 1


def test_blank_lines_do_not_shift_row_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,Rc,2,,", "", "0,a,Rc,2,,", "")
    with pytest.raises(RamsesError, match="row 4: label is"):
        read_annotations(path)


@pytest.mark.parametrize("second", ["mass", " mass", "mass "])
def test_a_column_that_is_there_twice(tmp_path: Path, second: str) -> None:
    with pytest.raises(RamsesError, match=r"annotations.csv: column mass is there twice; remove or rename one"):
        read_annotations(write(tmp_path, "1,a,Rc,2,1,True,3", header=f"{HEADER},{second}"))
    assert len(read_annotations(write(tmp_path, "1,a,Rc,2,1,True,3,4", header=f"{HEADER},mass.1,")))


@pytest.mark.parametrize("size", ["inf,4", "4,inf", "0,4", "4,-3"])
def test_impossible_sizes(tmp_path: Path, size: str) -> None:
    with pytest.raises(RamsesError, match="row 3: (height|width) is .*; the size of the image is in px, 1 or more"):
        read_annotations(
            write(tmp_path, "1,a,Rc,2,4,5", f"2,a,Rc,2,{size}", header="label,baseimg,class,res,height,width")
        )


@pytest.mark.parametrize("column", ["label", "baseimg", "class", "res"])
def test_missing_column(tmp_path: Path, column: str) -> None:
    header = HEADER.replace(column, "other", 1)
    with pytest.raises(RamsesError, match=rf"annotations.csv: column {column} is missing"):
        read_annotations(write(tmp_path, "1,a,Rc,2,,", header=header))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,a,Rc,2,,", "label is .*whole number from 1"),
        ("-1,a,Rc,2,,", "label is"),
        ("1.5,a,Rc,2,,", "label is"),
        ("70000,a,Rc,2,,", "label is"),
        (",a,Rc,2,,", "label is"),
        ("x,a,Rc,2,,", "label is 'x'; write a number"),
        ("1,,Rc,2,,", "baseimg is ''"),
        ("1,a,,2,,", "class is ''"),
        ("1,a,Rc,,,", "res is nan; the resolution is px per mm"),
        ("1,a,Rc,NaN,,", "res is"),
        ("1,a,Rc,0,,", "res is"),
        ("1,a,Rc,-2,,", "res is"),
        ("1,a,Rc,inf,,", "res is"),
        ("1,a,Rc,2,0,", "mass is 0; a mass is in grams"),
        ("1,a,Rc,2,-1,", "mass is"),
        ("1,a,Rc,2,inf,", "mass is"),
        ("1,a,Rc,2,heavy,", "mass is 'heavy'; write a number"),
        ("1,a,Rc,2,1,maybe", "gt_mass is 'maybe'; write True or False"),
    ],
)
def test_wrong_values_name_their_row(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(RamsesError, match=f"annotations.csv, row 3: {message}") as caught:
        read_annotations(write(tmp_path, "9,a,Rc,2,1.5,True", row))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="no such file"):
        read_annotations(tmp_path / "annotations.csv")
    path = tmp_path / "annotations.csv"
    for content, message in (
        (b"", "empty"),
        (b"a,b\n1,2,3\n1,2,3,4,5\n", "row|table"),
        (b"\xff\xfe\x00", "UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(RamsesError, match=message):
            read_annotations(path)


def test_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path, "1,a,Rc,2,,", "1,b,Rc,2,,", "1,a,Rc,2,,")
    with pytest.raises(RamsesError, match="row 4: label 1 of image a appears a second time"):
        reject_duplicates(read_annotations(path), path)


def test_semicolons_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "1;a;Rc;2,5;0,1;True", header=HEADER.replace(",", ";"))
    with pytest.raises(RamsesError, match="semicolons"):
        read_annotations(path)


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="more cells than the header"):
        read_annotations(write(tmp_path, "1,a,Rc,2,5,0,1,True"))


def write_of_folder_metadata(folder: Path, content: Any) -> Path:
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder


def test_entries_are_found_however_their_image_is_named(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == image_entries(tmp_path) == {}
    names = ["images/a.png", "b", "rec_0.5", "D:\\c.TIF"]
    write_of_folder_metadata(tmp_path, {"images": [{"file_name": name, "res": 2} for name in names]})
    assert list(image_entries(tmp_path)) == ["a", "b", "rec_0.5", "c"]


@pytest.mark.parametrize(
    "content", [[], {"images": None}, {"images": ["a.png"]}, {"images": [{"res": 3}]}, {"images": [{"file_name": 5}]}]
)
def test_wrong_content_is_one_line_everywhere(tiny_folder: Folder, content: Any) -> None:
    folder = write_of_folder_metadata(tiny_folder(), content)
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
    folder = write_of_folder_metadata(tiny_folder(), {"images": [], "batches": batches})
    with pytest.raises(RamsesError, match=rf"metadata\.json.* {message}"):
        read_ramses(folder)
