"""What an evaluation has found: predictions beside the ground truth, confusion, statistics, and the worst images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.evaluation.coco import Curves, coco_curves
from ramses_d2.evaluation.masses import (
    IOU_THRESHOLDS,
    PowerLaw,
    as_percent,
    evaluate_masses,
    flatten_masses,
    ground_truth_table,
    pair_table,
    prediction_table,
)


@dataclass(frozen=True)
class EvaluationResult:
    """The predictions for a data set beside its ground truth. The ids are ours; files carry those of the data set."""

    class_names: tuple[str, ...]
    report_thresh: float  # score from which a prediction counts as a particle
    ground_truth: dict[str, Any]  # COCO
    results: list[dict[str, Any]]  # COCO results
    curves: dict[str, Curves]  # task ("segm", "bbox") -> precision over recall
    particles: pd.DataFrame  # ground_truth_table, without crowd regions
    predictions: pd.DataFrame  # prediction_table
    pairs: pd.DataFrame  # pair_table, matched at IoU 0.5 from report_thresh on
    masses: dict[str, Any] | None  # evaluate_masses; None where the model does not predict masses

    @property
    def reported(self) -> pd.DataFrame:
        """Predictions that count as particles: sure enough, and not in a crowd region."""
        sure = self.predictions["score"] >= self.report_thresh
        return self.predictions[sure & ~self.predictions["in_crowd"]]

    def metrics(self) -> OrderedDict[str, dict[str, float]]:
        """Task -> metric -> float: each of the tasks, and "mass" where the model weighs."""
        metrics = OrderedDict((task, curves.summary()) for task, curves in self.curves.items())
        if self.masses is not None:
            metrics["mass"] = flatten_masses(self.masses)
        return metrics


def evaluate_predictions(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    class_names: Sequence[str],
    *,
    tasks: Sequence[str],
    max_dets: int,
    report_thresh: float,
    has_mass: bool,
    power_law: PowerLaw | None = None,
) -> EvaluationResult:
    """Compare COCO results (category = class id + 1; with mass, if the model predicts it) with a COCO ground truth."""
    objects = [annotation for annotation in ground_truth["annotations"] if not annotation["iscrowd"]]
    crowd = [annotation for annotation in ground_truth["annotations"] if annotation["iscrowd"]]
    particles, predictions = ground_truth_table(objects), prediction_table(objects, results, crowd)
    masses = None
    if has_mass:
        masses, pairs = evaluate_masses(particles, predictions, class_names, report_thresh, power_law)
    else:
        pairs = pair_table(particles, predictions[predictions["score"] >= report_thresh], IOU_THRESHOLDS[0])
    curves = {task: coco_curves(ground_truth, results, task, class_names, max_dets) for task in tasks}
    tables = (particles, predictions, pairs)
    return EvaluationResult(tuple(class_names), report_thresh, ground_truth, results, curves, *tables, masses)


_MASS_COUNTS = ("weighed", "estimated", "excluded", "without_mass")


def evaluation_stats(result: EvaluationResult) -> dict[str, Any]:
    """Counts, AP and AR of each task, precision and recall of reported predictions, and masses; %, NaN = undefined.

    Of all and of each class: "objects", "predictions" (of any score), "reported" (from ``report_thresh`` on), "found"
    (matched at mask IoU 0.5 whatever the class), "class_accuracy" of those, and "precision", "recall" and "f1" of
    reported predictions of the right class.
    """
    matrix = confusion_matrix(result)
    classes = len(result.class_names)
    right = np.diag(matrix)[:classes]
    found = matrix[:classes, :classes].sum(axis=1)
    objects = matrix[:classes].sum(axis=1)
    reported = matrix[:, :classes].sum(axis=0)
    predictions = np.bincount(result.predictions["class_id"], minlength=classes)

    def stats(name: str, class_id: int | None) -> dict[str, Any]:
        counts = (objects, predictions, reported, found, right)
        n, p, r, f, ok = (int(count.sum() if class_id is None else count[class_id]) for count in counts)
        tasks = {task: curves.details(class_id) for task, curves in result.curves.items()}
        basic = {"class": name, "objects": n, "predictions": p, "reported": r, "found": f}
        rates = {"class_accuracy": _percent(ok, f), "precision": _percent(ok, r), "recall": _percent(ok, n)}
        return basic | rates | {"f1": _percent(2 * ok, r + n)} | tasks | {"mass": _masses(result, class_id)}

    return {
        "pictures": len(result.ground_truth["images"]),
        "crowd_regions": sum(annotation["iscrowd"] for annotation in result.ground_truth["annotations"]),
        "max_dets": next((curves.max_dets for curves in result.curves.values()), None),
        "report_thresh": result.report_thresh,
        "all": stats("all", None),
        "per_class": [stats(name, class_id) for class_id, name in enumerate(result.class_names)],
    }


def _masses(result: EvaluationResult, class_id: int | None) -> dict[str, Any] | None:
    """Grams of all predictions against all weighed particles, and the errors of pairs."""
    if result.masses is None:
        return None
    masses: Mapping[str, Any] = result.masses["all"] if class_id is None else result.masses["per_class"][class_id]
    pairs = masses[f"iou{as_percent(IOU_THRESHOLDS[0])}"]
    return (
        {name: masses[name] for name in _MASS_COUNTS}
        | {f"{side}_g": masses["total"][side] for side in ("true", "predicted", "error")}
        | {"error_percent": masses["total"]["percent"], "share_percent": masses["share"]}
        | {"pairs": pairs["weighed_pairs"], **pairs["particle"]}
        | {key: pairs[key] for key in ("power_law",) if key in pairs}
    )


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")


def image_errors(result: EvaluationResult) -> pd.DataFrame:
    """One row per image, the worst first: particles, predictions, missed, false, wrong_class, mass_error and badness.

    mass_error sums over the pairs of equal classes; badness, the sum of what is wrong, is the error score of an image.
    """
    pairs, extras = result.pairs, result.reported[result.reported["match50"] < 0]
    wrong = pairs["true_class"] != pairs["predicted_class"]
    true = pairs["true_mass"]
    error = ((pairs["predicted_mass"] - true).abs() / true.where(true > 0)).clip(upper=1).fillna(0)
    ids = pd.Index([image["id"] for image in result.ground_truth["images"]], name="image_id")
    counts = {
        "particles": result.particles.groupby("image_id").size(),
        "predictions": result.reported.groupby("image_id").size(),
        "pairs": pairs.groupby("image_id").size(),
        "false": extras.groupby("image_id").size(),
        "wrong_class": wrong.groupby(pairs["image_id"]).sum(),
    }
    table = pd.DataFrame({name: series.reindex(ids, fill_value=0).astype(np.int64) for name, series in counts.items()})
    table["missed"] = table["particles"] - table.pop("pairs")
    table["mass_error"] = error[~wrong].groupby(pairs["image_id"]).sum().reindex(ids, fill_value=0.0)
    table["badness"] = table[["missed", "false", "wrong_class", "mass_error"]].sum(axis=1)
    order = ["particles", "predictions", "missed", "false", "wrong_class", "mass_error", "badness"]
    return table[order].sort_values("badness", ascending=False, kind="stable").reset_index()


def confusion_matrix(result: EvaluationResult) -> np.ndarray:
    """Counts int64 (C + 1, C + 1), true x predicted class, from ``report_thresh`` on.

    The last column counts missed particles, the last row predictions where there is no particle; the last cell is 0.
    """
    classes = len(result.class_names)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(matrix, (result.pairs["true_class"], result.pairs["predicted_class"]), 1)
    extras = result.reported[result.reported["match50"] < 0]
    np.add.at(matrix[classes], extras["class_id"].to_numpy(), 1)
    objects = np.bincount(result.particles["class_id"], minlength=classes)
    matrix[:classes, classes] = objects - matrix[:classes, :classes].sum(axis=1)
    return matrix
