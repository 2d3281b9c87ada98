"""AP equals pycocotools'; files carry the ids of the data set."""

from __future__ import annotations

import contextlib
import copy
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
from ramses_d2.evaluation.coco import Curves, coco_curves, evaluate_ap
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.masks import RLEMasks, json_rle
from tests.conftest import write_coco

CLASSES = ["brick", "concrete", "glass", "never seen"]
SIDE = 320
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
Crowded = tuple[dict, list[dict]]
both_tasks = pytest.mark.parametrize("task", ["segm", "bbox"])


def shape(x: int, y: int, w: int, h: int) -> dict:
    """Box and mask of a rectangle."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return {"bbox": [float(v) for v in (x, y, w, h)], "segmentation": json_rle(mask_utils.encode(mask))}


def annotation(identity: int, image_id: int, class_id: int, box: tuple[int, int, int, int]) -> dict:
    ids = {"id": identity, "image_id": image_id, "category_id": class_id + 1}
    return ids | {"area": float(box[2] * box[3]), "iscrowd": 0} | shape(*box)


def result(image_id: int, class_id: int, box: tuple[int, int, int, int], score: float) -> dict:
    return {"image_id": image_id, "category_id": class_id + 1, "score": score} | shape(*box)


def data_set(annotations: list[dict], images: int) -> dict:
    return {
        "images": [{"id": i + 1, "height": SIDE, "width": SIDE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }


def crowded_data(rng: np.random.Generator, images: int, objects: int) -> Crowded:
    """Rectangles of all three COCO sizes; most are found, moved a little, some as another class, or twice."""
    annotations, results = [], []
    for image_id in range(1, images + 1):
        for _ in range(objects):
            w, h = (int(v) for v in np.exp(rng.uniform(np.log(6), np.log(140), 2)))
            x, y = (int(v) for v in rng.integers(0, SIDE - 141, 2))
            class_id = int(rng.integers(3))
            annotations.append(annotation(len(annotations) + 1, image_id, class_id, (x, y, w, h)))
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = (int(v) for v in rng.integers(-4, 5, 4))
                box = (max(x + dx, 0), max(y + dy, 0), max(w + dw, 2), max(h + dh, 2))
                seen = class_id if rng.random() < 0.8 else int(rng.integers(3))
                # rounded, so that equal scores occur
                results.append(result(image_id, seen, box, round(float(rng.random()), 2)))
    return data_set(annotations, images), results


def without_other_shape(results: list[dict], task: str) -> list[dict]:
    """Beside a mask, pycocotools takes the area of the box for that of the object."""
    other = {"segm": "bbox", "bbox": "segmentation"}[task]
    return [{key: value for key, value in each.items() if key != other} for each in results]


def by_pycocotools(ground_truth: dict | Path, results: list[dict] | Path, task: str, max_dets: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(ground_truth) if isinstance(ground_truth, Path) else None)
        if isinstance(ground_truth, dict):
            coco.dataset = copy.deepcopy(ground_truth)
            coco.createIndex()
        found = coco.loadRes(str(results) if isinstance(results, Path) else results)
        evaluation = COCOeval(coco, found, task)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture(scope="module")
def crowded() -> Crowded:
    return crowded_data(np.random.default_rng(3), images=3, objects=400)


@both_tasks
def test_equals_the_summary_of_pycocotools(crowded: Crowded, task: str) -> None:
    data, results = crowded
    expected = by_pycocotools(data, without_other_shape(results, task), task, 100)
    before = copy.deepcopy(crowded)
    found = evaluate_ap(*crowded, task, CLASSES, 100)
    assert crowded == before  # the inputs are left as they are
    for name, value in zip(NAMES, expected.stats[:6], strict=True):
        assert 0 < value < 1
        assert found[name] == pytest.approx(100 * value, abs=1e-9)

    # For a thousand detections, the summary of pycocotools cannot do this, its precisions can
    arrays = by_pycocotools(data, without_other_shape(results, task), task, 1000).eval
    expected = Curves(*(arrays[name][..., -1] for name in ("precision", "scores", "recall")), tuple(CLASSES), 1000)
    curves = coco_curves(*crowded, task, CLASSES, 1000)
    np.testing.assert_array_equal(curves.scores, expected.scores)
    many = evaluate_ap(*crowded, task, CLASSES, 1000)
    assert many == pytest.approx(expected.summary(), abs=1e-9, nan_ok=True)
    assert many["AR@1000"] > found["AR@100"] + 1 and many["AP"] > found["AP"] + 1
    assert np.isnan(many["AP-never seen"])


def test_details_of_all_and_of_each_class_are_those_of_pycocotools(crowded: Crowded) -> None:
    """AR by size, AP at each IoU; and of one class what pycocotools says of that category alone."""
    data, results = crowded
    results = without_other_shape(results, "segm")
    curves = coco_curves(data, results, "segm", CLASSES, 100)
    details, names = curves.details(), (*NAMES, "AR@100", "ARs@100", "ARm@100", "ARl@100")
    only = data | {"annotations": [a for a in data["annotations"] if a["category_id"] == 2]}
    for found, truth, chosen in (
        (details, data, results),
        (curves.details(1), only, [r for r in results if r["category_id"] == 2]),
    ):
        stats = by_pycocotools(truth, chosen, "segm", 100).stats
        assert [found[name] for name in names] == pytest.approx(list(100 * np.delete(stats, (6, 7))), abs=1e-9)
    assert list(details["AP_by_IoU"]) == [f"0.{percent}" for percent in range(50, 100, 5)]
    assert details["AP_by_IoU"]["0.75"] == details["AP75"]
    assert np.mean(list(details["AP_by_IoU"].values())) == pytest.approx(details["AP"])


def test_images_may_have_any_ids(crowded: Crowded) -> None:
    data, results = crowded
    ids = {1: "belt/a.png", 2: 0, 3: "3f2b"}
    renamed = data | {
        "images": [image | {"id": ids[image["id"]]} for image in data["images"]],
        "annotations": [a | {"image_id": ids[a["image_id"]]} for a in data["annotations"]],
    }
    found = evaluate_ap(renamed, [r | {"image_id": ids[r["image_id"]]} for r in results], "segm", CLASSES, 100)
    np.testing.assert_equal(found, evaluate_ap(data, results, "segm", CLASSES, 100))


@both_tasks
def test_three_hundred_perfect_particles_give_100(task: str) -> None:
    boxes = [(16 * (i % 20), 16 * (i // 20), 12, 14) for i in range(300)]
    annotations = [annotation(i + 1, 1, 0, box) for i, box in enumerate(boxes)]
    results = [result(1, 0, box, 0.5 + i / 1000) for i, box in enumerate(boxes)]
    found = evaluate_ap(data_set(annotations, 1), results, task, CLASSES, 300)
    assert found["AP"] == found["AP-brick"] == found["APs"] == pytest.approx(100)
    assert np.isnan(found["APl"])
    cut = evaluate_ap(data_set(annotations, 1), results, task, CLASSES, 100)
    assert cut["AP"] < 40  # what COCO's default would say


def test_no_predictions_and_no_ground_truth(capsys: pytest.CaptureFixture[str]) -> None:
    one = [annotation(1, 1, 0, (5, 5, 20, 20))]
    nothing_found = evaluate_ap(data_set(one, 1), [], "segm", CLASSES, 100)
    assert nothing_found["AP"] == nothing_found["AP-brick"] == 0
    nothing_there = evaluate_ap(data_set([], 1), [result(1, 0, (5, 5, 20, 20), 0.9)], "segm", CLASSES, 100)
    assert all(np.isnan(value) for value in nothing_there.values())
    neither = evaluate_ap(data_set([], 1), [], "bbox", CLASSES, 100)
    assert all(np.isnan(value) for value in neither.values())
    assert capsys.readouterr().out == ""


# ---- through files

SIZE = (120, 160)
CATEGORIES = {90: "glass", 3: "brick", 7: "concrete"}
MAX_DETS = 15


def polygon(rng: np.random.Generator) -> list[float]:
    """A blob of seven corners."""
    middle, radius = rng.uniform((20, 20), (SIZE[1] - 20, SIZE[0] - 20)), rng.uniform(6, 26)
    angles = np.linspace(0, 2 * np.pi, 8)[:-1]
    corners = middle + radius * rng.uniform(0.6, 1.2, (7, 1)) * np.c_[np.cos(angles), np.sin(angles)]
    return np.round(corners.clip(0, (SIZE[1], SIZE[0])), 2).ravel().tolist()


def write_data(folder: Path, ids: list[Any]) -> str:
    """Overlapping polygons, RLE of both kinds, crowd, and an image without annotations; returns the URI."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    images, annotations = [], []
    for index, image_id in enumerate(ids):
        name = f"image {index}.png"
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / name)
        images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for number in range(20 if index else 0):
            segmentation: Any = [polygon(rng)]
            mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(segmentation, *SIZE)))
            rle = mask_utils.encode(np.asfortranarray(mask))
            if number == 4:  # crowd, which COCO writes as uncompressed RLE
                runs = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=mask[-1, -1] ^ 1))
                segmentation = {"size": list(SIZE), "counts": np.diff(np.r_[0, runs]).tolist()}
                assert np.array_equal(mask_utils.decode(mask_utils.frPyObjects(segmentation, *SIZE)), mask)
            elif number % 3 == 0:
                segmentation = {"size": list(SIZE), "counts": rle["counts"].decode()}
            ids_of = {"id": len(annotations) + 1, "image_id": image_id, "category_id": list(CATEGORIES)[number % 3]}
            measures = {"bbox": mask_utils.toBbox(rle).tolist(), "area": float(mask_utils.area(rle))}
            annotations.append(ids_of | measures | {"segmentation": segmentation, "iscrowd": int(number == 4)})
            if number % 2:
                annotations[-1]["mass"] = 1.5
    write_coco(folder / "own.json", annotations, images=images, categories=CATEGORIES)
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


