"""COCO jsons as dataset dicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from PIL import Image

from ramses_d2.data.coco import coco_classes, load_coco
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def annotation(number: int, x: float, side: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": 7,
        "category_id": 5,
        "bbox": [x, 2, side, side],
        "area": side * side,
        "segmentation": square(x, 2, side),
        "iscrowd": 0,
    } | changes


def write(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / "pictures/a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 30, "width": 40}],
        "annotations": annotations,
        "categories": [
            {"id": 9, "name": "stone", "supercategory": "things"},
            {"id": 5, "name": "brick", "supercategory": "things"},
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 3, "name": "spare", "supercategory": "spare"},
        ],
    } | changes
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def test_dataset_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = [
        annotation(1, 3, 4, mass=2.5, gt_mass=True),
        annotation(2, 1, 10, category_id=9),
        annotation(3, 5, 20, iscrowd=1),
    ]
    path = write(tmp_path, annotations)
    dataset_dicts, class_names = load_coco(path, tmp_path / "pictures")
    assert capsys.readouterr().out == ""
    # The dummy supercategory goes; an unused class stays
    assert class_names == ["spare", "brick", "stone"]
    assert coco_classes(path) == (class_names, [3, 5, 9])
    (dataset_dict,) = dataset_dicts
    assert dataset_dict["image_name"] == "pictures/a" and dataset_dict["image_id"] == 1
    assert (dataset_dict["height"], dataset_dict["width"]) == (30, 40) and np.isnan(dataset_dict["resolution"])
    large, small = dataset_dict["annotations"]
    assert (large["label"], large["category_id"], large["bbox"]) == (1, 2, [1, 2, 11, 12])
    assert (small["label"], small["category_id"], small["mass"], small["gt_mass"]) == (2, 1, 2.5, True)
    assert np.isnan(large["mass"]) and large["gt_mass"] is False
    label_map = read_label_map(dataset_dict)
    assert np.count_nonzero(label_map == 2) == 16 and np.count_nonzero(label_map == 1) == 100 - 16


@pytest.mark.parametrize("key", ["res", "resolution"])
def test_resolution_is_read(tmp_path: Path, key: str) -> None:
    images = [{"id": 7, "file_name": "a.png", "height": 30, "width": 40, key: 3.5}]
    path = write(tmp_path, [annotation(1, 3, 4)], images=images)
    assert load_coco(path, tmp_path / "pictures")[0][0]["resolution"] == 3.5


def test_run_lengths_and_unmeasured_outlines(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[4:9, 10:30] = 1
    rle = mask_utils.encode(mask)
    rle["counts"] = rle["counts"].decode()
    polygon = annotation(1, 3, 4) | {"area": None, "bbox": None}
    dataset_dicts, _ = load_coco(
        write(tmp_path, [polygon, annotation(2, 0, 1, segmentation=rle, area=100.0, bbox=[10, 4, 20, 5])]),
        tmp_path / "pictures",
    )
    first, second = dataset_dicts[0]["annotations"]
    assert first["area"] == 100 and second["area"] == 16 and second["bbox"] == [3, 2, 7, 6]
    assert np.array_equal(read_label_map(dataset_dicts[0]) == 1, mask.astype(bool))


@pytest.mark.parametrize("area", [0, -1, None, float("nan")])
def test_small_objects_stay_on_top_where_no_area_is_measured(tmp_path: Path, area: float | None) -> None:
    small, large = annotation(1, 3, 4, area=area), annotation(2, 1, 10, area=area)
    ((dataset_dict,), _) = load_coco(write(tmp_path, [small, large]), tmp_path / "pictures")
    assert [(entry["coco_id"], entry["area"]) for entry in dataset_dict["annotations"]] == [(2, 100), (1, 16)]
    assert np.bincount(read_label_map(dataset_dict).ravel())[1:].tolist() == [100 - 16, 16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": 5}, "its bbox is 5; write four numbers of px, or leave it out"),
        ({"bbox": [None] * 4}, "its bbox is .None, .*; write four numbers"),
        ({"area": "12"}, "its area is '12'; write a number of px, or leave it out"),
        ({"area": [12]}, "its area is .12.; write a number"),
    ],
)
def test_wrong_measures(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RamsesError, match=f"annotations.json: annotation 1: {message}"):
        load_coco(write(tmp_path, [annotation(1, 3, 4, **changes)]), tmp_path / "pictures")


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": 5, "height": 30, "width": 40}]
    with pytest.raises(RamsesError, match="image 7 has file_name 5; write the name as text"):
        load_coco(write(tmp_path, [], images=images), tmp_path / "pictures")


def test_annotations_without_outline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [annotation(2, 3, 5, segmentation=[]), annotation(3, 3, 5, segmentation=[[1, 2, 3, 4]])]
    dataset_dicts, _ = load_coco(write(tmp_path, [annotation(1, 3, 4), *bad]), tmp_path / "pictures")
    assert len(dataset_dicts[0]["annotations"]) == 1
    assert "2 annotations without an outline are dropped" in caplog.text
    with pytest.raises(RamsesError, match="no annotation has a segmentation"):
        load_coco(write(tmp_path, bad), tmp_path / "pictures")


def test_image_without_annotations(tmp_path: Path) -> None:
    assert load_coco(write(tmp_path, []), tmp_path / "pictures")[0][0]["annotations"] == []


@pytest.mark.parametrize(
    ("annotations", "changes", "message"),
    [
        ([annotation(1, 3, 4, category_id=77)], {}, "annotation 1 has category_id 77"),
        ([annotation(1, 3, 4, image_id=8)], {}, "annotation 1 has image_id 8"),
        ([annotation(1, 3, 4, mass=0)], {}, "annotation 1 has mass 0"),
        ([], {"categories": None}, "list 'categories' is missing"),
        ([], {"images": [{"id": 7, "file_name": "b.png", "height": 30, "width": 40}]}, "b.png is missing"),
        (
            [],
            {"images": [{"id": 7, "file_name": "a.png", "height": 30, "width": 40, "res": 0}]},
            "image 7 has resolution 0",
        ),
    ],
)
def test_errors(tmp_path: Path, annotations: list[dict[str, Any]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RamsesError, match=f"annotations.json: .*{message}"):
        load_coco(write(tmp_path, annotations, **changes), tmp_path / "pictures")


def test_ids_of_the_file_are_kept(tmp_path: Path) -> None:
    small, large = annotation("x", 3, 4), annotation("y", 1, 10, category_id=9)
    ((dataset_dict,), _) = load_coco(write(tmp_path, [small, large]), tmp_path / "pictures")
    assert dataset_dict["coco_image_id"] == 7 and dataset_dict["image_id"] == 1
    assert [entry["coco_id"] for entry in dataset_dict["annotations"]] == ["y", "x"]
    assert "crowd" not in dataset_dict


def test_crowd_is_kept_apart(tmp_path: Path) -> None:
    """It is neither learned nor painted; its run lengths are as in the file, measured where the file does not."""
    counts = {"size": [30, 40], "counts": [60, 30, 1110]}
    crowd = annotation(8, 0, 1, category_id=9, iscrowd=1, segmentation=counts, area=None, bbox=None)
    ((dataset_dict,), _) = load_coco(write(tmp_path, [annotation(1, 3, 4), crowd]), tmp_path / "pictures")
    assert len(dataset_dict["annotations"]) == 1 and set(np.unique(read_label_map(dataset_dict))) == {0, 1}
    assert dataset_dict["crowd"] == [
        {"coco_id": 8, "category_id": 2, "bbox": [2, 0, 1, 30], "area": 30, "segmentation": counts}
    ]


def test_label_file(tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_text("stone\nbrick\n")
    annotations = [annotation(1, 3, 4), annotation(2, 1, 10, category_id=9)]
    dataset_dicts, names = load_coco(write(tmp_path, annotations), tmp_path / "pictures", tmp_path / "label.txt")
    assert names == ["stone", "brick"]
    assert [entry["category_id"] for entry in dataset_dicts[0]["annotations"]] == [0, 1]


def test_where_images_are(tmp_path: Path) -> None:
    """In sub-folders, under absolute names, written on Windows, or known by their address on the web alone."""
    path = write(tmp_path, [])
    image_files = tmp_path / "pictures"
    (image_files / "deep").mkdir()
    (tmp_path / "else").mkdir()
    for place in (image_files / "deep/b.png", tmp_path / "else/c.png", image_files / "d.png"):
        place.write_bytes((image_files / "a.png").read_bytes())
    names = [
        {"file_name": "deep/b.png"},
        {"file_name": str(tmp_path / "else/c.png")},
        {"file_name": "deep\\b.png"},
        {"coco_url": "http://images.cocodataset.org/val/d.png?x=1"},
    ]
    images = [{"id": number, "height": 30, "width": 40} | name for number, name in enumerate(names)]
    dataset_dicts, _ = load_coco(write(tmp_path, [], images=images), image_files)
    assert [Path(r["file_name"]).name for r in dataset_dicts] == ["b.png", "c.png", "b.png", "d.png"]
    assert [r["image_name"] for r in dataset_dicts][::3] == ["pictures/deep/b", "pictures/d"]
    assert dataset_dicts[1]["image_name"].startswith("pictures/") and dataset_dicts[1]["image_name"].endswith("else/c")
    (image_files / "d.png").unlink()
    with pytest.raises(RamsesError, match=r"image 3 has no file_name; download http://.*d.png.* as .*pictures/d.png"):
        load_coco(path, image_files)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "height": 30, "width": 40} for n in range(3)]
    with pytest.raises(RamsesError, match=r"pictures/0.png is missing \(and 2 more\); .*images=DIR"):
        load_coco(write(tmp_path, [], images=images), tmp_path / "pictures")


def test_one_polygon_without_its_list(tmp_path: Path) -> None:
    flat = annotation(1, 3, 4, segmentation=square(3, 2, 4)[0])
    ((dataset_dict,), _) = load_coco(write(tmp_path, [flat]), tmp_path / "pictures")
    assert np.count_nonzero(read_label_map(dataset_dict)) == 16


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [40, 30], "counts": [1200]}, "annotation 1: its run lengths are of an image of 40 x 30 px"),
        ({"counts": [1200]}, "annotation 1: its segmentation has no size and counts"),
        ({"size": 30, "counts": [1200]}, "annotation 1: its run lengths need a size .height, width., and counts"),
        ({"size": [30, 40], "counts": None}, "annotation 1: its run lengths need a size"),
        ("polygon", "annotation 1: its segmentation is str"),
        ([["a", "b", "c", "d", "e", "f"]], "annotation 1: a polygon has something in it that is no number"),
        ([{"x": 1, "y": 2}], "annotation 1: a polygon is a list of numbers"),
    ],
)
def test_wrong_outlines(tmp_path: Path, segmentation: Any, message: str) -> None:
    with pytest.raises(RamsesError, match=f"annotations.json: {message}") as error:
        load_coco(write(tmp_path, [annotation(1, 3, 4, segmentation=segmentation)]), tmp_path / "pictures")
    assert "\n" not in str(error.value)


def test_a_image_without_a_size(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="image 7 has height None, width 40; give its size in px"):
        load_coco(write(tmp_path, [], images=[{"id": 7, "file_name": "a.png", "width": 40}]), tmp_path / "pictures")
