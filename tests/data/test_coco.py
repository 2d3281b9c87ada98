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
from tests.conftest import refused, square, write_coco

NAN = float("nan")
RLE = {"size": [30, 40], "counts": [60, 30, 1110]}  # all of column 2
CATEGORIES = [
    {"id": 9, "name": "stone", "supercategory": "things"},
    {"id": 5, "name": "brick", "supercategory": "things"},
    {"id": 0, "name": "things", "supercategory": "none"},
    {"id": 3, "name": "spare", "supercategory": "spare"},
]


# ---- ids and classes


def read(
    folder: Path, image_ids: list[Any], categories: dict[Any, str], used: list[tuple[Any, Any]], labels: str = ""
) -> CocoFile:
    """Read a json with these ids; ``used``: image id and category id of each annotation."""
    annotations = [{"id": f"a{n}", "image_id": i, "category_id": c} for n, (i, c) in enumerate(used)]
    images = {key: f"{key}.png" for key in image_ids}
    path = write_coco(folder / "coco.json", annotations, images=images, categories=categories)
    (folder / "label.txt").write_text(labels)
    return read_coco_file(path, folder / "label.txt" if labels else None)


def test_ids_are_ordered_by_value(tmp_path: Path) -> None:
    """With gaps and 0; numbers written as strings too, names after them."""
    coco = read(tmp_path, [900, 0, 17], {90: "box", 0: "disc", 17: "cone"}, [(0, 90), (900, 0)])
    assert list(coco.images) == [0, 17, 900] and set(coco.annotations) == {0, 900}
    assert (coco.class_names, coco.category_ids) == (["disc", "cone", "box"], [0, 17, 90])
    coco = read(tmp_path, ["img_b", "10", "9", "img_a"], {"k2": "box", "11": "disc", "2": "cone"}, [("9", "k2")])
    assert list(coco.images) == ["9", "10", "img_a", "img_b"]
    assert (coco.class_names, coco.category_ids) == (["cone", "disc", "box"], ["2", "11", "k2"])


@pytest.mark.parametrize(
    ("labels", "categories", "names", "ids"),
    [
        # Further classes get an id that the file does not use
        (
            "\ufeff# classes\n\n  glass \nbox\nnew one\ndisc\n",
            {1: "disc", 2: "box", 7: "unused"},
            ["glass", "box", "new one", "disc"],
            [3, 2, 4, 1],
        ),
        # Files with other categories agree
        ("c\nb\na", {1: "a", 2: "b", 3: "c"}, ["c", "b", "a"], [3, 2, 1]),
        ("c\nb\na", {1: "c", 2: "a"}, ["c", "b", "a"], [1, 3, 2]),
        ("c\nb\na", {5: "b"}, ["c", "b", "a"], [1, 5, 2]),
    ],
)
def test_a_label_file_fixes_the_order(
    tmp_path: Path, labels: str, categories: dict[int, str], names: list[str], ids: list[int]
) -> None:
    coco = read(tmp_path, [1], categories, [(1, key) for key in categories if key < 7], labels)
    assert (coco.class_names, coco.category_ids) == (names, ids)


def test_one_name_twice(tmp_path: Path) -> None:
    """Fine where one of the two is not used, as in Roboflow's files."""
    categories = {0: "stone", 1: "stone", 2: "box"}
    for used in (0, 1):
        coco = read(tmp_path, [1], categories, [(1, used), (1, 2)])
        assert (coco.class_names, coco.category_ids) == (["stone", "box"], [used, 2])
    with refused("coco.json: categories 0 and 1", "'stone'"):
        read(tmp_path, [1], categories, [(1, 1), (1, 0)])


