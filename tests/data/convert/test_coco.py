"""COCO jsons of other programs, and what their images may be like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from ramses_d2.data.convert import read_coco, write_coco, write_ramses
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from tests.data.convert.helpers import read_labels, save_image

# As on cocodataset.org/#format-data: info, licenses, polygons, an uncompressed RLE of a crowd, a compressed RLE
SPECIFICATION = """
{"info": {"year": 2017, "version": "1.0", "description": "by hand", "contributor": "", "url": "", "date_created": ""},
 "licenses": [{"id": 1, "name": "Attribution", "url": ""}],
 "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car", "supercategory": ""}],
 "images": [
  {"id": 42, "file_name": "b.png", "width": 10, "height": 8, "license": 1, "coco_url": "", "flickr_url": "",
   "date_captured": "2013-11-14 17:02:52"},
  {"id": 7, "file_name": "a.png", "width": 6, "height": 4, "res": 2.5, "camera": "phone", "extra": {"a": 1}}],
 "annotations": [
  {"id": 1, "image_id": 42, "category_id": 18, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0,
   "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},
  {"id": 2, "image_id": 42, "category_id": 3, "bbox": [0, 0, 8, 8], "area": 60, "iscrowd": 0, "score": 0.75,
   "segmentation": [[0, 0, 8, 0, 8, 4, 0, 4], [0, 5, 8, 5, 8, 8, 0, 8]]},
  {"id": 3, "image_id": 42, "category_id": 18, "bbox": [0, 0, 10, 8], "area": 80, "iscrowd": 1,
   "segmentation": {"size": [8, 10], "counts": [0, 80]}},
  {"id": 4, "image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 4], "area": 4, "iscrowd": 0, "mass": 3.5,
   "gt_mass": true, "segmentation": {"size": [4, 6], "counts": "04d0"}},
  {"id": 5, "image_id": 7, "category_id": 3, "bbox": [3, 0, 2, 2], "area": 4, "iscrowd": 0, "segmentation": []}]}
