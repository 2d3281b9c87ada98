"""Images of what the network is fed, and of how a config's grids fit it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_backbone
from detectron2.utils.env import seed_all_rng
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.draw import draw_instances
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.targets import ObjectGeometry, grid_shape, level_membership, object_geometry, paint_grid

# Share of the objects of a level that its suggested grid gives at least one cell
_WANTED_SHARE = 0.995
_LARGEST_GRID = 256


@dataclass(frozen=True)
class Assignment:
    """The keys that decide which cell predicts which object, see config.py.

    Attributes:
        strides, grid_sizes, scale_ranges: of the L levels, fine to coarse.
        offset_factor, square_grids, level_rule: as in ``MODEL.RAMSES``.
    """

    strides: tuple[int, ...]
    grid_sizes: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    offset_factor: float
    square_grids: bool = False
    level_rule: str = "ramses"


@dataclass(frozen=True)
class MappedImage:
    """What assignment needs of a training image.

    Attributes:
        geometry: of its K objects.
        size: height and width of the network input, px.
    """

    geometry: ObjectGeometry
    size: tuple[int, int]

    @property
    def scales(self) -> np.ndarray:
        """(K,) sqrt(box height * box width), px of the network input."""
        sides = self.geometry.sizes * (torch.tensor(self.size) - 1)
        return sides.prod(dim=1).sqrt().numpy()


@dataclass(frozen=True)
class AssignmentStatistics:
    """Totals over images.

    Attributes:
        images, objects: how many were looked at.
        objects_without_cell: objects that no cell of any level predicts; the network cannot learn them.
        objects_per_level: (L,) objects that a level takes; one object can be at several levels.
        lost_per_level: (L,) of them, those whose cells all went to smaller objects.
        cells_per_level: (L,) positive cells.
        contested_per_level: (L,) cells that more than one object claims.
        positives_per_picture: positive cells of each image.
        scales: of all objects, px of the network input.
        levels: for each object, a bit mask of its levels.
    """

    images: int
    objects: int
    objects_without_cell: int
    objects_per_level: list[int]
    lost_per_level: list[int]
    cells_per_level: list[int]
    contested_per_level: list[int]
    positives_per_image: list[int]
    scales: np.ndarray
    levels: np.ndarray

    @property
    def share_with_cell(self) -> float:
        """Share of the objects that at least one cell predicts; NaN without objects."""
        return 1 - self.objects_without_cell / self.objects if self.objects else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Figures without the per-object arrays."""
        positives = np.array(self.positives_per_image or [0])
        return {
            "pictures": self.images,
            "objects": self.objects,
            "objects_without_cell": self.objects_without_cell,
            "share_with_cell": self.share_with_cell,
            "objects_per_level": self.objects_per_level,
            "lost_per_level": self.lost_per_level,
            "cells_per_level": self.cells_per_level,
            "contested_per_level": self.contested_per_level,
            "positives_per_picture": {"mean": float(positives.mean()), "max": int(positives.max())},
            "scale_px": {
                f"p{q}": float(np.percentile(self.scales, q)) for q in (1, 5, 25, 50, 75, 95, 99) if self.objects
            },
        }


def mapped_image(item: dict[str, Any]) -> MappedImage:
    """Reduce a training item of the mapper to what assignment needs."""
    geometry = object_geometry(item["label_map"], len(item["instances"]))
    return MappedImage(geometry, tuple(item["image"].shape[-2:]))


def _claims(geometry: ObjectGeometry, shape: tuple[int, int], offset_factor: float) -> np.ndarray:
    """(rows, cols) number of objects that claim each cell: one object painted at a time cannot cover another."""
    claims = np.zeros(shape, np.int64)
    one = torch.ones(1, dtype=torch.int64)
    for index in range(len(geometry)):
        alone = ObjectGeometry(geometry.centers[index : index + 1], geometry.sizes[index : index + 1])
        claims += paint_grid(alone, one, shape, offset_factor).numpy()
    return claims