def in_percent(precision: np.ndarray) -> list[float]:
    """AP, AP50, AP75, APs, APm, APl of pycocotools' array."""
    chosen = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., a] for a in (1, 2, 3))]
    return [100 * p[p > -1].mean() if (p > -1).any() else np.nan for p in chosen]


def assert_reproduced(metrics: dict[str, dict[str, float]], out: Path, ground_truth: Path) -> None:
    for task in ("segm", "bbox"):
        precision = by_pycocotools(ground_truth, out / "predictions.json", task, MAX_DETS).eval["precision"][..., -1]
        averages = in_percent(precision)
        assert averages[:3] == pytest.approx([metrics[task][name] for name in NAMES[:3]], abs=1e-6)
        assert 5 < averages[0] < 95
        of_classes = 100 * precision[..., 0].mean(axis=(0, 1))
        ours = [value for name, value in metrics[task].items() if name.startswith("AP-")]
        assert sorted(of_classes) == pytest.approx(sorted(ours), abs=1e-6)
    # Sizes are right without boxes
    results = without_other_shape(json.loads((out / "predictions.json").read_text()), "segm")
    precision = by_pycocotools(ground_truth, results, "segm", MAX_DETS).eval["precision"][..., -1]
    assert in_percent(precision) == pytest.approx([metrics["segm"][name] for name in NAMES], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("ids", [[12, 5, 900001, 7], ["belt/7", "3f2b", "x", ""], [0, 1, 2, 3]], ids=str)
def test_a_coco_file_under_its_own_ids(tmp_path: Path, ids: list[Any]) -> None:
    uri = write_data(tmp_path / "data", ids)
    metrics = evaluate(uri, tmp_path / "out")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "out/ground_truth.json")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "data/own.json")

    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == set(ids[1:])
    assert {result["category_id"] for result in results} == set(CATEGORIES)
    assert set(results[0]) == {"image_id", "category_id", "segmentation", "bbox", "score", "mass"}
    assert all(isinstance(result["segmentation"]["counts"], str) for result in results)
    written = json.loads((tmp_path / "out/ground_truth.json").read_text())
    assert {c["id"]: c["name"] for c in written["categories"]} == CATEGORIES
    assert {image["id"] for image in written["images"]} == set(ids)
    assert sum(a["iscrowd"] for a in written["annotations"]) == 3
    own = json.loads((tmp_path / "data/own.json").read_text())["annotations"]
    assert {a["coco_id"]: a["area"] for a in written["annotations"]} == {a["id"]: a["area"] for a in own}