def test_faults_of_label_files(tmp_path: Path) -> None:
    for labels, words in (("disc\n", "box, cone"), ("# nothing\n\n", "no class"), ("disc\nbox\ndisc\n", "'disc'")):
        with refused("label.txt: ", words):
            read(tmp_path, [1], {1: "disc", 2: "box", 3: "cone"}, [(1, 1), (1, 2), (1, 3)], labels)
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff\xe0 no text")
    for name in ("gone.txt", "image.txt"):
        with refused(f"{name}: not a label file"):
            read_label_file(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "entries", "words"),
    [
        ("images", [{"id": 1}, {"id": 1}], "image id 1"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": 1}] * 2, "annotation id 4"),
        ("categories", [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "category id 1"),
        ("annotations", [{"image_id": 1, "category_id": 1}], "annotation number 1 has no id"),
        ("images", [{"id": 1}, {"id": [2]}], "image number 2 has no id"),
        ("images", [{"id": 1}, {"id": True}], "image number 2 has no id"),
        ("images", ["1.png"], "image number 1 has no id"),
        ("categories", [{"id": 1}], "category 1 has no name"),
        ("categories", None, "'categories'"),
        ("annotations", [{"id": 4, "image_id": 8, "category_id": 1}], "annotation 4 has image_id 8"),
        ("annotations", [{"id": 4, "image_id": [1], "category_id": 1}], "annotation 4 has image_id [1]"),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": "1"}], "annotation 4 has category_id '1'"),
    ],
)
def test_faults_of_lists(tmp_path: Path, key: str, entries: list[Any] | None, words: str) -> None:
    content = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]} | {key: entries}
    with refused("coco.json: ", words):
        read_coco_file(write_coco(tmp_path / "coco.json", **content))


# ---- dataset dicts


def annotation(number: Any, x: float, side: float, **changes: Any) -> dict[str, Any]:
    measures = {"bbox": [x, 2, side, side], "area": side * side, "segmentation": square(x, 2, side)}
    return {"id": number, "image_id": 7, "category_id": 5, "iscrowd": 0} | measures | changes


def load(folder: Path, *annotations: dict[str, Any], images: Any = None, labels: str | None = None) -> list[Any]:
    """Dataset dicts of a json whose images lie in ``folder``/images."""
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / "images/a.png")
    path = write_coco(folder / "coco.json", annotations, images=images or {7: "a.png"}, categories=CATEGORIES)
    if labels is not None:
        (folder / "label.txt").write_text(labels)
    return load_coco(path, folder / "images", None if labels is None else folder / "label.txt")[0]


def test_dataset_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset_dict,) = load(
        tmp_path,
        annotation("x", 3, 4, mass=2.5, gt_mass=True),
        annotation("y", 1, 10, category_id=9),
        # Crowd is neither learned nor painted; its RLE is as in the file, measured where the file does not
        annotation(8, 0, 1, category_id=9, iscrowd=1, segmentation=RLE, area=None, bbox=None),
    )
    assert capsys.readouterr().out == ""
    # The dummy supercategory goes; an unused class stays
    assert coco_classes(tmp_path / "coco.json") == (["spare", "brick", "stone"], [3, 5, 9])
    assert [dataset_dict[key] for key in ("image_name", "image_id", "coco_image_id")] == ["images/a", 1, 7]
    assert (dataset_dict["height"], dataset_dict["width"]) == (30, 40) and np.isnan(dataset_dict["resolution"])
    large, small = dataset_dict["annotations"]
    assert (large["label"], large["category_id"], large["bbox"], large["coco_id"]) == (1, 2, [1, 2, 11, 12], "y")
    assert (small["label"], small["category_id"], small["coco_id"]) == (2, 1, "x")
    assert (small["mass"], small["gt_mass"]) == (2.5, True) and np.isnan(large["mass"]) and large["gt_mass"] is False
    assert np.bincount(read_label_map(dataset_dict).ravel()).tolist() == [1200 - 100, 100 - 16, 16]
    crowd = {"coco_id": 8, "category_id": 2, "bbox": [2, 0, 1, 30], "area": 30, "segmentation": RLE}
    assert dataset_dict["crowd"] == [crowd]
    (plain,) = load(tmp_path, annotation(1, 3, 4), annotation(2, 1, 10, category_id=9), labels="stone\nbrick\n")
    assert [each["category_id"] for each in plain["annotations"]] == [0, 1] and "crowd" not in plain
    assert load(tmp_path)[0]["annotations"] == []


@pytest.mark.parametrize("key", ["res", "resolution"])
def test_resolution_is_read(tmp_path: Path, key: str) -> None:
    images = [{"id": 7, "file_name": "a.png", "height": 30, "width": 40}]
    for value in (3.5, NAN):
        assert load(tmp_path, images=[images[0] | {key: value}])[0]["resolution"] == pytest.approx(value, nan_ok=True)


