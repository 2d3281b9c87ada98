"""Everything an evaluation found out, computed once for the tables, files and images made of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .coco_ap import Curves, coco_curves
from .mass_metrics import evaluate_masses, flatten_masses
from .matching import IOU_THRESHOLDS, pair_table, prediction_table, truth_table
from .power_law import PowerLaw


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
