"""The evaluator Detectron2 runs over a data set: COCO AP, and how far off the grams are."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ramses_d2.data.ground_truth import coco_ground_truth
from ramses_d2.errors import RamsesError

from .coco_results import FileIds, instances_to_results
from .files import write_files
from .matching import IOU_THRESHOLDS
from .outcome import judge
from .power_law import PowerLaw
from .report import ap_tables, mass_tables
from .storage_images import store_images

logger = logging.getLogger(__name__)


class RamsesEvaluator(DatasetEvaluator):
    """COCO AP of masks and boxes, and the mass figures of :mod:`ramses_d2.evaluation.mass_metrics`.

    All images of the data set count, each once however often it was evaluated.
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
        worst_images: int = 0,
        stored_images: int = 0,
        distributed: bool = True,
    ) -> None:
        """Prepare for a registered data set.

        Args:
            dataset_name: name in DatasetCatalog.
            output_dir: where the files go; None = no files.
            max_dets: predictions that count for AP, of each image and class (TEST.DETECTIONS_PER_IMAGE).
            report_thresh: score from which a prediction counts as a particle in the mass figures.
            tasks: of "segm" and "bbox".
            power_law: baseline for the masses.
            worst_pictures: images with the worst predictions to draw.
            stored_pictures: images of truth and prediction for TensorBoard, in a training.
            distributed: gather the predictions of all processes; else those of this one are all.

        Raises:
            RamsesError: the data set has no image.
        """
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._max_dets = max_dets
        self._report_thresh = report_thresh
        self._tasks = tuple(tasks)
        self._power_law = power_law
        self._worst_images = worst_images
        self._stored_images = stored_images
        self._distributed = distributed
        self._dataset_dicts = DatasetCatalog.get(dataset_name)
        if len(self._dataset_dicts) == 0:
            raise RamsesError(f"{dataset_name}: the data set has no image; there is nothing to evaluate")
        metadata = MetadataCatalog.get(dataset_name)
        self._class_names = list(metadata.thing_classes)
        self._category_ids = metadata.get("dataset_category_ids")  # of a COCO file, else None
        self.reset()

    def reset(self) -> None:
        self._results: dict[int, list[dict[str, Any]]] = {}
        self._weighs = False

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the predictions of some images, as run lengths.

        Raises:
            RamsesError: a class the data set does not have.
        """
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._weighs |= instances.has("pred_masses")
            highest = max(instances.pred_classes.tolist(), default=0)
            if highest >= len(self._class_names):
                raise RamsesError(
                    f"{self._dataset_name}: the model predicts class id {highest}, but the data set has "
                    f"{len(self._class_names)} classes; set MODEL.RAMSES.NUM_CLASSES to the data's"
                )
            self._results[image["image_id"]] = instances_to_results(instances, image["image_id"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Evaluate, log the tables and write the files.

        Returns:
            On the main process, task -> metric -> float: "segm", "bbox", and "mass" where the model weighs (plain
            SOLOv2 does not). Empty on the others.

        Raises:
            RamsesError: predictions for an image the data set does not have.
        """
        if not self._gather():
            return OrderedDict()
        images = dict.fromkeys(dataset_dict["image_id"] for dataset_dict in self._dataset_dicts)
        self._check_images(set(images))
        results = [result for image_id in images for result in self._results.get(image_id, ())]
        self._log_if_nothing_found(results)
        outcome = judge(
            coco_ground_truth(self._dataset_dicts, self._class_names),
            results,
            self._class_names,
            tasks=self._tasks,
            max_dets=self._max_dets,
            report_thresh=self._report_thresh,
            weighs=self._weighs,
            power_law=self._power_law,
        )
        metrics = outcome.metrics()
        tables = [ap_tables({task: metrics[task] for task in self._tasks}, self._class_names, self._max_dets)]
        if outcome.masses is not None:
            tables.append(mass_tables(outcome.masses, self._report_thresh))
        text = "\n\n".join(tables)
        logger.info("%s\n%s", self._dataset_name, text)
        if self._output_dir is not None:
            write_files(
                self._output_dir,
                outcome,
                self._dataset_dicts,
                FileIds(self._dataset_dicts, self._category_ids),
                settings=self._settings(),
                tables=text,
                worst_images=self._worst_images,
            )
        store_images(outcome, self._dataset_dicts, self._stored_images)
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

    def _check_images(self, known: set[int]) -> None:
        unknown = self._results.keys() - known
        if unknown:
            raise RamsesError(
                f"{self._dataset_name}: predictions for image_id {next(iter(unknown))}, which the data set does not "
                "have; evaluate with the loader of the same data set"
            )
        missing = len(known) - len(self._results)
        if missing:
            logger.warning(
                "%s: %d of %d images were not predicted; their particles count as missed",
                self._dataset_name,
                missing,
                len(known),
            )

    def _log_if_nothing_found(self, results: Sequence[dict[str, Any]]) -> None:
        highest = max((result["score"] for result in results), default=None)
        if highest is None:
            logger.warning(
                "The model found nothing in %d images: no score reached MODEL.RAMSES.TEST.SCORE_THRESH. "
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