def assignment_statistics(images: Iterable[MappedImage], assignment: Assignment) -> AssignmentStatistics:
    """Assign the objects of images to cells and count.

    Args:
        images: see :func:`mapped_image`.
        assignment: the keys to try.
    """
    levels = len(assignment.strides)
    totals = np.zeros((4, levels), np.int64)
    without, positives, scales, memberships, number = 0, [], [np.zeros(0)], [np.zeros(0, np.int64)], 0
    for image in images:
        number += 1
        membership = level_membership(
            image.geometry.sizes, image.size, assignment.strides, assignment.scale_ranges, assignment.level_rule
        )
        labels = torch.arange(1, len(image.geometry) + 1)
        seen: set[int] = set()
        cells = 0
        for level, (member, grid) in enumerate(zip(membership, assignment.grid_sizes, strict=True)):
            shape = grid_shape(grid, *image.size, square=assignment.square_grids)
            geometry = ObjectGeometry(image.geometry.centers[member], image.geometry.sizes[member])
            painted = paint_grid(geometry, labels[member], shape, assignment.offset_factor).numpy()
            owners = set(np.unique(painted[painted > 0]).tolist())
            contested = int((_claims(geometry, shape, assignment.offset_factor) > 1).sum())
            totals[:, level] += len(geometry), len(geometry) - len(owners), np.count_nonzero(painted), contested
            seen |= owners
            cells += np.count_nonzero(painted)
        without += len(labels) - len(seen)
        positives.append(int(cells))
        scales.append(image.scales)
        memberships.append((membership.long() << torch.arange(levels)[:, None]).sum(0).numpy())
    return AssignmentStatistics(
        number,
        sum(map(len, scales)),
        without,
        *(row.tolist() for row in totals),
        positives,
        np.concatenate(scales),
        np.concatenate(memberships),
    )


def suggest_assignment(images: Sequence[MappedImage], assignment: Assignment) -> Assignment:
    """Grid sizes and scale ranges that fit a data set, for the levels and the other keys of a config.

    Ranges double from level to level and overlap by half, as in the original's recipe (reference section 1.4). The
    first one ends at twice the 25th percentile of the scales, so that the finest level, which sees best, learns from
    many objects; later, if the largest objects would otherwise be beyond the last. A cell of a grid is half as large
    as the small objects of its level (their 5th percentile), or smaller where that leaves more than 0.5 % of the
    objects of the level without a cell.

    Args:
        images: a sample of the training data.
        assignment: a config's keys; strides, offset factor and rule are kept.
    """
    scales = np.concatenate([image.scales for image in images] or [np.zeros(0)])
    if not len(scales):
        raise ValueError("no object in the images: nothing to fit")
    levels = len(assignment.strides)
    long_side = max(max(image.size) for image in images)
    quarter, largest = np.percentile(scales, (25, 98))
    first = _round_up(max(2 * quarter, largest / 2 ** (levels - 1)), 8)
    ranges: list[tuple[float, float]] = [(1, first)]
    for _ in range(levels - 1):
        high = ranges[-1][1]
        ranges.append((high // 2, 2 * high))
    ranges[-1] = (ranges[-1][0], max(long_side, ranges[-1][0] + 1))
    fitted = replace(assignment, scale_ranges=tuple(ranges))
    membership = _memberships(images, fitted)
    grids = []
    for level in range(levels):
        own = scales[membership[level]]
        half = (float(np.percentile(own, 5)) if len(own) else fitted.scale_ranges[level][0]) / 2
        grids.append(_coarsest_grid(images, fitted, level, _round_up(long_side / half, 4)))
    for level in range(levels - 2, -1, -1):  # a finer level never has the coarser grid
        grids[level] = max(grids[level], grids[level + 1])
    return replace(fitted, grid_sizes=tuple(grids))


def _memberships(images: Sequence[MappedImage], assignment: Assignment) -> np.ndarray:
    """(L, K of all images) bool: which levels take which object."""
    strides, ranges, rule = assignment.strides, assignment.scale_ranges, assignment.level_rule
    return np.concatenate(
        [level_membership(p.geometry.sizes, p.size, strides, ranges, rule).numpy() for p in images], axis=1
    )


def _coarsest_grid(images: Sequence[MappedImage], assignment: Assignment, level: int, start: int) -> int:
    """The smallest grid size from ``start`` on, in steps of 4, with which enough objects of a level get a cell."""
    for grid in range(start, _LARGEST_GRID + 1, 4):
        taken = lost = 0
        for image in images:
            member = level_membership(
                image.geometry.sizes, image.size, assignment.strides, assignment.scale_ranges, assignment.level_rule
            )[level]
            geometry = ObjectGeometry(image.geometry.centers[member], image.geometry.sizes[member])
            shape = grid_shape(grid, *image.size, square=assignment.square_grids)
            painted = paint_grid(geometry, torch.arange(1, len(geometry) + 1), shape, assignment.offset_factor)
            taken += len(geometry)
            lost += len(geometry) - int((painted.unique() > 0).sum())
        if lost <= (1 - _WANTED_SHARE) * taken:
            return grid
    return _LARGEST_GRID


def _round_up(value: float, step: int) -> int:
    return max(step, int(np.ceil(value / step)) * step)


_MARGIN = 6  # px between the images of a sheet
_LONGEST = 1600  # px of an image on a sheet


def mapped_items(cfg: CfgNode, names: Sequence[str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield training items as the mapper makes them, augmentation included, spread over the data sets.

    Args:
        cfg: config of the network.
        names: registered data sets.
        count: items at the most, 0 = one per image.
        seed: same seed, same augmentation.
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
