"""The AP numbers are pycocotools' own, and crowded images are counted whole."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramses_d2.evaluation.coco import Curves, coco_curves, evaluate_ap

CLASSES = ["brick", "concrete", "glass", "never seen"]
SIZE = 320


def rectangle(x: int, y: int, w: int, h: int) -> dict:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = mask_utils.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def crowded_data(rng: np.random.Generator, images: int, objects: int) -> tuple[dict, list[dict]]:
    """Rectangles of all three COCO sizes; most are found, moved a little, some as another class, or twice."""
    annotations, results = [], []
    for image_id in range(1, images + 1):
        for _ in range(objects):
            w, h = (int(v) for v in np.exp(rng.uniform(np.log(6), np.log(140), 2)))
            x, y = (int(v) for v in rng.integers(0, SIZE - 141, 2))
            class_id = int(rng.integers(3))
            annotations.append(annotation(len(annotations) + 1, image_id, class_id, (x, y, w, h)))
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = (int(v) for v in rng.integers(-4, 5, 4))
                box = (max(x + dx, 0), max(y + dy, 0), max(w + dw, 2), max(h + dh, 2))
                seen = class_id if rng.random() < 0.8 else int(rng.integers(3))
                # rounded, so that equal scores occur
                results.append(result(image_id, seen, box, round(float(rng.random()), 2)))
    return data_set(annotations, images), results


def annotation(identity: int, image_id: int, class_id: int, box: tuple[int, int, int, int]) -> dict:
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": class_id + 1,
        "bbox": [float(v) for v in box],
        "area": float(box[2] * box[3]),
        "iscrowd": 0,
        "segmentation": rectangle(*box),
    }


def result(image_id: int, class_id: int, box: tuple[int, int, int, int], score: float) -> dict:
    shape = {"bbox": [float(v) for v in box], "segmentation": rectangle(*box)}
    return {"image_id": image_id, "category_id": class_id + 1, "score": score} | shape


def data_set(annotations: list[dict], images: int) -> dict:
    return {
        "images": [{"id": i + 1, "height": SIZE, "width": SIZE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }


def by_pycocotools(coco_gt: dict, results: list[dict], iou_type: str, max_dets: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**coco_gt, "annotations": [dict(a) for a in coco_gt["annotations"]]}
        truth.createIndex()
        shape = {"segm": "segmentation", "bbox": "bbox"}[iou_type]
        found = truth.loadRes([{k: r[k] for k in ("image_id", "category_id", "score", shape)} for r in results])
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture(scope="module")
def crowded() -> tuple[dict, list[dict]]:
    return crowded_data(np.random.default_rng(3), images=3, objects=400)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_equals_the_summary_of_pycocotools(crowded: tuple[dict, list[dict]], iou_type: str) -> None:
    expected = by_pycocotools(*crowded, iou_type, 100)
    found = evaluate_ap(*crowded, iou_type, CLASSES, 100)
    for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), expected.stats[:6], strict=True):
        assert 0 < value < 1
        assert found[name] == pytest.approx(100 * value, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_equals_pycocotools_for_a_thousand_detections(crowded: tuple[dict, list[dict]], iou_type: str) -> None:
    # The summary of pycocotools cannot do this, its precisions can
    arrays = by_pycocotools(*crowded, iou_type, 1000).eval
    expected = Curves(*(arrays[name][..., -1] for name in ("precision", "scores", "recall")), tuple(CLASSES), 1000)
    curves = coco_curves(*crowded, iou_type, CLASSES, 1000)
    np.testing.assert_array_equal(curves.scores, expected.scores)
    found = evaluate_ap(*crowded, iou_type, CLASSES, 1000)
    assert found == pytest.approx(expected.summary(), abs=1e-9, nan_ok=True)
    assert found["AR@1000"] > evaluate_ap(*crowded, iou_type, CLASSES, 100)["AR@100"] + 1
    assert found["AP"] > evaluate_ap(*crowded, iou_type, CLASSES, 100)["AP"] + 1
    assert np.isnan(found["AP-never seen"])


def test_details_of_all_and_of_each_class_are_those_of_pycocotools(crowded: tuple[dict, list[dict]]) -> None:
    """AR by size, AP at each IoU; and of one class what pycocotools says of that category alone."""
    curves = coco_curves(*crowded, "segm", CLASSES, 100)
    expected = by_pycocotools(*crowded, "segm", 100).stats
    details = curves.details()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    recalls = ("AR@100", "ARs@100", "ARm@100", "ARl@100")
    assert [details[name] for name in names] == pytest.approx(list(100 * expected[:6]), abs=1e-9)
    assert [details[name] for name in recalls] == pytest.approx(list(100 * expected[8:]), abs=1e-9)
    assert list(details["AP_by_IoU"]) == [f"0.{percent}" for percent in range(50, 100, 5)]
    assert details["AP_by_IoU"]["0.75"] == details["AP75"]
    assert np.mean(list(details["AP_by_IoU"].values())) == pytest.approx(details["AP"])

    data, results = crowded
    only = data | {"annotations": [a for a in data["annotations"] if a["category_id"] == 2]}
    stats = by_pycocotools(only, [r for r in results if r["category_id"] == 2], "segm", 100).stats
    one = curves.details(1)
    assert [one[name] for name in names] == pytest.approx(list(100 * stats[:6]), abs=1e-9)
    assert [one[name] for name in recalls] == pytest.approx(list(100 * stats[8:]), abs=1e-9)


def test_images_may_have_any_ids(crowded: tuple[dict, list[dict]]) -> None:
    data, results = crowded
    ids = {1: "belt/a.png", 2: 0, 3: "3f2b"}
    renamed = data | {
        "images": [image | {"id": ids[image["id"]]} for image in data["images"]],
        "annotations": [a | {"image_id": ids[a["image_id"]]} for a in data["annotations"]],
    }
    found = evaluate_ap(renamed, [r | {"image_id": ids[r["image_id"]]} for r in results], "segm", CLASSES, 100)
    np.testing.assert_equal(found, evaluate_ap(data, results, "segm", CLASSES, 100))


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_inputs_are_left_as_they_are(iou_type: str) -> None:
    data = crowded_data(np.random.default_rng(0), images=1, objects=5)
    before = copy.deepcopy(data)
    evaluate_ap(*data, iou_type, CLASSES, 100)
    assert data == before


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_three_hundred_perfect_particles_give_100(iou_type: str) -> None:
    boxes = [(16 * (i % 20), 16 * (i // 20), 12, 14) for i in range(300)]
    annotations = [annotation(i + 1, 1, 0, box) for i, box in enumerate(boxes)]
    results = [result(1, 0, box, 0.5 + i / 1000) for i, box in enumerate(boxes)]
    found = evaluate_ap(data_set(annotations, 1), results, iou_type, CLASSES, 300)
    assert found["AP"] == found["AP-brick"] == found["APs"] == pytest.approx(100)
    assert np.isnan(found["APl"])
    cut = evaluate_ap(data_set(annotations, 1), results, iou_type, CLASSES, 100)
    assert cut["AP"] < 40  # what COCO's default would say


def test_no_predictions_and_no_truth(capsys: pytest.CaptureFixture[str]) -> None:
    one = [annotation(1, 1, 0, (5, 5, 20, 20))]
    nothing_found = evaluate_ap(data_set(one, 1), [], "segm", CLASSES, 100)
    assert nothing_found["AP"] == nothing_found["AP-brick"] == 0
    nothing_there = evaluate_ap(data_set([], 1), [result(1, 0, (5, 5, 20, 20), 0.9)], "segm", CLASSES, 100)
    assert all(np.isnan(value) for value in nothing_there.values())
    neither = evaluate_ap(data_set([], 1), [], "bbox", CLASSES, 100)
    assert all(np.isnan(value) for value in neither.values())
    assert capsys.readouterr().out == ""
