"""What an evaluation shows in the log and in evaluation.txt."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from .matching import IOU_THRESHOLDS, as_percent

_AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_WIDTH = 110
_AT_50 = f"iou{as_percent(IOU_THRESHOLDS[0])}"


def ap_tables(results: Mapping[str, Mapping[str, float]], class_names: Sequence[str], max_dets: int) -> str:
    """AP of each task and of each class, in percent.

    Args:
        results: task ("segm", "bbox") -> metrics of :func:`ramses_d2.evaluation.coco_ap.evaluate_ap`.
        class_names: class order.
        max_dets: limit of detections, for the heading.
    """
    columns = (*_AP_METRICS, f"AR@{max_dets}")
    by_task = [
        {"": task} | {name: _number(metrics[name], ".2f") for name in columns} for task, metrics in results.items()
    ]
    by_class = [
        {"class": name} | {f"{task} AP": f"{metrics[f'AP-{name}']:.2f}" for task, metrics in results.items()}
        for name in class_names
    ]
    heading = f"Average precision, % (at most {max_dets} predictions an image and class):"
    return "\n".join([heading, _table(by_task), _table(by_class)])


def mass_tables(masses: Mapping[str, Any], report_thresh: float) -> str:
    """The figures of :func:`ramses_d2.evaluation.mass_metrics.evaluate_masses`, in at most 110 columns."""
    whole = masses["all"]
    remarks = [*_remarks(whole), _composition(masses["per_class"]), _by_score(masses["total_by_score"])]
    return "\n".join(
        [
            f"Masses of predictions with a score of {report_thresh:g} or more, over matched pairs:",
            _table([_iou_row(whole, threshold) for threshold in IOU_THRESHOLDS]),
            f"By class, % and g (pairs at IoU {IOU_THRESHOLDS[0]:.2f}; total: all predictions, all weighed):",
            _table([_class_row(figures) for figures in (*masses["per_class"], whole)]),
            *(textwrap.fill(remark, _WIDTH, subsequent_indent="  ") for remark in remarks),
        ]
    )


def _iou_row(whole: Mapping[str, Any], threshold: float) -> dict[str, str]:
    at = whole[f"iou{as_percent(threshold)}"]
    errors = at["particle"]
    return {
        "IoU": f"{threshold:.2f}",
        "pairs": str(at["pairs"]),
        "class accuracy %": _number(at["class_accuracy"], ".2f"),
        "MAPE %": _number(errors["MAPE"], ".2f"),
        "median %": _number(errors["MedAPE"], ".2f"),
        "bias %": _number(errors["Bias"], "+.2f"),
        "MAE g": _number(errors["MAE"], ".4g"),
        "bias g": _number(errors["BiasGrams"], "+.4g"),
        "R2": _number(errors["R2"], ".4f"),
        "matched %": _number(at["total"]["percent"], "+.2f"),
    }


def _class_row(figures: Mapping[str, Any]) -> dict[str, str]:
    pairs, total = figures[_AT_50], figures["total"]
    return {
        "class": figures["class"][:18],
        "GT n": str(figures["ground_truth"]),
        "pred n": str(figures["predictions"]),
        "pairs": str(pairs["pairs"]),
        "MAPE": _number(pairs["particle"]["MAPE"], ".1f"),
        "median": _number(pairs["particle"]["MedAPE"], ".1f"),
        "bias": _number(pairs["particle"]["Bias"], "+.1f"),
        "GT g": _number(total["true"], ".5g"),
        "pred g": _number(total["predicted"], ".5g"),
        "total": _number(total["percent"], "+.1f"),
        "matched": _number(pairs["total"]["percent"], "+.1f"),
    }


def _composition(per_class: Sequence[Mapping[str, Any]]) -> str:
    shares = (
        f"{figures['class']} {_number(figures['share']['predicted'], '.1f')} "
        f"({_number(figures['share']['true'], '.1f')})"
        for figures in per_class
    )
    return "Composition by mass, predicted (true), %: " + ", ".join(shares)


def _by_score(totals: Sequence[Mapping[str, float]]) -> str:
    errors = (f"{entry['score']:g}: {_number(entry['percent'], '+.1f')}" for entry in totals)
    return "Total error by least score, %: " + ", ".join(errors)


def _remarks(whole: Mapping[str, Any]) -> list[str]:
    """A line each for the baseline and for masses that could not be judged."""
    remarks = []
    pairs = whole[_AT_50]
    if "power_law" in pairs:
        law = pairs["power_law"]
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
    return remarks


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns; all but the first are aligned to the right."""
    alignment = ["left"] + ["right"] * (len(rows[0]) - 1)
    return tabulate(rows, "keys", tablefmt="simple", disable_numparse=True, colalign=alignment)


def _number(value: float, spec: str) -> str:
    """A formatted number; "-" where it is undefined."""
    return format(value, spec) if math.isfinite(value) else "-"
