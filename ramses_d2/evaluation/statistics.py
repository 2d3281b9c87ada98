"""The figures of an evaluation as test_stats.json has them: of all classes together, and of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .confusion import confusion_matrix
from .matching import IOU_THRESHOLDS, as_percent
from .outcome import Outcome

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
