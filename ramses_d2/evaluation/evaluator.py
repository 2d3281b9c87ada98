"""The evaluator Detectron2 runs over a data set: COCO AP, and how far off the grams are."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BitMasks, BoxMode, Instances
from detectron2.utils import comm

from ramses_d2.data.ground_truth import coco_ground_truth
from ramses_d2.data.rle import encode_in_box
from ramses_d2.errors import RamsesError

from .coco_ap import evaluate_ap
from .mass_metrics import evaluate_masses, flatten_masses
from .matching import IOU_THRESHOLDS, prediction_table, truth_table
from .power_law import PowerLaw
from .report import ap_tables, mass_tables, write_files

logger = logging.getLogger(__name__)

_PAIR_COLUMNS = [
    "image_name",
    "label",
    "prediction",
    "iou",
    "score",
    "true_class",
    "predicted_class",
    "true_mass",
    "predicted_mass",
    "gt_mass",
    "true_area",
    "predicted_area",
    "resolution",
    "power_law_mass",
]


class RamsesEvaluator(DatasetEvaluator):
    """COCO AP of masks and boxes, and the mass figures of :mod:`ramses_d2.evaluation.mass_metrics`.

    All pictures of the data set count, each once however often it was evaluated.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | Path | None,
        max_dets: int,
        report_thresh: float,
        tasks: Sequence[str] = ("segm", "bbox"),
        power_law: PowerLaw | None = None,
        distributed: bool = True,
    ) -> None:
        """Prepare for a registered data set.

        Args:
            dataset_name: name in DatasetCatalog.
            output_dir: where the files go; None = no files.
            max_dets: predictions that count for AP, of each picture and class (TEST.DETECTIONS_PER_IMAGE).
            report_thresh: score from which a prediction counts as a particle in the mass figures.
            tasks: of "segm" and "bbox".
            power_law: baseline for the masses.
            distributed: gather the predictions of all processes; else those of this one are all.

        Raises:
            RamsesError: the data set has no picture.
        """
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._max_dets = max_dets
        self._report_thresh = report_thresh
        self._tasks = tuple(tasks)
        self._power_law = power_law
        self._distributed = distributed
        self._records = DatasetCatalog.get(dataset_name)
        if len(self._records) == 0:
            raise RamsesError(f"{dataset_name}: the data set has no picture; there is nothing to evaluate")
        self._class_names = list(MetadataCatalog.get(dataset_name).thing_classes)
        self.reset()

    def reset(self) -> None:
        self._results: dict[int, list[dict[str, Any]]] = {}
        self._weighs = False

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the predictions of some pictures, as run lengths.

        Raises:
            RamsesError: a class the data set does not have.
        """
        for picture, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._weighs |= instances.has("pred_masses")
            highest = max(instances.pred_classes.tolist(), default=0)
            if highest >= len(self._class_names):
                raise RamsesError(
                    f"{self._dataset_name}: the model predicts class id {highest}, but the data set has "
                    f"{len(self._class_names)} classes; set MODEL.RAMSES.NUM_CLASSES to the data's"
                )
            self._results[picture["image_id"]] = instances_to_results(instances, picture["image_id"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Evaluate, log the tables and write the files.

        Returns:
            On the main process, task -> metric -> float: "segm", "bbox", and "mass" where the model weighs (plain
            SOLOv2 does not). Empty on the others.

        Raises:
            RamsesError: predictions for a picture the data set does not have.
        """
        if not self._gather():
            return OrderedDict()
        names = {record["image_id"]: record["image_name"] for record in self._records}
        self._check_pictures(names)
        truth = coco_ground_truth(self._records, self._class_names)
        results = [result for image_id in sorted(self._results) for result in self._results[image_id]]
        self._log_if_nothing_found(results)

        metrics: OrderedDict[str, dict[str, float]] = OrderedDict(
            (task, evaluate_ap(truth, results, task, self._class_names, self._max_dets)) for task in self._tasks
        )
        tables = [ap_tables(metrics, self._class_names, self._max_dets)]
        evaluation: dict[str, Any] = {"settings": self._settings(), "results": metrics}
        pairs = None
        if self._weighs:
            masses, pairs = evaluate_masses(
                truth_table(truth["annotations"]),
                prediction_table(truth["annotations"], results),
                self._class_names,
                self._report_thresh,
                self._power_law,
            )
            metrics["mass"] = flatten_masses(masses)
            evaluation["mass"] = masses
            tables.append(mass_tables(masses, self._report_thresh))
            pairs = self._name_pairs(pairs, names)
        logger.info("%s\n%s", self._dataset_name, "\n\n".join(tables))
        if self._output_dir is not None:
            write_files(self._output_dir, results, evaluation, pairs, "\n\n".join(tables))
        return metrics

    def _gather(self) -> bool:
        """Bring the predictions of all processes to the main one; True there."""
        if not self._distributed:
            return True
        comm.synchronize()
        gathered = comm.gather((self._results, self._weighs), dst=0)
        if not comm.is_main_process():
            return False
        self._results = {key: found for results, _ in gathered for key, found in results.items()}
        self._weighs = any(weighs for _, weighs in gathered)
        return True

    def _check_pictures(self, names: dict[int, str]) -> None:
        unknown = self._results.keys() - names.keys()
        if unknown:
            raise RamsesError(
                f"{self._dataset_name}: predictions for image_id {min(unknown)}, which the data set does not "
                "have; evaluate with the loader of the same data set"
            )
        missing = len(names) - len(self._results)
        if missing:
            logger.warning(
                "%s: %d of %d pictures were not predicted; their particles count as missed",
                self._dataset_name,
                missing,
                len(names),
            )

    def _log_if_nothing_found(self, results: Sequence[dict[str, Any]]) -> None:
        highest = max((result["score"] for result in results), default=None)
        if highest is None:
            logger.warning(
                "The model found nothing in %d pictures: no score reached MODEL.RAMSES.TEST.SCORE_THRESH. "
                "Train longer, or lower that key to see what it is unsure of.",
                len(self._results),
            )
        elif highest < self._report_thresh:
            logger.warning(
                "No particle is reported: the highest score seen is %.3f, and "
                "MODEL.RAMSES.TEST.REPORT_THRESH is %g. Train longer, or lower that key.",
                highest,
                self._report_thresh,
            )

    def _settings(self) -> dict[str, Any]:
        return {
            "dataset": self._dataset_name,
            "classes": self._class_names,
            "tasks": self._tasks,
            "max_dets": self._max_dets,
            "report_thresh": self._report_thresh,
            "iou_thresholds": IOU_THRESHOLDS,
            "power_law": asdict(self._power_law) if self._weighs and self._power_law is not None else None,
        }

    def _name_pairs(self, pairs: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
        """Rows of mass_pairs.csv: files carry names, never ids."""
        classes = dict(enumerate(self._class_names))
        return pairs.assign(
            image_name=pairs["image_id"].map(names),
            true_class=pairs["true_class"].map(classes),
            predicted_class=pairs["predicted_class"].map(classes),
        ).reindex(columns=_PAIR_COLUMNS)


def instances_to_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """COCO results of one picture, ready for JSON.

    Args:
        instances: of the model, on the CPU, K objects.
        image_id: of the picture.

    Returns:
        K dicts: image_id, category_id (class id + 1), bbox (XYWH, px), score, segmentation (RLE, counts as
        str) and, where the model weighs, mass (g, None unknown).
    """
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": class_id + 1,
            "bbox": box,
            "score": score,
            "segmentation": {"size": list(rle["size"]), "counts": _text(rle["counts"])},
        }
        for class_id, box, score, rle in zip(classes, boxes, scores, _run_lengths(instances), strict=True)
    ]
    if instances.has("pred_masses"):
        for result, mass in zip(results, instances.pred_masses.tolist(), strict=True):
            result["mass"] = mass if np.isfinite(mass) else None
    return results


def _run_lengths(instances: Instances) -> list[dict[str, Any]]:
    masks = instances.pred_masks
    if not isinstance(masks, torch.Tensor):
        return list(masks)
    height, width = instances.image_size
    boxes = BitMasks(masks).get_bounding_boxes().tensor.int().tolist()
    return [
        encode_in_box(mask[y0:y1, x0:x1], x0, y0, height, width)
        for mask, (x0, y0, x1, y1) in zip(masks.numpy(), boxes, strict=True)
    ]


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
