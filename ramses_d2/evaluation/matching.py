"""Which prediction is which particle: pairs by mask IoU, whatever their classes.

A particle of the wrong class still has a mass, so classes are recorded and not required to agree.

Shape letters: P predictions and G particles of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils

IOU_THRESHOLDS = (0.5, 0.75)


def mask_iou(predicted: Sequence[dict[str, Any]], true: Sequence[dict[str, Any]]) -> np.ndarray:
    """Pairwise IoU of COCO RLEs of one image, float64 (P, G)."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    return np.asarray(mask_utils.iou(list(predicted), list(true), [False] * len(true)))


def greedy_match(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Give each prediction, by decreasing score, the free particle it overlaps best.

    Leaving out predictions below a score changes nothing for the others.

    Args:
        iou: (P, G).
        scores: (P,).
        threshold: least IoU of a pair.

    Returns:
        (P,) int64 index of the particle, -1 = none.
    """
    matches = np.full(len(scores), -1, dtype=np.int64)
    if iou.size == 0:
        return matches
    free = iou.copy()
    for index in np.argsort(-scores, kind="stable"):
        best = free[index].argmax()
        if free[index, best] >= threshold:
            matches[index] = best
            free[:, best] = -1
    return matches


def truth_table(annotations: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per annotation of a COCO ground truth.

    Returns:
        image_id, label, class_id (from 0), mass (g, NaN unknown), gt_mass, area (px), resolution (px/mm, NaN
        unknown).
    """
    table = pd.DataFrame(
        annotations, columns=["image_id", "label", "category_id", "mass", "gt_mass", "area", "resolution"]
    )
    table["class_id"] = table.pop("category_id").astype(np.int64) - 1
    return table.astype({"mass": float, "area": float, "resolution": float})


def prediction_table(
    annotations: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], crowd: Sequence[dict[str, Any]] = ()
) -> pd.DataFrame:
    """One row per COCO result, with the particles it is matched to.

    Args:
        annotations: of the COCO ground truth, without crowd regions; the table refers to them by position.
        results: COCO results with segmentation and, possibly, mass.
        crowd: the crowd regions of the ground truth.

    Returns:
        In the order of ``results``: image_id, prediction (position in its image), class_id (from 0), score,
        mass (g, NaN unknown), area (px), nearest (particle of highest IoU if that is 0.5 or more, taken or
        not; -1 = none) and for each threshold of :data:`IOU_THRESHOLDS`, in percent, match50 (particle, -1 =
        none) and iou50; in_crowd (matched to no particle at the first threshold, and at least that share of it
        lies in a crowd region: nothing can be said of it).
    """
    table = pd.DataFrame(results, columns=["image_id", "category_id", "score", "mass"])
    table["class_id"] = table.pop("category_id").astype(np.int64) - 1
    table = table.astype({"score": float, "mass": float})
    table["prediction"] = table.groupby("image_id").cumcount()
    rles = [result["segmentation"] for result in results]
    # One by one: of 256 and more at once, pycocotools 2.0.11 with NumPy 2 raises OverflowError
    table["area"] = [float(mask_utils.area(rle)) for rle in rles]

    in_truth = pd.Series([annotation["image_id"] for annotation in annotations], dtype=object)
    particles = {image_id: rows.index.to_numpy() for image_id, rows in in_truth.groupby(in_truth)}
    columns = {"nearest": np.full(len(table), -1)}
    for percent in map(as_percent, IOU_THRESHOLDS):
        columns |= {f"match{percent}": np.full(len(table), -1), f"iou{percent}": np.full(len(table), np.nan)}
    for image_id, rows in table.groupby("image_id").indices.items():
        if image_id not in particles:
            continue
        here = particles[image_id]
        iou = mask_iou([rles[row] for row in rows], [annotations[row]["segmentation"] for row in here])
        best = iou.argmax(axis=1)
        columns["nearest"][rows] = np.where(iou.max(axis=1) >= IOU_THRESHOLDS[0], here[best], -1)
        for threshold in IOU_THRESHOLDS:
            percent = as_percent(threshold)
            match = greedy_match(iou, table["score"].to_numpy()[rows], threshold)
            paired = match >= 0
            columns[f"match{percent}"][rows[paired]] = here[match[paired]]
            columns[f"iou{percent}"][rows[paired]] = iou[paired, match[paired]]
    columns["in_crowd"] = _in_crowd(table, rles, crowd) & (columns[f"match{as_percent(IOU_THRESHOLDS[0])}"] < 0)
    return table.assign(**columns)


def _in_crowd(table: pd.DataFrame, rles: Sequence[dict[str, Any]], crowd: Sequence[dict[str, Any]]) -> np.ndarray:
    """Which predictions lie in a crowd region of their image, bool (P,)."""
    inside = np.zeros(len(table), dtype=bool)
    images = table.groupby("image_id").indices
    for region in crowd:
        rows = images.get(region["image_id"], ())
        if len(rows):
            # With a crowd region, COCO's IoU is the share of the prediction that lies in it
            share = mask_utils.iou([rles[row] for row in rows], [region["segmentation"]], [True])
            inside[rows] |= np.asarray(share)[:, 0] >= IOU_THRESHOLDS[0]
    return inside


def pair_table(truth: pd.DataFrame, predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The matched pairs, by decreasing score within an image.

    Args:
        truth: :func:`truth_table`.
        predictions: rows of :func:`prediction_table`.
        threshold: one of :data:`IOU_THRESHOLDS`.

    Returns:
        image_id, label, prediction, iou, score, true_class, predicted_class (ids), true_mass, predicted_mass
        (g), gt_mass, true_area, predicted_area (px), resolution (px/mm).
    """
    percent = as_percent(threshold)
    paired = predictions[predictions[f"match{percent}"] >= 0]
    paired = paired.sort_values(["image_id", "score"], ascending=[True, False], kind="stable")
    particles = truth.loc[paired[f"match{percent}"].to_numpy()].reset_index(drop=True)
    paired = paired.reset_index(drop=True)
    return pd.DataFrame(
        {
            "image_id": paired["image_id"],
            "label": particles["label"],
            "prediction": paired["prediction"],
            "iou": paired[f"iou{percent}"],
            "score": paired["score"],
            "true_class": particles["class_id"],
            "predicted_class": paired["class_id"],
            "true_mass": particles["mass"],
            "predicted_mass": paired["mass"],
            "gt_mass": particles["gt_mass"],
            "true_area": particles["area"],
            "predicted_area": paired["area"],
            "resolution": particles["resolution"],
        }
    )


def as_percent(threshold: float) -> int:
    """0.5 -> 50, as in AP50."""
    return round(100 * threshold)