def test_rle_polygons_and_what_is_not_measured(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[4:9, 10:30] = 1
    rle = mask_utils.encode(mask)
    rle["counts"] = rle["counts"].decode()
    polygon = annotation(1, 3, 4, area=None, bbox=None)
    (dataset_dict,) = load(tmp_path, polygon, annotation(2, 0, 1, segmentation=rle, area=100.0, bbox=[10, 4, 20, 5]))
    first, second = dataset_dict["annotations"]
    assert first["area"] == 100 and second["area"] == 16 and second["bbox"] == [3, 2, 7, 6]
    assert np.array_equal(read_label_map(dataset_dict) == 1, mask.astype(bool))
    (flat,) = load(tmp_path, annotation(1, 3, 4, segmentation=square(3, 2, 4)[0]))  # without its list
    assert np.count_nonzero(read_label_map(flat)) == 16


@pytest.mark.parametrize("area", [0, -1, None, NAN])
def test_small_objects_stay_on_top_where_no_area_is_measured(tmp_path: Path, area: float | None) -> None:
    (dataset_dict,) = load(tmp_path, annotation(1, 3, 4, area=area), annotation(2, 1, 10, area=area))
    assert [(entry["coco_id"], entry["area"]) for entry in dataset_dict["annotations"]] == [(2, 100), (1, 16)]
    assert np.bincount(read_label_map(dataset_dict).ravel())[1:].tolist() == [100 - 16, 16]


def test_annotations_without_segmentation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [annotation(2, 3, 5, segmentation=[]), annotation(3, 3, 5, segmentation=[[1, 2, 3, 4]])]
    assert len(load(tmp_path, annotation(1, 3, 4), *bad)[0]["annotations"]) == 1
    assert "2 annotations without a segmentation are dropped" in caplog.text
    with refused("coco.json: no annotation has a segmentation"):
        load(tmp_path, *bad)


def test_where_images_are(tmp_path: Path) -> None:
    """In sub-folders, under absolute names, written on Windows, or known by their URL alone."""
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    for place in ("images/deep/b.png", "else/c.png", "images/d.png"):
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / place)
    names = [{"file_name": name} for name in ("deep/b.png", str(tmp_path / "else/c.png"), "deep\\b.png")]
    names.append({"coco_url": "http://images.cocodataset.org/val/d.png?x=1"})
    images = [{"id": number, "height": 30, "width": 40} | name for number, name in enumerate(names)]
    dataset_dicts = load(tmp_path, images=images)
    assert [Path(r["file_name"]).name for r in dataset_dicts] == ["b.png", "c.png", "b.png", "d.png"]
    assert [r["image_name"] for r in dataset_dicts][::3] == ["images/deep/b", "images/d"]
    assert dataset_dicts[1]["image_name"].startswith("images/") and dataset_dicts[1]["image_name"].endswith("else/c")
    (tmp_path / "images/d.png").unlink()
    with refused("coco.json: image 3", "http://images.cocodataset.org/val/d.png", "images/d.png"):
        load(tmp_path, images=images)


