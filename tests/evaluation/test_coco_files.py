"""predictions.json and ground_truth.json: pycocotools reads them and finds our AP, also against the user's own file."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramses_d2.data.catalog import register
from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.masks import RLEMasks

SIZE = (120, 160)
CATEGORIES = {90: "glass", 3: "brick", 7: "concrete"}
MAX_DETS = 15
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def polygon(rng: np.random.Generator) -> list[float]:
    """A blob of seven corners."""
    middle, radius = rng.uniform((20, 20), (SIZE[1] - 20, SIZE[0] - 20)), rng.uniform(6, 26)
    angles = np.linspace(0, 2 * np.pi, 8)[:-1]
    corners = middle + radius * rng.uniform(0.6, 1.2, (7, 1)) * np.c_[np.cos(angles), np.sin(angles)]
    return np.round(corners.clip(0, (SIZE[1], SIZE[0])), 2).ravel().tolist()


def write_coco_file(folder: Path, ids: list[Any]) -> str:
    """Overlapping polygons, RLE of both kinds, crowd, and an image without annotations; returns the URI."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    images, annotations = [], []
    for index, image_id in enumerate(ids):
        name = f"image {index}.png"
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / name)
        images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for number in range(20 if index else 0):
            outline: Any = [polygon(rng)]
            mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(outline, *SIZE)))
            rle = mask_utils.encode(np.asfortranarray(mask))
            box, area, crowd = mask_utils.toBbox(rle).tolist(), float(mask_utils.area(rle)), number == 4
            if crowd:  # COCO writes these as uncompressed runs
                runs = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=mask[-1, -1] ^ 1))
                counts = np.diff(np.r_[0, runs]).tolist()
                assert np.array_equal(
                    mask_utils.decode(mask_utils.frPyObjects({"size": SIZE, "counts": counts}, *SIZE)), mask
                )
                outline = {"size": list(SIZE), "counts": counts}
            elif number % 3 == 0:
                outline = {"size": list(SIZE), "counts": rle["counts"].decode()}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": list(CATEGORIES)[number % 3]}
                | {"segmentation": outline, "bbox": box, "area": area, "iscrowd": int(crowd)}
                | ({"mass": 1.5} if number % 2 else {})
            )
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "own.json").write_text(json.dumps(content))
    return register(f"coco://{folder}/own.json")


def noisy(dataset_dict: dict[str, Any], rng: np.random.Generator) -> Instances:
    """Predictions that are shifted, misnamed, doubled, or lie in crowd; more than MAX_DETS of a class."""
    size = (dataset_dict["height"], dataset_dict["width"])
    masks, classes, scores = [], [], []
    for annotation in coco_ground_truth([dataset_dict], ["a", "b", "c"])["annotations"]:
        mask = mask_utils.decode(annotation["segmentation"]).astype(bool)
        for _ in range(rng.integers(1, 4)):
            masks.append(np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1)))
            classes.append(annotation["category_id"] - 1 if rng.random() < 0.8 else rng.integers(3))
            scores.append(round(rng.random(), 2))
    found = Instances(size)
    rles = [mask_utils.encode(np.asfortranarray(mask)) for mask in masks]
    boxes = torch.tensor(np.array([mask_utils.toBbox(rle) for rle in rles])).reshape(-1, 4).float()
    boxes = boxes + torch.from_numpy(rng.uniform(-1, 1, boxes.shape)).float()
    found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(np.array(classes, dtype=np.int64))
    found.pred_masks = RLEMasks(rles)
    found.pred_masses = torch.tensor(rng.uniform(1, 2, len(masks)))
    return found


def evaluate(uri: str, out: Path) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(1)
    evaluator = RamsesEvaluator(uri, output_dir=out, max_dets=MAX_DETS, report_thresh=0.5, distributed=False)
    dataset_dicts = DatasetCatalog.get(uri)
    evaluator.process(dataset_dicts, [{"instances": noisy(dataset_dict, rng)} for dataset_dict in dataset_dicts])
    return evaluator.evaluate()


