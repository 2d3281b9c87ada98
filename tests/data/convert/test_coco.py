"""COCO jsons of other programs, and what their images may be like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from ramses_d2.data.convert.coco import read_coco, write_coco
from ramses_d2.data.convert.common import Source, SourceImage
from ramses_d2.data.convert.ramses import write_ramses
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from tests.data.convert.images import read_labels, save_image

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
        "annotations without an outline left out": 1,
        "pixels of overlapping objects given to the smaller one": 12,
    }
    dog_on_car = np.zeros((8, 10), dtype=int)
    dog_on_car[[0, 1, 2, 3, 5, 6, 7], :8] = 1
    dog_on_car[1:4, 1:5] = 2
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "b"), dog_on_car)
    np.testing.assert_array_equal(read_labels(tmp_path / "out", "a"), np.eye(1, 6, dtype=int).repeat(4, axis=0))
    table = pd.read_csv(tmp_path / "out/annotations.csv")
    assert list(table["baseimg"]) == ["a", "b", "b"] and list(table["class"]) == ["dog", "car", "dog"]
    # x0, x1 are rows; areas and boxes are those of the visible pixels
    assert table[["area", "x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
        [4, 0, 0, 4, 1],
        [44, 0, 0, 8, 8],
        [12, 1, 1, 4, 5],
    ]
    assert table["res"].tolist() == [2.5, 9.0, 9.0] and table["gt_mass"].tolist() == [True, False, False]
    assert table["mass"].tolist()[0] == 3.5 and table["mass"][1:].isna().all()
    assert table["score"].tolist()[1] == 0.75
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())["images"]
    assert metadata[0]["camera"] == "phone" and metadata[1]["date"] == "2013-11-14 17:02:52"
    dataset_dicts, classes = load_folder(tmp_path / "out")
    assert classes == ["car", "dog"] and [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts] == [1, 2]


def test_without_a_resolution_there_is_no_folder_but_a_json(tmp_path):
    path = write_specification(tmp_path)
    with pytest.raises(RamsesError, match=r"b\.png: its resolution is not known.* --resolution PX_PER_MM"):
        write_ramses(read_coco(path), tmp_path / "out")
    write_coco(read_coco(path), tmp_path / "out", images="none")
    resolutions = [image.get("res") for image in json.loads((tmp_path / "out/annotations.json").read_text())["images"]]
    assert resolutions == [2.5, None]


def coco(folder: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
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
    height, width = (60, 40) if orientation >= 5 else (40, 60)
    annotations = [rectangle(1, 3, 5, 10, 7)]
    json_path = coco(
        tmp_path, [{"id": 1, "file_name": "a.jpg", "height": height, "width": width, "res": 2}], annotations
    )
    report = write_ramses(read_coco(json_path), tmp_path / "upright")
    expected = np.zeros((height, width), dtype=int)
    expected[5:12, 3:13] = 1
    np.testing.assert_array_equal(read_labels(tmp_path / "upright", "a"), expected)
    assert not +report.notes
    (dataset_dict,), _ = load_folder(tmp_path / "upright")
    read_label_map(dataset_dict)
    if orientation < 5:
        return
    json_path = coco(tmp_path, [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60, "res": 2}], annotations)
    report = write_ramses(read_coco(json_path), tmp_path / "stored")
    stored = np.zeros((40, 60), dtype=np.uint8)
    stored[5:12, 3:13] = 1
    marked = Image.fromarray(stored)
    marked.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(marked))
    np.testing.assert_array_equal(read_labels(tmp_path / "stored", "a"), expected)
    assert +report.notes == {"label maps turned as the EXIF orientation of their image says": 1}


def test_a_json_of_another_size_than_its_image(tmp_path):
    save_image(tmp_path / "a.png", 40, 60)
    json_path = coco(tmp_path, [{"id": 1, "file_name": "a.png", "height": 20, "width": 30, "res": 2}], [])
    with pytest.raises(RamsesError, match=r"a\.png: is 40 x 60 px .* its annotations are for 20 x 30"):
        write_ramses(read_coco(json_path), tmp_path / "out")


def test_images_in_sub_folders(tmp_path):
    files = ["day1/a.png", "day2/a.png", "day2/b.png"]
    images = []
    for index, name in enumerate(files, start=1):
        save_image(tmp_path / name, 8, 10)
        images.append({"id": index, "file_name": name, "height": 8, "width": 10, "res": 1})
    report = write_ramses(read_coco(coco(tmp_path, images, [rectangle(1, 1, 1, 3, 2, image_id=2)])), tmp_path / "out")
    assert report.images == 3
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["b.png", "day1_a.png", "day2_a.png"]
    dataset_dicts, _ = load_folder(tmp_path / "out")
    assert [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts] == [0, 0, 1]


def test_names_that_were_written_on_windows(tmp_path):
    images = []
    for index, name in enumerate(["day1\\a.png", "day2\\a.png", "day2\\b.png"], start=1):
        save_image(tmp_path / "images" / name.replace("\\", "/"), 8, 10)
        images.append({"id": index, "file_name": name, "height": 8, "width": 10, "res": 1})
    assert write_ramses(read_coco(coco(tmp_path, images, [])), tmp_path / "out").images == 3
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["b.png", "day1_a.png", "day2_a.png"]


def test_labels_survive_where_they_are_usable(tmp_path):
    save_image(tmp_path / "a.png", 20, 20)
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 20, "res": 1}
    twins = [rectangle(1, 1, 1, 3, 3, label=9), rectangle(2, 9, 9, 3, 3, label=70000, feret=1.5)]
    cases = {
        (9, 70000): (1, 2),  # too high for 16 bits: renumbered in their order
        (9, 4): (9, 4),
        (9, 9): (1, 2),  # not one each: numbered from large to small, as in training
        (9, None): (1, 2),
        (9, 4.5): (1, 2),
    }
    for case, expected in cases.items():
        annotations = [annotation | {"label": label} for annotation, label in zip(twins, case, strict=True)]
        (image_file,) = read_coco(coco(tmp_path, [image], annotations))
        assert (image_file.label_map[2, 2], image_file.label_map[10, 10]) == expected, case
        assert image_file.objects.set_index("label").loc[expected[1], "feret"] == 1.5


def test_annotations_of_the_same_box_and_area_keep_their_own_grams(tmp_path):
    save_image(tmp_path / "a.png", 20, 20)
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 20, "res": 1}
    upper, lower = [[1, 1, 9, 1, 1, 9]], [[9, 1, 9, 9, 1, 9]]
    annotations = [
        rectangle(1, 1, 1, 8, 8, area=32, iscrowd=1, label=3, feret=1.0),
        rectangle(2, 1, 1, 8, 8, area=32, segmentation=upper, label=9, feret=2.0, mass=0.2),
        rectangle(3, 1, 1, 8, 8, area=32, segmentation=lower, label=5, feret=3.0, mass=0.3),
    ]
    (image_file,) = read_coco(coco(tmp_path, [image], annotations))
    assert (image_file.label_map[2, 2], image_file.label_map[7, 7]) == (9, 5)
    assert image_file.objects[["label", "feret", "mass"]].to_numpy().tolist() == [[5, 3.0, 0.3], [9, 2.0, 0.2]]


def test_hidden_objects_are_left_out(tmp_path):
    save_image(tmp_path / "a.png", 20, 20)
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 20, "res": 1}
    annotations = [rectangle(1, 1, 1, 5, 5), rectangle(2, 1, 1, 5, 5), rectangle(3, 10, 10, 2, 2)]
    report = write_ramses(read_coco(coco(tmp_path, [image], annotations)), tmp_path / "out")
    assert +report.notes == {
        "objects without a pixel left out": 1,
        "pixels of overlapping objects given to the smaller one": 25,
    }
    assert report.objects == {"stone": 2}


def test_more_objects_than_a_label_image_holds(tmp_path):
    path = save_image(tmp_path / "a.png", 256, 257)
    label_map = np.arange(256 * 257).reshape(256, 257)
    objects = pd.DataFrame({"label": np.arange(1, 256 * 257), "class": "stone"})
    source = Source("many", ["stone"], [SourceImage("a", path, label_map, objects, 1.0)], 1)
    with pytest.raises(RamsesError, match=r"a\.png: 65791 objects; a 16-bit label image holds at most 65535"):
        write_ramses(source, tmp_path / "out")


def test_a_mass_of_nothing_is_refused(tmp_path):
    path = save_image(tmp_path / "a.png", 4, 4)
    objects = pd.DataFrame({"label": [1], "class": "stone", "mass": [0.0]})
    source = Source("s", ["stone"], [SourceImage("a", path, np.ones((4, 4), int), objects, 1.0)], 1)
    with pytest.raises(RamsesError, match=r"a\.png: a mass of 0 g"):
        write_ramses(source, tmp_path / "out")


def test_an_image_folder_is_found(tmp_path):
    save_image(tmp_path / "images/a.png", 20, 20)
    path = coco(tmp_path, [{"id": 1, "file_name": "a.png", "height": 20, "width": 20}], [])
    assert [image.path for image in read_coco(path)] == [tmp_path / "images/a.png"]
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(RamsesError, match="is missing"):
        read_coco(path)
    assert read_coco(path, tmp_path / "elsewhere").count == 1
