"""Crowded photographs through the evaluator: the truth as prediction must be perfect, however many objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from ramses_d2.data.catalog import register
from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.masks import RLEMasks

DATA = (Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real photographs (shared/data) are not at hand")


def truth_as_prediction(dataset_dict: dict) -> Instances:
    """The annotated outlines, overlaps included."""
    annotations = coco_ground_truth([dataset_dict], [])["annotations"]
    instances = Instances((dataset_dict["height"], dataset_dict["width"]))
    instances.pred_masks = RLEMasks(a["segmentation"] for a in annotations)
    boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.pred_classes = torch.tensor([a["category_id"] - 1 for a in annotations])
    instances.scores = torch.linspace(1.0, 0.6, len(annotations))
    return instances


@needs_data
@pytest.mark.parametrize(
    ("uri", "most"),
    [
        (f"ramses://{DATA}/gravel", 190),
        (f"coco://{DATA}/mushrooms/_annotations.coco.json?images={DATA}/mushrooms", 241),
    ],
    ids=["gravel", "mushrooms"],
)
def test_more_than_a_hundred_objects_a_image(uri: str, most: int, tmp_path: Path) -> None:
    dataset_dicts = DatasetCatalog.get(register(uri))
    assert max(len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts) == most
    scores = {}
    for max_dets in (100, 1000):
        evaluator = RamsesEvaluator(
            uri, output_dir=str(tmp_path), max_dets=max_dets, report_thresh=0.5, tasks=("segm",), distributed=False
        )
        evaluator.process(
            dataset_dicts, [{"instances": truth_as_prediction(dataset_dict)} for dataset_dict in dataset_dicts]
        )
        results = evaluator.evaluate()
        scores[max_dets] = results["segm"]["AP"]
        assert "mass" not in results  # nothing was weighed, nothing was predicted
    assert scores[1000] == pytest.approx(100.0) and scores[100] < 80