def by_pycocotools(truth: Path, results: list[dict[str, Any]] | str, task: str) -> tuple[list[float], np.ndarray]:
    """AP, AP50, AP75, APs, APm, APl and that of each category, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(results), task)
        evaluation.params.maxDets = [1, 10, MAX_DETS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    chosen = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., a] for a in (1, 2, 3))]
    of_classes = [precision[:, :, index, 0].mean() for index in range(precision.shape[2])]
    return [100 * p[p > -1].mean() if (p > -1).any() else np.nan for p in chosen], 100 * np.array(of_classes)


def assert_reproduced(metrics: dict[str, dict[str, float]], out: Path, truth: Path) -> None:
    for task in ("segm", "bbox"):
        averages, of_classes = by_pycocotools(truth, str(out / "predictions.json"), task)
        assert averages[:3] == pytest.approx([metrics[task][name] for name in NAMES[:3]], abs=1e-6)
        assert 5 < averages[0] < 95
        ours = [value for name, value in metrics[task].items() if name.startswith("AP-")]
        assert sorted(of_classes) == pytest.approx(sorted(ours), abs=1e-6)
    # Beside a mask, pycocotools takes the area of the box for that of the object: sizes are right without boxes
    results = json.loads((out / "predictions.json").read_text())
    for result in results:
        del result["bbox"]
    averages, _ = by_pycocotools(truth, results, "segm")
    assert averages == pytest.approx([metrics["segm"][name] for name in NAMES], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    "ids",
    [[12, 5, 900001, 7], ["belt/7", "3f2b", "x", ""], [0, 1, 2, 3]],
    ids=["numbers", "strings", "from 0"],
)
def test_a_coco_file_under_its_own_ids(tmp_path: Path, ids: list[Any]) -> None:
    uri = write_coco_file(tmp_path / "data", ids)
    metrics = evaluate(uri, tmp_path / "out")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "out/ground_truth.json")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "data/own.json")

    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == set(ids[1:])
    assert {result["category_id"] for result in results} == set(CATEGORIES)
    assert set(results[0]) == {"image_id", "category_id", "segmentation", "bbox", "score", "mass"}
    assert all(isinstance(result["segmentation"]["counts"], str) for result in results)
    truth = json.loads((tmp_path / "out/ground_truth.json").read_text())
    assert {c["id"]: c["name"] for c in truth["categories"]} == CATEGORIES
    assert {image["id"] for image in truth["images"]} == set(ids)
    assert sum(a["iscrowd"] for a in truth["annotations"]) == 3
    own = json.loads((tmp_path / "data/own.json").read_text())["annotations"]
    areas = {annotation["id"]: annotation["area"] for annotation in own}
    assert {a["coco_id"]: a["area"] for a in truth["annotations"]} == areas


def test_a_folder_has_numbers_for_ids(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    uri = register(f"ramses://{tiny_folder(sizes=[(96, 120)] * 3, count=[20, 0, 12])}")
    metrics = evaluate(uri, tmp_path / "out")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "out/ground_truth.json")
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == {1, 3}
    assert {result["category_id"] for result in results} == {1, 2, 3}


def test_what_lies_in_a_crowd_region_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    uri = write_coco_file(tmp_path / "data", [1, 2])
    dataset_dicts = DatasetCatalog.get(uri)
    region = dataset_dicts[1]["crowd"][0]
    rle = mask_utils.frPyObjects(region["segmentation"], *SIZE)
    found = Instances(SIZE)
    found.pred_boxes, found.scores = Boxes(torch.tensor([[0.0, 0, 9, 9]])), torch.tensor([0.9])
    found.pred_classes = torch.tensor([region["category_id"]])
    found.pred_masks, found.pred_masses = RLEMasks([rle]), torch.tensor([3.0])
    evaluator = RamsesEvaluator(uri, output_dir=tmp_path, max_dets=9, report_thresh=0.5, distributed=False)
    evaluator.process([dataset_dicts[1]], [{"instances": found}])
    mass = evaluator.evaluate()["mass"]
    # As many particles as the outlined ones, and no grams of an extra
    assert mass["ground_truth"] == 19 and mass["TotalError"] == -100
    statistics = json.loads((tmp_path / "test_stats.json").read_text())
    assert statistics["crowd_regions"] == 1 and statistics["all"]["reported"] == 0
    assert statistics["all"]["predictions"] == 1


def test_dataset_dicts_of_a_script_with_names_for_ids(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = register(f"ramses://{tiny_folder()}")
    classes = MetadataCatalog.get(source).thing_classes
    dataset_dicts = [
        dataset_dict | {"image_id": dataset_dict["image_name"]} for dataset_dict in DatasetCatalog.get(source)
    ]
    DatasetCatalog.register("by_name", lambda: dataset_dicts)
    try:
        MetadataCatalog.get("by_name").set(thing_classes=classes)
        metrics = evaluate("by_name", tmp_path / "out")
    finally:
        DatasetCatalog.remove("by_name")
        MetadataCatalog.remove("by_name")
    np.testing.assert_equal(metrics, evaluate(source, tmp_path / "other"))
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == {dataset_dict["image_name"] for dataset_dict in dataset_dicts}
