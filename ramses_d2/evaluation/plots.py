"""Plots and drawings of an evaluation: confusion matrix, precision over recall, ground truth beside prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from detectron2.utils.events import get_event_storage
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ramses_d2.data.images import read_image
from ramses_d2.draw import Color, caption_font, draw_instances
from ramses_d2.evaluation.coco import RECALLS, Curves
from ramses_d2.evaluation.result import EvaluationResult
from ramses_d2.masks import paint_segmentations

MISSED, BACKGROUND = "(missed)", "(background)"
# Inches: side of a cell, least side of all cells, a letter of a class name, margins for the rest
_CELL, _LEAST, _LETTER = 0.58, 3.4, 0.078
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.5, 0.2, 0.55, 0.55
_LONGEST_NAME = 24


def confusion_table(matrix: np.ndarray, class_names: tuple[str, ...]) -> pd.DataFrame:
    """The counts with names: a row per true class and "(background)", a column per predicted class and "(missed)"."""
    return pd.DataFrame(
        matrix,
        index=pd.Index([*class_names, BACKGROUND], name="true class"),
        columns=[*class_names, MISSED],
    )


def draw_confusion(matrix: np.ndarray, class_names: tuple[str, ...], report_thresh: float) -> Figure:
    """Counts, and shares of each true class in percent, as numbers on shades of grey."""
    total = matrix.sum(axis=1, keepdims=True)
    total[-1] = 0  # extras are counts alone, there is no true number of them
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    names = [_short(name) for name in class_names]
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(matrix) > 4 else {}
    letters = _LETTER * max(map(len, [*names, BACKGROUND]))
    side = max(_CELL * len(matrix), _LEAST)
    left, below = _LEFT + letters, _BELOW + (0.75 * letters if slanted else 0)
    width, height = left + side + _RIGHT, below + side + _ABOVE
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    axes.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        percent = f"\n{100 * share[row, column]:.0f} %" if total[row] else ""
        color = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, f"{matrix[row, column]}{percent}", ha="center", va="center", fontsize=8, color=color)
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [*names, MISSED], **slanted)
    axes.set_yticks(ticks, [*names, BACKGROUND])
    # The last row and column are no classes
    for line in (axes.axhline, axes.axvline):
        line(len(matrix) - 1.5, color="black", linewidth=1.2)
    axes.set_xticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(
        f"Particles at mask IoU 0.5, score {report_thresh:g} or more\n(count, % of the true class)", fontsize=10
    )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


IOUS = (0.5, 0.75)
_DASHES = ("-", "--", "-.", ":")


def precision_recall_table(curves: Curves) -> pd.DataFrame:
    """One row per class, IoU and recall: precision (interpolated as COCO does, 0 where the recall is never reached) and
    score.

    From the score on predictions reach the recall, NaN where none do. Classes without ground truth have no rows.
    """
    tables = []
    for iou in IOUS:
        precision, scores = curves.at(iou)
        for class_id, name in enumerate(curves.class_names):
            if precision[0, class_id] < 0:
                continue
            reached = precision[:, class_id] > 0
            columns = {"recall": RECALLS, "precision": precision[:, class_id]}
            columns["score"] = np.where(reached, scores[:, class_id], np.nan)
            tables.append(pd.DataFrame({"class": name, "iou": iou} | columns))
    columns = ["class", "iou", "recall", "precision", "score"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def draw_precision_recall(curves: Curves, report_thresh: float) -> Figure:
    """Precision at both IoUs, and at the lower one the score for each recall, for the choice of a threshold."""
    table = precision_recall_table(curves)
    names = [name for name in curves.class_names if (table["class"] == name).any()]
    rows = -(-(len(names) + 1) // 4)
    height = 4.55 + 0.2 * rows
    figure = Figure(figsize=(13, height), dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    below = 0.65 + 0.2 * rows  # inches for the names of the axes and the legend
    figure.subplots_adjust(left=0.05, right=0.985, top=1 - 0.35 / height, bottom=below / height, wspace=0.18)
    for axes, iou in zip(panels, IOUS, strict=False):
        _draw(axes, table[table["iou"] == iou], names, "precision")
        mean = table[table["iou"] == iou].groupby("recall")["precision"].mean()
        axes.plot(mean.index, mean, color="black", linewidth=2.6, label="mean of the classes")
        axes.set_title(f"Precision at mask IoU {iou:g}", fontsize=11)
    _draw(panels[2], table[table["iou"] == IOUS[0]], names, "score")
    panels[2].axhline(report_thresh, color="black", linewidth=1)
    panels[2].annotate(
        f"REPORT_THRESH {report_thresh:g}", (0, report_thresh), (3, 3), textcoords="offset points", fontsize=8
    )
    panels[2].set_title(f"Least score for a recall, mask IoU {IOUS[0]:g}", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, handlelength=3.5)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, names: list[str], column: str) -> None:
    for index, name in enumerate(names):
        rows = table[table["class"] == name]
        axes.plot(
            rows["recall"],
            rows[column],
            color=_color(index, len(names)),
            linestyle=_DASHES[index % len(_DASHES)],  # told apart without colours, too
            linewidth=1.4,
            label=_short(name),
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel=column)
    axes.grid(color="0.9")


def _color(index: int, count: int) -> np.ndarray:
    """Hues spread over the classes, dark enough for a white page."""
    return hsv_to_rgb((index / max(count, 1), 0.9, 0.75 if index % 2 else 0.6))


# What became of a particle or a prediction, in colours that readers who see no red and green tell apart, too
RIGHT, WRONG_CLASS, ALONE = range(3)
COLORS: tuple[Color, ...] = ((86, 180, 233), (250, 220, 60), (213, 60, 0))
# Side of the image that is drawn on, px: larger ones are reduced first
_LONGEST = 1600
_LONGEST_STORED = 900  # in TensorBoard, which keeps the images in its event file
_GAP = 8
# Wider images stand one above the other
_WIDE = 2.5


def compare_image(result: EvaluationResult, dataset_dict: dict[str, Any], longest: int = _LONGEST) -> np.ndarray:
    """Ground truth on the left, or above where images are wide, and the reported predictions: (h, w, 3) uint8 RGB.

    ``longest`` is the largest side of each of the two drawings, px.
    """
    particles = result.particles[result.particles["image_id"] == dataset_dict["image_id"]]
    reported = result.reported[result.reported["image_id"] == dataset_dict["image_id"]]
    found = np.where(reported["match50"] < 0, ALONE, WRONG_CLASS)
    classes = result.particles["class_id"].reindex(reported["match50"]).to_numpy()
    found[classes == reported["class_id"]] = RIGHT
    paired = found != ALONE
    true = pd.Series(found[paired], reported["match50"][paired]).reindex(particles.index, fill_value=ALONE).to_numpy()

    image = _reduced(read_image(dataset_dict), _LONGEST)
    objects = [annotation for annotation in result.ground_truth["annotations"] if not annotation["iscrowd"]]
    drawings = {}
    for heading, rows, entries, states in (
        ("ground truth", particles, objects, true),
        ("prediction", reported, result.results, found),
    ):
        drawing = draw_instances(
            image,
            _label_map(rows, entries, dataset_dict, image.shape[:2]),
            rows["class_id"].to_numpy(),
            rows["score"].to_numpy() if "score" in rows else None,
            rows["mass"].to_numpy(),
            class_names=result.class_names,
            mode="instance",
            colors=[COLORS[state] for state in states],
            alpha=0.25,
        )
        drawings[heading] = _reduced(drawing, longest), f"{heading}: {_contents(rows)}", _legend(heading, states)
    # Particles of another size may have been enlarged more on one side
    size = max((drawing.shape[1::-1] for drawing, _, _ in drawings.values()), key=max)
    panels = [
        _with_heading(drawing if drawing.shape[1::-1] == size else cv2.resize(drawing, size), *texts)
        for drawing, *texts in drawings.values()
    ]
    axis = 0 if panels[0].shape[1] > _WIDE * panels[0].shape[0] else 1
    gap = np.full_like(panels[0][:_GAP] if axis == 0 else panels[0][:, :_GAP], 255)
    return np.concatenate([panels[0], gap, panels[1]], axis=axis)


def _label_map(
    rows: pd.DataFrame, entries: Sequence[dict[str, Any]], dataset_dict: dict[str, Any], shape: tuple[int, int]
) -> np.ndarray:
    """Label map (H, W) of this shape: k = row k - 1; small masks lie on large ones."""
    order = np.argsort(-rows["area"].to_numpy(), kind="stable")
    segmentations = [entries[row]["segmentation"] for row in rows.index[order]]
    labels = paint_segmentations(segmentations, (order + 1).tolist(), (dataset_dict["height"], dataset_dict["width"]))
    if labels.shape == shape:
        return labels
    return cv2.resize(labels.astype(np.uint16), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int32)


def _contents(rows: pd.DataFrame) -> str:
    masses = rows["mass"].dropna()
    return f"{len(rows)} particles" + (f", {masses.sum():.4g} g" if len(masses) else "")


def _legend(heading: str, states: np.ndarray) -> list[tuple[Color, str]]:
    """Colour and meaning of each state, with its count."""
    meanings = ("right", "other class", "missed" if heading == "ground truth" else "false")
    counts = np.bincount(states, minlength=len(COLORS))
    return [(color, f"{count} {text}") for color, count, text in zip(COLORS, counts, meanings, strict=True)]


def _with_heading(drawing: np.ndarray, text: str, legend: Sequence[tuple[Color, str]]) -> np.ndarray:
    """The drawing below a white strip of two lines: what it is, and the legend."""
    height, width = drawing.shape[:2]
    size = max(10, min(26, width // 28))
    strip = Image.new("RGB", (width, 3 * size), "white")
    draw, font = ImageDraw.Draw(strip), caption_font(size)
    draw.text((size // 2, 1.2 * size), text, "black", font, anchor="ls")
    x = size / 2
    for color, meaning in legend:
        draw.rectangle((x, 1.75 * size, x + 0.8 * size, 2.55 * size), fill=color, outline="black")
        draw.text((x + 1.1 * size, 2.5 * size), meaning, "black", font, anchor="ls")
        x += 2.2 * size + font.getlength(meaning)
    return np.concatenate([np.asarray(strip), drawing])


def _reduced(image: np.ndarray, longest: int) -> np.ndarray:
    shrink = longest / max(image.shape[:2])
    return image if shrink >= 1 else cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)


def store_images(result: EvaluationResult, dataset_dicts: Sequence[dict[str, Any]], count: int) -> None:
    """Put drawings into the storage of a training, as "valid/<image>": ``count`` images spread over the data set."""
    if not count:
        return
    try:
        storage = get_event_storage()
    except AssertionError:  # no training is going on; Detectron2 has no other way to ask
        return
    for index in np.unique(np.linspace(0, len(dataset_dicts) - 1, count).round().astype(int)):
        drawing = compare_image(result, dataset_dicts[index], _LONGEST_STORED)
        name = f"valid/{dataset_dicts[index]['image_name']}"
        storage.put_image(name, np.ascontiguousarray(drawing.transpose(2, 0, 1)))
