"""What an evaluation has found: detections beside ground truth, the images that went worst, and the statistics."""

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
    pair_table,
    prediction_table,
    truth_table,
)


@dataclass(frozen=True)
class Outcome:
    """What came of the predictions for a data set.

    Attributes:
        class_names: class order.
        report_thresh: score from which a prediction counts as a particle.
        truth: COCO ground truth under our ids.
        results: COCO results under our ids.
        curves: task ("segm", "bbox") -> precision over recall.
        particles: :func:`ramses_d2.evaluation.matching.truth_table`, without crowd regions.
        predictions: :func:`ramses_d2.evaluation.matching.prediction_table`.
        pairs: matched at IoU 0.5 from ``report_thresh`` on, :func:`ramses_d2.evaluation.matching.pair_table`.
        masses: :func:`ramses_d2.evaluation.mass_metrics.evaluate_masses`; None where the model does not weigh.
    """

    class_names: tuple[str, ...]
    report_thresh: float
    truth: dict[str, Any]
    results: list[dict[str, Any]]
    curves: dict[str, Curves]
    particles: pd.DataFrame
    predictions: pd.DataFrame
    pairs: pd.DataFrame
    masses: dict[str, Any] | None

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


def judge(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    class_names: Sequence[str],
    *,
    tasks: Sequence[str],
    max_dets: int,
    report_thresh: float,
    weighs: bool,
    power_law: PowerLaw | None = None,
) -> Outcome:
    """Compare predictions with the truth.

    Args:
        truth: COCO ground truth, category ids are the class ids + 1.
        results: COCO results with segmentation, bbox and, possibly, mass.
        class_names: class order.
        tasks: of "segm" and "bbox".
        max_dets: predictions that count for AP, of each image and class.
        report_thresh: score from which a prediction counts as a particle.
        weighs: whether the model gives masses.
        power_law: baseline for the masses.
    """
    outlined = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    crowd = [annotation for annotation in truth["annotations"] if annotation["iscrowd"]]
    particles, predictions = truth_table(outlined), prediction_table(outlined, results, crowd)
    masses = None
    if weighs:
        masses, pairs = evaluate_masses(particles, predictions, class_names, report_thresh, power_law)
    else:
        pairs = pair_table(particles, predictions[predictions["score"] >= report_thresh], IOU_THRESHOLDS[0])
    curves = {task: coco_curves(truth, results, task, class_names, max_dets) for task in tasks}
    return Outcome(tuple(class_names), report_thresh, truth, results, curves, particles, predictions, pairs, masses)


_MASS_COUNTS = ("weighed", "estimated", "excluded", "without_mass")


def evaluation_statistics(outcome: Outcome) -> dict[str, Any]:
    """Counts, AP and AR of each task, precision and recall of reported predictions, and masses.

    Percentages are 0 to 100; NaN = undefined.

    Returns:
        "pictures", "crowd_regions", "max_dets", "report_thresh", "all" and "per_class", a list. The figures of "all"
        and of each class: "class", "objects", "predictions" (of any score), "reported" (from ``report_thresh`` on),
        "found" (matched at mask IoU 0.5 whatever the class), "class_accuracy" (%, of those), "precision", "recall"
        and "f1" (%, of reported predictions of the right class), a dict for each task, and "mass" (g and %) or None.
    """
    matrix = confusion_matrix(outcome)
    classes = len(outcome.class_names)
    right = np.diag(matrix)[:classes]
    found = matrix[:classes, :classes].sum(axis=1)
    objects = matrix[:classes].sum(axis=1)
    reported = matrix[:, :classes].sum(axis=0)
    predictions = np.bincount(outcome.predictions["class_id"], minlength=classes)

    def figures(name: str, class_id: int | None) -> dict[str, Any]:
        counts = (objects, predictions, reported, found, right)
        n, p, r, f, ok = (int(count.sum() if class_id is None else count[class_id]) for count in counts)
        tasks = {task: curves.details(class_id) for task, curves in outcome.curves.items()}
        basic = {"class": name, "objects": n, "predictions": p, "reported": r, "found": f}
        rates = {"class_accuracy": _percent(ok, f), "precision": _percent(ok, r), "recall": _percent(ok, n)}
        return basic | rates | {"f1": _percent(2 * ok, r + n)} | tasks | {"mass": _masses(outcome, class_id)}

    return {
        "pictures": len(outcome.truth["images"]),
        "crowd_regions": sum(annotation["iscrowd"] for annotation in outcome.truth["annotations"]),
        "max_dets": next((curves.max_dets for curves in outcome.curves.values()), None),
        "report_thresh": outcome.report_thresh,
        "all": figures("all", None),
        "per_class": [figures(name, class_id) for class_id, name in enumerate(outcome.class_names)],
    }


def _masses(outcome: Outcome, class_id: int | None) -> dict[str, Any] | None:
    """Grams of all predictions against all weighed particles, and the errors of pairs."""
    if outcome.masses is None:
        return None
    figures: Mapping[str, Any] = outcome.masses["all"] if class_id is None else outcome.masses["per_class"][class_id]
    pairs = figures[f"iou{as_percent(IOU_THRESHOLDS[0])}"]
    return (
        {name: figures[name] for name in _MASS_COUNTS}
        | {f"{side}_g": figures["total"][side] for side in ("true", "predicted", "error")}
        | {"error_percent": figures["total"]["percent"], "share_percent": figures["share"]}
        | {"pairs": pairs["weighed_pairs"], **pairs["particle"]}
        | {key: pairs[key] for key in ("power_law",) if key in pairs}
    )


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")


def image_errors(outcome: Outcome) -> pd.DataFrame:
    """What went wrong in each image, the worst first.

    Returns:
        one row per image: image_id, particles, predictions, missed, false, wrong_class, mass_error (sum over the
        pairs of equal classes) and badness.
    """
    pairs, extras = outcome.pairs, outcome.reported[outcome.reported["match50"] < 0]
    wrong = pairs["true_class"] != pairs["predicted_class"]
    true = pairs["true_mass"]
    error = ((pairs["predicted_mass"] - true).abs() / true.where(true > 0)).clip(upper=1).fillna(0)
    ids = pd.Index([image["id"] for image in outcome.truth["images"]], name="image_id")
    counts = {
        "particles": outcome.particles.groupby("image_id").size(),
        "predictions": outcome.reported.groupby("image_id").size(),
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


def confusion_matrix(outcome: Outcome) -> np.ndarray:
    """Counts of particles from the score on that counts.

    Returns:
        int64 (C + 1, C + 1): true class x predicted class. The last column counts missed particles, the last row
        predictions where there is no particle; the last cell is 0.
    """
    classes = len(outcome.class_names)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(matrix, (outcome.pairs["true_class"], outcome.pairs["predicted_class"]), 1)
    extras = outcome.reported[outcome.reported["match50"] < 0]
    np.add.at(matrix[classes], extras["class_id"].to_numpy(), 1)
    objects = np.bincount(outcome.particles["class_id"], minlength=classes)
    matrix[:classes, classes] = objects - matrix[:classes, :classes].sum(axis=1)
    return matrix
