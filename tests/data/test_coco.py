"""COCO json: ids of any kind, classes, dataset dicts, and the ground truth made from dataset dicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ramses_d2.data.coco import CocoFile, coco_classes, coco_ground_truth, load_coco, read_coco_file, read_label_file
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError

BOX = {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "iscrowd": 0}


def read(
    folder: Path,
    image_ids: list[Any],
    categories: dict[Any, str],
    used: list[tuple[Any, Any]],
    labels: str | None = None,
) -> CocoFile:
    """Read a json with these ids; ``used``: image id and category id of each annotation."""
    images = [{"id": key, "file_name": f"{key}.png", "height": 9, "width": 9} for key in image_ids]
    annotations = [{"id": f"a{n}", "image_id": i, "category_id": c} | BOX for n, (i, c) in enumerate(used)]
    entries = [{"id": key, "name": name} for key, name in categories.items()]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": entries}))
    if labels is None:
        return read_coco_file(path)
    (folder / "label.txt").write_text(labels)
    return read_coco_file(path, folder / "label.txt")


def test_numbers_with_gaps_and_zero(tmp_path: Path) -> None:
    coco = read(tmp_path, [900, 0, 17], {90: "box", 0: "disc", 17: "cone"}, [(0, 90), (900, 0)])
    assert list(coco.images) == [0, 17, 900] and set(coco.annotations) == {0, 900}
    assert (coco.class_names, coco.category_ids) == (["disc", "cone", "box"], [0, 17, 90])


def test_strings(tmp_path: Path) -> None:
    """Numbers written as strings are ordered by value, names after them."""
    coco = read(tmp_path, ["img_b", "10", "9", "img_a"], {"k2": "box", "11": "disc", "2": "cone"}, [("9", "k2")])
    assert list(coco.images) == ["9", "10", "img_a", "img_b"]
    assert (coco.class_names, coco.category_ids) == (["cone", "disc", "box"], ["2", "11", "k2"])


def test_a_label_file_fixes_the_order(tmp_path: Path) -> None:
    """Its further classes are fine, and get an id that the file does not use."""
    labels = "\ufeff# classes\n\n  glass \nbox\nnew one\ndisc\n"
    coco = read(tmp_path, [1], {1: "disc", 2: "box", 7: "unused"}, [(1, 2), (1, 1)], labels)
    assert coco.class_names == ["glass", "box", "new one", "disc"]
    assert coco.category_ids == [3, 2, 4, 1]


def test_files_with_other_categories_agree_by_a_label_file(tmp_path: Path) -> None:
    sets = ({1: "a", 2: "b", 3: "c"}, {1: "c", 2: "a"}, {5: "b"})
    found = [read(tmp_path, [1], categories, [], "c\nb\na") for categories in sets]
    assert {tuple(coco.class_names) for coco in found} == {("c", "b", "a")}
    assert [coco.category_ids for coco in found] == [[3, 2, 1], [1, 3, 2], [1, 5, 2]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("disc\n", "label.txt: class box, cone of .*coco.json is not in it"),
        ("# nothing\n\n", "label.txt: no class name"),
        ("disc\nbox\ndisc\n", "label.txt: class 'disc' is there twice"),
    ],
)
def test_wrong_label_files(tmp_path: Path, labels: str, message: str) -> None:
    used = [(1, 1), (1, 2), (1, 3)]
    with pytest.raises(RamsesError, match=message):
        read(tmp_path, [1], {1: "disc", 2: "box", 3: "cone"}, used, labels)


def test_a_label_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RamsesError, match="gone.txt: not a label file"):
        read_label_file(tmp_path / "gone.txt")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0 no text")
    with pytest.raises(RamsesError, match=r"picture.txt: not a label file .*one class name a line"):
        read_label_file(tmp_path / "picture.txt")


def test_one_name_twice(tmp_path: Path) -> None:
    """Fine where one of the two is not used, as in Roboflow's files."""
    categories = {0: "stone", 1: "stone", 2: "box"}
    coco = read(tmp_path, [1], categories, [(1, 1), (1, 2)])
    assert (coco.class_names, coco.category_ids) == (["stone", "box"], [1, 2])
    with pytest.raises(RamsesError, match="categories 0 and 1 are both named 'stone'"):
        read(tmp_path, [1], categories, [(1, 1), (1, 0)])