"""


def write_specification(folder: Path) -> Path:
    save_image(folder / "b.png", 8, 10)
    save_image(folder / "a.png", 4, 6)
    (folder / "instances.json").write_text(SPECIFICATION)
    return folder / "instances.json"


def test_a_file_of_the_specification(tmp_path):
    source = read_coco(write_specification(tmp_path))
    source.resolution = 9.0  # only for the image that does not say its own
    report = write_ramses(source, tmp_path / "out")
    assert report.objects == {"car": 1, "dog": 2}
    assert +report.notes == {
        "crowd annotations left out": 1,
        "annotations without a segmentation left out": 1,
        "pixels of overlapping objects given to the smaller one": 12,
    }
    dog_on_car = np.zeros((8, 10), dtype=int)
    dog_on_car[[0, 1, 2, 3, 5, 6, 7], :8] = 1
    dog_on_car[1:4, 1:5] = 2
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "b"), dog_on_car)
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), np.eye(1, 6, dtype=int).repeat(4, axis=0))
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    # x0, x1 are rows; areas and boxes are those of the visible pixels
    assert table[["baseimg", "class", "area", "x0", "y0", "x1", "y1", "res", "gt_mass"]].to_numpy().tolist() == [
        ["a", "dog", 4, 0, 0, 4, 1, 2.5, True],
        ["b", "car", 44, 0, 0, 8, 8, 9.0, False],
        ["b", "dog", 12, 1, 1, 4, 5, 9.0, False],
    ]
    assert table["mass"].tolist()[0] == 3.5 and table["mass"][1:].isna().all()
    assert table["score"].tolist()[1] == 0.75
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())["images"]
    assert metadata[0]["camera"] == "phone" and metadata[1]["date"] == "2013-11-14 17:02:52"
    dataset_dicts, classes = load_folder(tmp_path / "out")
    assert classes == ["car", "dog"] and [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts] == [1, 2]


def test_without_a_resolution_there_is_no_folder_but_a_json(tmp_path):
    path = write_specification(tmp_path)
    with pytest.raises(RamsesError, match=r"b\.png: .*--resolution PX_PER_MM"):
        write_ramses(read_coco(path), tmp_path / "out")
    write_coco(read_coco(path), tmp_path / "out", images="none")
    images = json.loads((tmp_path / "out/annotations.json").read_text())["images"]
    assert [image.get("res") for image in images] == [2.5, None]


def coco(folder: Path, annotations: list[dict[str, Any]], size: tuple[int, int] = (20, 20), *names: str) -> Path:
    """A json of images of one size (1 px/mm), beside which the images may lie."""
    images = [
        {"id": index, "file_name": name, "height": size[0], "width": size[1], "res": 1}
        for index, name in enumerate(names or ("a.png",), start=1)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "stone"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def rectangle(number: int, x: int, y: int, w: int, h: int, image_id: int = 1, **more: Any) -> dict[str, Any]:
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    fixed = {"id": number, "image_id": image_id, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
    return fixed | {"segmentation": outline} | more


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_turned_by_exif(tmp_path, orientation):
    """Outlines are on the upright image; a json whose size is the stored one has them on the unturned pixels."""
    save_image(tmp_path / "images/a.jpg", 40, 60, orientation)
    annotations = [rectangle(1, 3, 5, 10, 7)]
    height, width = (60, 40) if orientation >= 5 else (40, 60)
    report = write_ramses(read_coco(coco(tmp_path, annotations, (height, width), "a.jpg")), tmp_path / "upright")
    expected = np.zeros((height, width), dtype=int)
    expected[5:12, 3:13] = 1
    np.testing.assert_array_equal(read_labels(tmp_path / "upright", "a"), expected)
    assert not +report.notes
    (dataset_dict,), _ = load_folder(tmp_path / "upright")
    read_label_map(dataset_dict)
    if orientation < 5:
        return
    report = write_ramses(read_coco(coco(tmp_path, annotations, (40, 60), "a.jpg")), tmp_path / "stored")
    stored = np.zeros((40, 60), dtype=np.uint8)
    stored[5:12, 3:13] = 1
    marked = Image.fromarray(stored)
    marked.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(read_labels(tmp_path / "stored", "a"), np.asarray(ImageOps.exif_transpose(marked)))
    assert +report.notes == {"label maps turned as the EXIF orientation of their image says": 1}


def test_a_json_of_another_size_than_its_image(tmp_path):
    save_image(tmp_path / "a.png", 40, 60)
    with pytest.raises(RamsesError, match=r"a\.png: .*40 x 60 .*20 x 30"):
        write_ramses(read_coco(coco(tmp_path, [], (20, 30))), tmp_path / "out")


@pytest.mark.parametrize(("separator", "below"), [("/", ""), ("\\", "images")])
def test_images_in_sub_folders(tmp_path, separator, below):
    """Also with the names of a Windows program, and in images/ beside the json."""
    names = ["day1/a.png", "day2/a.png", "day2/b.png"]
    for name in names:
        save_image(tmp_path / below / name, 8, 10)
    written = [name.replace("/", separator) for name in names]
    report = write_ramses(read_coco(coco(tmp_path, [rectangle(1, 1, 1, 3, 2, 2)], (8, 10), *written)), tmp_path / "out")
    assert report.images == 3
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["b.png", "day1_a.png", "day2_a.png"]
    dataset_dicts, _ = load_folder(tmp_path / "out")
    assert [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts] == [0, 0, 1]


def test_two_images_of_one_name(tmp_path):
    for name in ("a.png", "a.jpg"):
        save_image(tmp_path / name, 8, 10)
    with pytest.raises(RamsesError, match=r"a\.png and a\.jpg"):
        read_coco(coco(tmp_path, [], (8, 10), "a.png", "a.jpg"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((9, 65535), (9, 65535)),
        ((9, 65536), (1, 2)),  # too high for 16 bits: renumbered in their order
        ((9, 4), (9, 4)),
        ((9, 9), (1, 2)),  # not one each: numbered from large to small, as in training
        ((9, None), (1, 2)),
        ((9, 4.5), (1, 2)),
    ],
)
def test_labels_survive_where_they_are_usable(tmp_path, labels, expected):
    save_image(tmp_path / "a.png", 20, 20)
    annotations = [rectangle(1, 1, 1, 3, 3, label=labels[0]), rectangle(2, 9, 9, 3, 3, label=labels[1], feret=1.5)]
    (image,) = read_coco(coco(tmp_path, annotations))
    assert (image.label_map[2, 2], image.label_map[10, 10]) == expected
    assert image.objects.set_index("label").loc[expected[1], "feret"] == 1.5


def test_annotations_of_the_same_box_and_area_keep_their_own_mass(tmp_path):
    save_image(tmp_path / "a.png", 20, 20)
    upper, lower = [[1, 1, 9, 1, 1, 9]], [[9, 1, 9, 9, 1, 9]]
    annotations = [
        rectangle(1, 1, 1, 8, 8, area=32, iscrowd=1, label=3, feret=1.0),
        rectangle(2, 1, 1, 8, 8, area=32, segmentation=upper, label=9, feret=2.0, mass=0.2),
        rectangle(3, 1, 1, 8, 8, area=32, segmentation=lower, label=5, feret=3.0, mass=0.3),
    ]
    (image,) = read_coco(coco(tmp_path, annotations))
    assert (image.label_map[2, 2], image.label_map[7, 7]) == (9, 5)
    assert image.objects[["label", "feret", "mass"]].to_numpy().tolist() == [[5, 3.0, 0.3], [9, 2.0, 0.2]]


def test_hidden_objects_are_left_out(tmp_path):
    save_image(tmp_path / "a.png", 20, 20)
    annotations = [rectangle(1, 1, 1, 5, 5), rectangle(2, 1, 1, 5, 5), rectangle(3, 10, 10, 2, 2)]
    report = write_ramses(read_coco(coco(tmp_path, annotations)), tmp_path / "out")
    assert +report.notes == {
        "objects without a pixel left out": 1,
        "pixels of overlapping objects given to the smaller one": 25,
    }
    assert report.objects == {"stone": 2}


def test_an_image_folder_is_found(tmp_path):
    save_image(tmp_path / "images/a.png", 20, 20)
    path = coco(tmp_path, [])
    assert [image.path for image in read_coco(path)] == [tmp_path / "images/a.png"]
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(RamsesError, match=r"a\.png is missing"):
        read_coco(path)
    assert read_coco(path, tmp_path / "elsewhere").count == 1