IMAGE = {"id": 7, "file_name": "a.png", "height": 30, "width": 40}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file_name": 5}, "image 7 has file_name 5"),
        ({"file_name": ""}, "image 7 has no file_name"),
        ({"file_name": "b.png"}, "images/b.png is missing;"),
        ({"res": 0}, "image 7: resolution is 0"),
        ({"height": None}, "image 7 has height None, width 40"),
        ({"width": 0.5}, "image 7 has height 30, width 0.5"),
    ],
)
def test_faults_of_images(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with refused("coco.json: ", words):
        load(tmp_path, images=[IMAGE | changes])


def test_missing_images_are_counted(tmp_path: Path) -> None:
    with refused("coco.json: ", "images/0.png is missing (and 2 more)"):
        load(tmp_path, images={n: f"{n}.png" for n in range(3)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": 5}, "bbox is 5"),
        ({"bbox": [None] * 4}, "bbox is [None"),
        ({"area": "12"}, "area is '12'"),
        ({"area": [12]}, "area is [12]"),
        ({"mass": 0}, "mass 0"),
        ({"mass": "much"}, "mass 'much'"),
        ({"segmentation": {"size": [40, 30], "counts": [1200]}}, "RLE is of an image of 40 x 30 px"),
        *(
            ({"segmentation": rle}, "segmentation needs size")
            for rle in ({"counts": [1200]}, {"size": 30, "counts": [1200]}, {"size": [30, 40], "counts": None})
        ),
        ({"segmentation": "polygon"}, "segmentation is str"),
        ({"segmentation": [["a", "b", "c", "d", "e", "f"]]}, "something else than numbers"),
        ({"segmentation": [{"x": 1, "y": 2}]}, "a polygon is a list of numbers"),
    ],
)
def test_faults_of_annotations(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with refused("coco.json: annotation 1", words):
        load(tmp_path, annotation(1, 3, 4, **changes))


# ---- from dataset dicts


def test_equals_the_label_maps(tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    dataset_dicts, class_names = load_folder(tiny_folder(count=(6, 4), resolution=(2.0, 3.0)))
    ground_truth = json.loads(json.dumps(coco_ground_truth(dataset_dicts, class_names)))
    assert [(c["id"], c["name"]) for c in ground_truth["categories"]] == list(enumerate(class_names, start=1))
    sizes = [(i["id"], i["height"], i["width"], i["resolution"]) for i in ground_truth["images"]]
    assert sizes == [(1, 64, 96, 2.0), (2, 96, 64, 3.0)]
    assert [a["id"] for a in ground_truth["annotations"]] == list(range(1, 11))
    by_object = {(a["image_id"], a["label"]): a for a in ground_truth["annotations"]}
    for dataset_dict in dataset_dicts:
        label_map = read_label_map(dataset_dict)
        for each in dataset_dict["annotations"]:
            found = by_object[dataset_dict["image_id"], each["label"]]
            mask = mask_utils.decode(found["segmentation"])
            assert np.array_equal(mask, label_map == each["label"])
            x0, y0, x1, y1 = each["bbox"]
            assert found["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert found["area"] == mask.sum() and found["iscrowd"] == 0
            assert found["category_id"] == each["category_id"] + 1
            assert found["mass"] == pytest.approx(each["mass"]) and found["gt_mass"] is True
            assert found["resolution"] == dataset_dict["resolution"]
    coco = COCO()
    coco.dataset = ground_truth
    coco.createIndex()
    assert coco.annToMask(coco.anns[1]).sum() == coco.anns[1]["area"]


def test_unknown_values_empty_images_and_repeats(tiny_folder: Callable[..., Path]) -> None:
    dataset_dicts, class_names = load_folder(tiny_folder(count=(5, 0), nan_masses=True))
    dataset_dicts[0]["resolution"] = NAN
    dataset_dicts[0]["annotations"].append(dataset_dicts[0]["annotations"][0] | {"label": 9})  # a row without pixels
    ground_truth = coco_ground_truth([dataset_dicts[0], dataset_dicts[1], dataset_dicts[0]], class_names)
    assert [i["id"] for i in ground_truth["images"]] == [1, 2]
    assert [a["label"] for a in ground_truth["annotations"]] == [1, 2, 3, 4, 5]
    assert all(a["mass"] is None and a["gt_mass"] is False for a in ground_truth["annotations"])
    assert ground_truth["images"][0]["resolution"] is None and ground_truth["annotations"][0]["resolution"] is None
    json.dumps(ground_truth, allow_nan=False)


def test_segmentations_of_a_coco_file_stay_as_they_are() -> None:
    """Overlaps count for both objects, and areas and boxes are the file's, measured only where it has none."""
    known = {"category_id": 1, "mass": NAN, "gt_mass": False, "bbox": [10.5, 10.0, 30.0, 30.5]}
    dataset_dict = {"file_name": "a.png", "image_id": 4, "height": 50, "width": 60, "resolution": NAN}
    dataset_dict["annotations"] = [
        known | {"label": 1, "area": 777.5, "coco_id": "x", "segmentation": square(10.0, 10, 20)},
        known | {"label": 2, "area": NAN, "segmentation": square(20.0, 20, 20)},
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