@pytest.mark.parametrize(
    ("key", "entries", "message"),
    [
        ("images", [{"id": 1}, {"id": 1}], "image id 1 is there twice"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": 1}] * 2, "annotation id 4 is there twice"),
        ("categories", [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "category id 1 is there twice"),
        ("annotations", [{"image_id": 1, "category_id": 1}], "annotation number 1 has no id"),
        ("images", [{"id": 1}, {"id": [2]}], "image number 2 has no id"),
        ("images", ["1.png"], "image number 1 has no id"),
        ("categories", [{"id": 1}], "category 1 has no name"),
        ("annotations", [{"id": 4, "image_id": [1], "category_id": 1}], r"annotation 4 has image_id \[1\]"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": "1"}], "annotation 4 has category_id '1'"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, key: str, entries: list[Any], message: str) -> None:
    content = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]} | {key: entries}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(RamsesError, match=f"coco.json: {message}") as error:
        read_coco_file(tmp_path / "coco.json")
    assert "\n" not in str(error.value)


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
    assert "2 annotations without a segmentation are dropped" in caplog.text
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
            "image 7: resolution is 0",
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
        ({"size": [40, 30], "counts": [1200]}, "annotation 1: its RLE is of an image of 40 x 30 px"),
        ({"counts": [1200]}, "annotation 1: its segmentation needs size"),
        ({"size": 30, "counts": [1200]}, "annotation 1: its segmentation needs size .height, width. and counts"),
        ({"size": [30, 40], "counts": None}, "annotation 1: its segmentation needs size"),
        ("polygon", "annotation 1: its segmentation is str"),
        ([["a", "b", "c", "d", "e", "f"]], "annotation 1: a polygon has something else than numbers"),
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


def test_equals_the_label_maps(tiny_folder: Callable[..., Path]) -> None:
    dataset_dicts, class_names = load_folder(tiny_folder(count=(6, 4), resolution=(2.0, 3.0)))
    truth = json.loads(json.dumps(coco_ground_truth(dataset_dicts, class_names)))
    assert [c["name"] for c in truth["categories"]] == class_names
    assert [c["id"] for c in truth["categories"]] == [1, 2, 3]
    assert [(i["id"], i["height"], i["width"], i["resolution"]) for i in truth["images"]] == [
        (1, 64, 96, 2.0),
        (2, 96, 64, 3.0),
    ]
    assert [a["id"] for a in truth["annotations"]] == list(range(1, 11))
    by_object = {(a["image_id"], a["label"]): a for a in truth["annotations"]}
    for dataset_dict in dataset_dicts:
        label_map = read_label_map(dataset_dict)
        for annotation in dataset_dict["annotations"]:
            found = by_object[dataset_dict["image_id"], annotation["label"]]
            mask = mask_utils.decode(found["segmentation"])
            assert np.array_equal(mask, label_map == annotation["label"])
            x0, y0, x1, y1 = annotation["bbox"]
            assert found["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert found["area"] == mask.sum() and found["iscrowd"] == 0
            assert found["category_id"] == annotation["category_id"] + 1
            assert found["mass"] == pytest.approx(annotation["mass"]) and found["gt_mass"] is True
            assert found["resolution"] == dataset_dict["resolution"]


def test_pycocotools_takes_it(tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO()
    coco.dataset = coco_ground_truth(*load_folder(tiny_folder(count=5)))
    coco.createIndex()
    assert coco.annToMask(coco.anns[1]).sum() == coco.anns[1]["area"]


def test_unknown_values_empty_images_and_repeats(tiny_folder: Callable[..., Path]) -> None:
    dataset_dicts, class_names = load_folder(tiny_folder(count=(5, 0), nan_masses=True))
    dataset_dicts[0]["resolution"] = float("nan")
    dataset_dicts[0]["annotations"].append(dataset_dicts[0]["annotations"][0] | {"label": 9})  # a row without pixels
    truth = coco_ground_truth([dataset_dicts[0], dataset_dicts[1], dataset_dicts[0]], class_names)
    assert [i["id"] for i in truth["images"]] == [1, 2]
    assert [a["label"] for a in truth["annotations"]] == [1, 2, 3, 4, 5]
    assert all(a["mass"] is None and a["gt_mass"] is False for a in truth["annotations"])
    assert truth["images"][0]["resolution"] is None and truth["annotations"][0]["resolution"] is None
    json.dumps(truth, allow_nan=False)


def test_outlines_of_a_coco_file_stay_as_they_are() -> None:
    """Overlaps count for both objects, and areas and boxes are the file's, measured only where it has none."""
    outlines = [[[10.0, 10, 30, 10, 30, 30, 10, 30]], [[20.0, 20, 40, 20, 40, 40, 20, 40]]]
    annotation = {"category_id": 1, "mass": float("nan"), "gt_mass": False, "bbox": [10.5, 10.0, 30.0, 30.5]}
    dataset_dict = {"file_name": "a.png", "image_id": 4, "height": 50, "width": 60, "resolution": float("nan")}
    dataset_dict["annotations"] = [
        annotation | {"label": 1, "area": 777.5, "coco_id": "x", "segmentation": outlines[0]},
        annotation | {"label": 2, "area": float("nan"), "segmentation": outlines[1]},
    ]
    counts = [10 * 50, 5, 60 * 50 - 10 * 50 - 5]
    region = {"segmentation": {"size": [50, 60], "counts": counts}, "bbox": [10, 0, 1, 5], "area": 5.0}
    dataset_dict["crowd"] = [region | {"category_id": 0}]
    first, second, crowd = json.loads(json.dumps(coco_ground_truth([dataset_dict], ["a", "b"])))["annotations"]
    assert [first["coco_id"], first["area"], first["bbox"]] == ["x", 777.5, [10.5, 10.0, 19.5, 20.5]]
    assert "coco_id" not in second and second["area"] == 400 and second["category_id"] == 2
    masks = [mask_utils.decode(a["segmentation"]) for a in (first, second, crowd)]
    assert masks[0].sum() == masks[1].sum() == 400 and (masks[0] & masks[1]).sum() == 100
    assert (crowd["iscrowd"], crowd["category_id"], masks[2].sum()) == (1, 1, 5)
    assert masks[2][:5, 10].all()
