"""Images of what the network is fed, and of how a config's grids fit it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_backbone
from detectron2.utils.env import seed_all_rng
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..analysis.drawing import draw_instances
from ..errors import RamsesError
from .assignment_statistics import Assignment, AssignmentStatistics
from .mapper import RamsesDatasetMapper

_MARGIN = 6  # px between the images of a sheet
_LONGEST = 1600  # px of an image on a sheet


def mapped_items(cfg: CfgNode, names: Sequence[str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield training items as the mapper makes them, augmentation included, spread over the data sets.

    Args:
        cfg: config of the network.
        names: registered data sets.
        count: items at the most, 0 = one per image.
        seed: same seed, same augmentation.

    Raises:
        RamsesError: data sets without images, or an image that cannot be read.
    """
    dataset_dicts = [dataset_dict for name in names for dataset_dict in DatasetCatalog.get(name)]
    if not dataset_dicts:
        raise RamsesError(f"{', '.join(names)}: no image in it")
    mapper = RamsesDatasetMapper(cfg, is_train=True)
    chosen = (
        np.linspace(0, len(dataset_dicts) - 1, min(count or len(dataset_dicts), len(dataset_dicts))).round().astype(int)
    )
    for position in chosen:
        seed_all_rng(seed + int(position))
        yield mapper(dataset_dicts[position])


def contact_sheet(
    items: Iterable[dict[str, Any]], class_names: Sequence[str], image_format: str, *, columns: int = 3
) -> np.ndarray:
    """Training items side by side: augmented image, outlines of the label map, class and grams.

    Args:
        items: see :func:`mapped_items`.
        class_names: of the class ids.
        image_format: "RGB" or "BGR", ``INPUT.FORMAT``.
        columns: images side by side.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    drawn = []
    for item in items:
        image = item["image"].permute(1, 2, 0).numpy()
        truth = item["instances"]
        # Mask R-CNN's items have no label map of their own
        label_map = item["label_map"] if "label_map" in item else truth.gt_masks.label_map
        labels = cv2.resize(
            label_map.numpy().astype(np.uint16), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT
        )
        image_file = draw_instances(
            np.ascontiguousarray(image[:, :, ::-1] if image_format == "BGR" else image),
            labels,
            truth.gt_classes.numpy(),
            masses=truth.gt_masses.numpy(),
            class_names=class_names,
            alpha=0.15,
        )
        shrink = min(1.0, _LONGEST / max(image_file.shape))
        drawn.append(cv2.resize(image_file, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA))
    height, width = (max(image_file.shape[axis] for image_file in drawn) for axis in (0, 1))
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    sheet = np.full((rows * (height + _MARGIN) - _MARGIN, columns * (width + _MARGIN) - _MARGIN, 3), 255, np.uint8)
    for index, image_file in enumerate(drawn):
        y, x = (index // columns) * (height + _MARGIN), (index % columns) * (width + _MARGIN)
        sheet[y : y + image_file.shape[0], x : x + image_file.shape[1]] = image_file
    return sheet


def assignment_of(cfg: CfgNode) -> Assignment:
    """The keys of a config that decide which cell predicts which object; the strides are those of its backbone."""
    ramses = cfg.MODEL.RAMSES
    shapes = build_backbone(cfg).output_shape()
    missing = sorted(set(ramses.IN_FEATURES) - set(shapes))
    if missing:
        raise RamsesError(f"MODEL.RAMSES.IN_FEATURES: no level {missing}, the backbone gives {sorted(shapes)}")
    return Assignment(
        strides=tuple(shapes[name].stride for name in ramses.IN_FEATURES),
        grid_sizes=tuple(ramses.GRID_SIZES),
        scale_ranges=tuple(tuple(pair) for pair in ramses.SCALE_RANGES),
        offset_factor=ramses.OFFSET_FACTOR,
        square_grids=ramses.SQUARE_GRIDS,
        level_rule=ramses.LEVEL_RULE,
    )


def scale_figure(statistics: AssignmentStatistics, assignment: Assignment, level_names: Sequence[str]) -> Figure:
    """Histogram of object scales, one colour and hatch per set of levels, with each level's range below it."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    scales = np.maximum(statistics.scales, 1)
    edges = np.geomspace(max(1, scales.min(initial=1) * 0.9), scales.max(initial=2) * 1.1, 41)
    for index, levels in enumerate(sorted(set(statistics.levels.tolist()))):
        names = [name for position, name in enumerate(level_names) if levels >> position & 1]
        above.hist(
            scales[statistics.levels == levels],
            edges,
            histtype="stepfilled",
            alpha=0.6,
            hatch=("", "///", "...", "\\\\\\", "xxx")[index % 5],
            edgecolor="black",
            label=" + ".join(names) or "no level",
        )
    above.set(xscale="log", ylabel="objects", title=_headline(statistics))
    above.legend(title="taken by")
    for position, (name, (low, high)) in enumerate(zip(level_names, assignment.scale_ranges, strict=True)):
        below.barh(position, high - low, left=low, height=0.6, color="0.7", edgecolor="black")
        below.text(
            max(low, edges[0]) * 1.05,
            position,
            f"{name}: grid {assignment.grid_sizes[position]}",
            va="center",
            fontsize=9,
        )
    below.set(yticks=[], xlabel="scale, sqrt(box height x box width), px of the network input")
    below.set_xlim(edges[0], max(edges[-1], min(assignment.scale_ranges[-1][1], edges[-1] * 2)))
    below.invert_yaxis()
    return figure


def _headline(statistics: AssignmentStatistics) -> str:
    return (
        f"{statistics.objects} objects in {statistics.images} images, {statistics.share_with_cell:.1%} with a "
        f"cell, {np.mean(statistics.positives_per_image):.0f} positive cells an image"
    )


def statistics_table(
    statistics: AssignmentStatistics, assignment: Assignment, level_names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per level: stride, grid, range, objects, objects left without a cell there, cells, contested cells."""
    return [
        {
            "level": name,
            "stride": assignment.strides[index],
            "grid": assignment.grid_sizes[index],
            "range": "{:g}-{:g}".format(*assignment.scale_ranges[index]),
            "objects": statistics.objects_per_level[index],
            "lost": statistics.lost_per_level[index],
            "cells": statistics.cells_per_level[index],
            "contested": statistics.contested_per_level[index],
        }
        for index, name in enumerate(level_names)
    ]
