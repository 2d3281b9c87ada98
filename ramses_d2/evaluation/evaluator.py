"""The evaluator Detectron2 runs over a data set: COCO AP and masses, as metrics, tables and files."""

from __future__ import annotations

import io
import logging
import math
import re
import textwrap
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from ramses_d2.data.coco import coco_ground_truth
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation.coco import FileIds, instances_to_results
from ramses_d2.evaluation.masses import IOU_THRESHOLDS, PowerLaw, as_percent
from ramses_d2.evaluation.plots import (
    compare_image,
    confusion_table,
    draw_confusion,
    draw_precision_recall,
    precision_recall_table,
    store_images,
)
from ramses_d2.evaluation.result import (
    EvaluationResult,
    confusion_matrix,
    evaluate_predictions,
    evaluation_stats,
    image_errors,
)
from ramses_d2.files import folder_swap, write_bytes, write_json

logger = logging.getLogger(__name__)

_AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_WIDTH = 110
_AT_50 = f"iou{as_percent(IOU_THRESHOLDS[0])}"
_JPEG_QUALITY = 90
# Half a percent of one particle's mass: an image that is no worse than that is not among the worst
_NOTICEABLE = 0.005
_PAIR_COLUMNS = [
    "image_name", "label", "prediction", "iou", "score", "true_class", "predicted_class", "true_mass", "predicted_mass",
    "gt_mass", "true_area", "predicted_area", "resolution", "power_law_mass",
]  # fmt: skip


# Columns of the mass tables: heading, where the value is, its format
_IOU_COLUMNS = (
    ("pairs", "pairs", "d"), ("class accuracy %", "class_accuracy", ".2f"), ("MAPE %", "particle.MAPE", ".2f"),
    ("median %", "particle.MedAPE", ".2f"), ("bias %", "particle.Bias", "+.2f"), ("MAE g", "particle.MAE", ".4g"),
    ("bias g", "particle.BiasGrams", "+.4g"), ("R2", "particle.R2", ".4f"), ("matched %", "total.percent", "+.2f"),
)  # fmt: skip
_CLASS_COLUMNS = (
    ("GT n", "ground_truth", "d"), ("pred n", "predictions", "d"), ("pairs", f"{_AT_50}.pairs", "d"),
    ("MAPE", f"{_AT_50}.particle.MAPE", ".1f"), ("median", f"{_AT_50}.particle.MedAPE", ".1f"),
    ("bias", f"{_AT_50}.particle.Bias", "+.1f"), ("GT g", "total.true", ".5g"), ("pred g", "total.predicted", ".5g"),
    ("total", "total.percent", "+.1f"), ("matched", f"{_AT_50}.total.percent", "+.1f"),
)  # fmt: skip


def ap_tables(results: Mapping[str, Mapping[str, float]], class_names: Sequence[str], max_dets: int) -> str:
    """AP of each task ("segm", "bbox") and of each class, in percent."""
    columns = (*_AP_METRICS, f"AR@{max_dets}")
    by_task = [{"": task} | {name: _number(found[name], ".2f") for name in columns} for task, found in results.items()]
    by_class = [
        {"class": name} | {f"{task} AP": f"{found[f'AP-{name}']:.2f}" for task, found in results.items()}
        for name in class_names
    ]
    heading = f"Average precision, % (at most {max_dets} predictions per image and class):"
    return "\n".join([heading, _table(by_task), _table(by_class)])


def mass_tables(masses: Mapping[str, Any], report_thresh: float) -> str:
    """The metrics of :func:`ramses_d2.evaluation.masses.evaluate_masses`, in at most 110 columns."""
    whole = masses["all"]
    by_iou = [
        {"IoU": f"{threshold:.2f}"} | _row(whole[f"iou{as_percent(threshold)}"], _IOU_COLUMNS)
        for threshold in IOU_THRESHOLDS
    ]
    by_class = [{"class": found["class"][:18]} | _row(found, _CLASS_COLUMNS) for found in (*masses["per_class"], whole)]
    return "\n".join(
        [
            f"Masses of predictions with a score of {report_thresh:g} or more, over matched pairs:",
            _table(by_iou),
            f"By class, % and g (pairs at IoU {IOU_THRESHOLDS[0]:.2f}; total: all predictions, all weighed):",
            _table(by_class),
            *(textwrap.fill(remark, _WIDTH, subsequent_indent="  ") for remark in _remarks(masses)),
        ]
    )


