"""COCO ground truth made from dataset dicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO

from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_label_map


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
