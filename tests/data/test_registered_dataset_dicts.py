"""Data sets registered by a script, as in Detectron2's own tutorials."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from ramses_d2.data.catalog import complete_dataset_dicts, register_datasets
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def write_json(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / f"pictures/{name}.png")
    boxes = [(2, 2, 4, 90, 0), (0, 0, 10, 17, 0), (20, 5, 6, 17, 0), (0, 20, 8, 17, 1)]
    annotations = [
        {"id": 10 + n, "image_id": 70, "category_id": category, "iscrowd": crowd}
        | {"bbox": [x, y, side, side], "area": side * side, "segmentation": square(x, y, side)}
        for n, (x, y, side, category, crowd) in enumerate(boxes)
    ]
    images = [{"id": key, "file_name": f"{n}.png", "height": 30, "width": 40} for key, n in ((70, "a"), (71, "b"))]
    categories = [{"id": 90, "name": "box"}, {"id": 17, "name": "disc"}]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_register_coco_instances(tmp_path: Path) -> None:
    register_coco_instances("my_data", {}, str(write_json(tmp_path)), str(tmp_path / "pictures"))
    register_datasets(["my_data"])
    metadata = MetadataCatalog.get("my_data")
    assert metadata.thing_classes == ["disc", "box"] and metadata.dataset_category_ids == [17, 90]
    assert metadata.evaluator_type == "coco"  # the script's own evaluation goes on to work
    dataset_dict, empty = DatasetCatalog.get("my_data")
    assert (dataset_dict["image_id"], dataset_dict["coco_image_id"], dataset_dict["image_name"]) == (
        70,
        70,
        "pictures/a",
    )
    assert math.isnan(dataset_dict["resolution"]) and empty["annotations"] == [] and "crowd" not in empty
    large, middle, small = dataset_dict["annotations"]
    assert [a["label"] for a in (large, middle, small)] == [1, 2, 3] and [large["area"], small["area"]] == [100, 16]
    assert (small["category_id"], small["bbox"], small["bbox_mode"]) == (1, [2, 2, 6, 6], BoxMode.XYXY_ABS)
    assert math.isnan(small["mass"]) and small["gt_mass"] is False
    assert len({a["coco_id"] for a in dataset_dict["annotations"]}) == 3
    ((crowd),) = dataset_dict["crowd"]
    assert (crowd["bbox"], crowd["area"], crowd["category_id"]) == ([0, 20, 8, 8], 64, 0)
    # The small one lies on top, the crowd is not painted
    assert np.bincount(read_label_map(dataset_dict).ravel()).tolist() == [1200 - 136, 84, 36, 16]


def test_registering_again_changes_nothing(tmp_path: Path) -> None:
    register_coco_instances("my_data", {}, str(write_json(tmp_path)), str(tmp_path / "pictures"))
    register_datasets(["my_data"])
    entry = DatasetCatalog["my_data"]
    register_datasets(["my_data", "my_data"])
    assert DatasetCatalog["my_data"] is entry


def dataset_dict_of(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "x.png"
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(path)
    return {"file_name": str(path), "image_id": "x", "height": 30, "width": 40, "annotations": []} | changes


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Masses and resolution of a function of one's own, run lengths, a missing box."""
    outline = {"size": [30, 40], "counts": [60, 30, 1110]}
    annotation = {"category_id": 2, "segmentation": outline, "mass": 1.5, "gt_mass": True}
    dataset_dict = dataset_dict_of(tmp_path, resolution=2.0, annotations=[annotation])
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    (found,) = completed["annotations"]
    assert completed["resolution"] == 2 and (found["mass"], found["gt_mass"], found["area"]) == (1.5, True, 30)
    assert found["bbox"] == [2, 0, 3, 30]
    assert dataset_dict["annotations"] == [annotation]  # the script's dataset dicts are not touched


def test_dataset_dicts_of_ours_are_unchanged(tmp_path: Path) -> None:
    ours = {"label": 4, "category_id": 0, "bbox": [0, 0, 1, 1], "area": 1.0, "mass": 2.0, "gt_mass": True, "iscrowd": 0}
    dataset_dict = dataset_dict_of(
        tmp_path, image_name="k/x", resolution=3.0, label_file_name="l.png", annotations=[ours]
    )
    (completed,) = complete_dataset_dicts([dataset_dict], "x")
    assert {key: completed[key] for key in dataset_dict} == dataset_dict


def test_errors(tmp_path: Path) -> None:
    for changes, message in (
        ({"height": None, "width": None}, "x.png: its dataset dict has no height and no width"),
        ({"file_name": str(tmp_path / "gone.png")}, "gone.png: the image is missing"),
        (
            {"annotations": [{"category_id": 0, "bbox": 5, "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
            "my_data: .*x.png: its bbox is 5",
        ),
        ({"annotations": [{"category_id": 0, "bbox": [0, 0, 2, 2]}]}, "my_data: no annotation has a segmentation"),
    ):
        with pytest.raises(RamsesError, match=message):
            complete_dataset_dicts([dataset_dict_of(tmp_path, **changes)], "my_data")
    register_coco_instances("gone_data", {}, str(tmp_path / "gone.json"), str(tmp_path))
    with pytest.raises(RamsesError, match="data set 'gone_data' cannot be read: .*gone.json"):
        register_datasets(["gone_data"])
    DatasetCatalog.register("nameless", lambda: [dataset_dict_of(tmp_path)])
    with pytest.raises(RamsesError, match="'nameless' has no class names; set MetadataCatalog.get"):
        register_datasets(["nameless"])