def _row(metrics: Mapping[str, Any], columns: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    return {heading: _number(reduce(getitem, path.split("."), metrics), spec) for heading, path, spec in columns}


def _remarks(masses: Mapping[str, Any]) -> list[str]:
    """A line each for the baseline, masses that could not be compared, the composition, and the choice of a score."""
    remarks = []
    whole = masses["all"]
    if law := whole[_AT_50].get("power_law"):
        remarks.append(
            f"Power law in class and area on the same masks: MAPE {_number(law['MAPE'], '.2f')} % "
            f"(gain of the network: {_number(law['gain'], '+.1f')} %)"
        )
    if whole["weighed"] < whole["ground_truth"]:
        remarks.append(
            f"{whole['ground_truth'] - whole['weighed']} of {whole['ground_truth']} particles have no known "
            f"mass; {whole['excluded']} predictions there are left out of the totals"
        )
    if whole["estimated"]:
        remarks.append(f"{whole['estimated']} of {whole['weighed']} true masses are estimates from a batch")
    if whole["without_mass"]:
        remarks.append(
            f"{whole['without_mass']} predictions have no mass (unknown resolution?) and add 0 g to the total"
        )
    shares = (
        f"{found['class']} {_number(found['share']['predicted'], '.1f')} ({_number(found['share']['true'], '.1f')})"
        for found in masses["per_class"]
    )
    errors = (f"{entry['score']:g}: {_number(entry['percent'], '+.1f')}" for entry in masses["total_by_score"])
    remarks.append("Composition by mass, predicted (true), %: " + ", ".join(shares))
    remarks.append("Total error by least score, %: " + ", ".join(errors))
    return remarks


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns; all but the first are aligned to the right."""
    alignment = ["left"] + ["right"] * (len(rows[0]) - 1)
    return tabulate(rows, "keys", tablefmt="simple", disable_numparse=True, colalign=alignment)


def _number(value: float, spec: str) -> str:
    """A formatted number; "-" where it is undefined."""
    return format(value, spec) if math.isfinite(value) else "-"


def write_files(
    output_dir: str | Path,
    result: EvaluationResult,
    dataset_dicts: Sequence[dict[str, Any]],
    ids: FileIds,
    *,
    settings: Mapping[str, Any],
    tables: str,
    worst_images: int,
) -> None:
    """Write all files of an evaluation; older ones are replaced, each only when the new one is complete.

    evaluation.json, evaluation.txt (the printed tables), mass_pairs.csv (if the model predicts masses),
    predictions.json, ground_truth.json, test_stats.json, confusion_matrix.{csv,png}, precision_recall.{csv,png} and
    worst/*.jpg.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "predictions.json", ids.results(result.results))
    write_json(folder / "ground_truth.json", ids.ground_truth(result.ground_truth))
    evaluation: dict[str, Any] = {"settings": settings, "results": result.metrics()}
    if result.masses is not None:
        evaluation["mass"] = result.masses
        image_names = {each["image_id"]: each["image_name"] for each in dataset_dicts}
        classes = dict(enumerate(result.class_names))
        pairs = result.pairs.assign(image_name=result.pairs["image_id"].map(image_names))
        for name in ("true_class", "predicted_class"):
            pairs[name] = pairs[name].map(classes)  # files carry names, never ids
        _write_table(folder / "mass_pairs.csv", pairs.reindex(columns=_PAIR_COLUMNS))
    else:
        (folder / "mass_pairs.csv").unlink(missing_ok=True)  # of a network that predicted masses
    write_json(folder / "evaluation.json", evaluation, indent=2)
    write_bytes(folder / "evaluation.txt", (tables + "\n").encode())

    errors = image_errors(result)
    worst = errors[errors["badness"] >= _NOTICEABLE].head(worst_images)
    stats = {"dataset": settings["dataset"]} | evaluation_stats(result)
    stats["worst"] = _draw_worst(folder / "worst", result, dataset_dicts, worst)
    write_json(folder / "test_stats.json", stats, indent=2)

    matrix = confusion_matrix(result)
    curves = result.curves.get("segm") or next(iter(result.curves.values()))
    write_bytes(folder / "confusion_matrix.csv", confusion_table(matrix, result.class_names).to_csv().encode())
    _write_table(folder / "precision_recall.csv", precision_recall_table(curves))
    for name, figure in (
        ("confusion_matrix", draw_confusion(matrix, result.class_names, result.report_thresh)),
        ("precision_recall", draw_precision_recall(curves, result.report_thresh)),
    ):
        image = io.BytesIO()
        figure.savefig(image, format="png")
        write_bytes(folder / f"{name}.png", image.getvalue())


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, float_format="%.6g").encode())


def _draw_worst(
    folder: Path, result: EvaluationResult, dataset_dicts: Sequence[dict[str, Any]], worst: pd.DataFrame
) -> list[dict[str, Any]]:
    """Draw these images into a folder, by rank and name, and list them."""
    by_id = {dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}
    listed = []
    with folder_swap(folder) as unfinished:
        for rank, row in enumerate(worst.to_dict("records"), start=1):
            dataset_dict = by_id[row.pop("image_id")]
            name = f"{rank:02d}_" + re.sub(r"[^\w.-]+", "_", dataset_dict["image_name"]) + ".jpg"
            image = compare_image(result, dataset_dict)[:, :, ::-1]
            _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            (unfinished / name).write_bytes(encoded.tobytes())  # unlike cv2.imwrite, fails on a full disk
            listed.append({"picture": dataset_dict["image_name"], "file": f"{folder.name}/{name}"} | row)
    return listed


class RamsesEvaluator(DatasetEvaluator):
    """COCO AP of masks and boxes, and the metrics of :mod:`ramses_d2.evaluation.masses`.

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
        """Prepare for a data set registered in DatasetCatalog.

        Args:
            output_dir: where the files go; None = no files.
            max_dets: predictions that count for AP, of each image and class (TEST.DETECTIONS_PER_IMAGE).
            report_thresh: score from which a prediction counts as a particle in the mass metrics.
            tasks: of "segm" and "bbox".
            power_law: baseline for the masses.
            worst_images: images with the worst predictions to draw.
            stored_images: images of ground truth and prediction for TensorBoard, in a training.
            distributed: gather the predictions of all processes; else those of this one are all.
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
        self._has_mass = False

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the predictions of some images, as RLE."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._has_mass |= instances.has("pred_masses")
            highest = max(instances.pred_classes.tolist(), default=0)
            if highest >= len(self._class_names):
                raise RamsesError(
                    f"{self._dataset_name}: the model predicts class id {highest}, but the data set has "
                    f"{len(self._class_names)} classes; set MODEL.RAMSES.NUM_CLASSES to the data's"
                )
            self._results[image["image_id"]] = instances_to_results(instances, image["image_id"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Evaluate, log the tables and write the files.

        On the main process, task -> metric -> float: "segm", "bbox", and "mass" where the model predicts masses (plain
        SOLOv2 does not). Empty on the others.
        """
        if not self._gather():
            return OrderedDict()
        images = dict.fromkeys(dataset_dict["image_id"] for dataset_dict in self._dataset_dicts)
        self._check_images(set(images))
        results = [result for image_id in images for result in self._results.get(image_id, ())]
        self._log_if_nothing_found(results)
        evaluated = evaluate_predictions(
            coco_ground_truth(self._dataset_dicts, self._class_names),
            results,
            self._class_names,
            tasks=self._tasks,
            max_dets=self._max_dets,
            report_thresh=self._report_thresh,
            has_mass=self._has_mass,
            power_law=self._power_law,
        )
        metrics = evaluated.metrics()
        tables = [ap_tables({task: metrics[task] for task in self._tasks}, self._class_names, self._max_dets)]
        if evaluated.masses is not None:
            tables.append(mass_tables(evaluated.masses, self._report_thresh))
        text = "\n\n".join(tables)
        logger.info("%s\n%s", self._dataset_name, text)
        if self._output_dir is not None:
            write_files(
                self._output_dir,
                evaluated,
                self._dataset_dicts,
                FileIds(self._dataset_dicts, self._category_ids),
                settings=self._settings(),
                tables=text,
                worst_images=self._worst_images,
            )
        store_images(evaluated, self._dataset_dicts, self._stored_images)
        return metrics

    def _gather(self) -> bool:
        """Bring the predictions of all processes to the main one; True there."""
        if not self._distributed:
            return True
        comm.synchronize()
        gathered = comm.gather((self._results, self._has_mass), dst=0)
        if not comm.is_main_process():
            return False
        self._results = {key: found for results, _ in gathered for key, found in results.items()}
        self._has_mass = any(has_mass for _, has_mass in gathered)
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
            "power_law": asdict(self._power_law) if self._has_mass and self._power_law is not None else None,
        }
