"""COCO ground truth made from records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO

from ramses_d2.data.folder import load_folder
from ramses_d2.data.ground_truth import coco_ground_truth
from ramses_d2.data.label_map import read_label_map


def test_equals_the_label_maps(tiny_folder: Callable[..., Path]) -> None:
    records, class_names = load_folder(tiny_folder(count=(6, 4), resolution=(2.0, 3.0)))
    truth = json.loads(json.dumps(coco_ground_truth(records, class_names)))
    assert [c["name"] for c in truth["categories"]] == class_names
    assert [c["id"] for c in truth["categories"]] == [1, 2, 3]
    assert [(i["id"], i["height"], i["width"], i["resolution"]) for i in truth["images"]] == [
        (1, 64, 96, 2.0),
        (2, 96, 64, 3.0),
    ]
    assert [a["id"] for a in truth["annotations"]] == list(range(1, 11))
    by_object = {(a["image_id"], a["label"]): a for a in truth["annotations"]}
    for record in records:
        label_map = read_label_map(record)
        for annotation in record["annotations"]:
            found = by_object[record["image_id"], annotation["label"]]
            mask = mask_utils.decode(found["segmentation"])
            assert np.array_equal(mask, label_map == annotation["label"])
            x0, y0, x1, y1 = annotation["bbox"]
            assert found["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert found["area"] == mask.sum() and found["iscrowd"] == 0
            assert found["category_id"] == annotation["category_id"] + 1
            assert found["mass"] == pytest.approx(annotation["mass"]) and found["gt_mass"] is True
            assert found["resolution"] == record["resolution"]


def test_pycocotools_takes_it(tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO()
    coco.dataset = coco_ground_truth(*load_folder(tiny_folder(count=5)))
    coco.createIndex()
    assert coco.annToMask(coco.anns[1]).sum() == coco.anns[1]["area"]


def test_unknown_values_empty_pictures_and_repeats(tiny_folder: Callable[..., Path]) -> None:
    records, class_names = load_folder(tiny_folder(count=(5, 0), nan_masses=True))
    records[0]["resolution"] = float("nan")
    records[0]["annotations"].append(records[0]["annotations"][0] | {"label": 9})  # a row without pixels
    truth = coco_ground_truth([records[0], records[1], records[0]], class_names)
    assert [i["id"] for i in truth["images"]] == [1, 2]
    assert [a["label"] for a in truth["annotations"]] == [1, 2, 3, 4, 5]
    assert all(a["mass"] is None and a["gt_mass"] is False for a in truth["annotations"])
    assert truth["images"][0]["resolution"] is None and truth["annotations"][0]["resolution"] is None
    json.dumps(truth, allow_nan=False)