def test_a_folder_has_numbers_for_ids(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    uri = register(f"ramses://{tiny_folder(sizes=[(96, 120)] * 3, count=[20, 0, 12])}")
    metrics = evaluate(uri, tmp_path / "out")
    assert_reproduced(metrics, tmp_path / "out", tmp_path / "out/ground_truth.json")
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == {1, 3}
    assert {result["category_id"] for result in results} == {1, 2, 3}


def test_what_lies_in_a_crowd_region_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    uri = write_data(tmp_path / "data", [1, 2])
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
    # As many particles as there are beside crowd, and no grams of an extra
    assert mass["ground_truth"] == 19 and mass["TotalError"] == -100
    statistics = json.loads((tmp_path / "test_stats.json").read_text())
    assert statistics["crowd_regions"] == 1 and statistics["all"]["reported"] == 0
    assert statistics["all"]["predictions"] == 1


def test_dataset_dicts_of_a_script_with_names_for_ids(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = register(f"ramses://{tiny_folder()}")
    classes = MetadataCatalog.get(source).thing_classes
    dataset_dicts = [each | {"image_id": each["image_name"]} for each in DatasetCatalog.get(source)]
    DatasetCatalog.register("by_name", lambda: dataset_dicts)
    try:
        MetadataCatalog.get("by_name").set(thing_classes=classes)
        metrics = evaluate("by_name", tmp_path / "out")
    finally:
        DatasetCatalog.remove("by_name")
        MetadataCatalog.remove("by_name")
    np.testing.assert_equal(metrics, evaluate(source, tmp_path / "other"))
    results = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {result["image_id"] for result in results} == {each["image_name"] for each in dataset_dicts}
