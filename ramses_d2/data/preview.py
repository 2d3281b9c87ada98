"""What the network is fed, as images, and how a config's grids fit it: counts, a plot and a suggestion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_backbone
from detectron2.utils.env import seed_all_rng
from matplotlib.figure import Figure

from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.draw import draw_instances
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.targets import ObjectGeometry, grid_shape, level_membership, object_geometry, paint_grid

# Share of the objects of a level that its suggested grid gives at least one cell
_WANTED_SHARE = 0.995
_LARGEST_GRID = 256
# Of a level: its objects, those whose cells all went to smaller ones, positive cells, cells that several objects claim
_COUNTS = ("objects", "lost", "cells", "contested")
_MARGIN = 6  # px between the images of a contact sheet
_LONGEST = 1600  # px of an image on it


def mapped_items(cfg: CfgNode, names: Sequence[str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield training items as the mapper makes them, ``count`` (0 = all) spread over the registered data sets."""
    dataset_dicts = [dataset_dict for name in names for dataset_dict in DatasetCatalog.get(name)]
    total = len(dataset_dicts)
    if not total:
        raise RamsesError(f"{', '.join(names)}: no image in it")
    mapper = RamsesDatasetMapper(cfg, is_train=True)
    for position in np.linspace(0, total - 1, min(count or total, total)).round().astype(int):
        seed_all_rng(seed + int(position))
        yield mapper(dataset_dicts[position])


def contact_sheet(items: Iterable[dict[str, Any]], class_names: Sequence[str], image_format: str) -> np.ndarray:
    """Training items side by side, (h, w, 3) uint8 RGB: the augmented image with masks, classes and masses in g."""
    drawn = []
    for item in items:
        image = item["image"].permute(1, 2, 0).numpy()
        ground_truth = item["instances"]
        # Mask R-CNN's items have no label map of their own
        label_map = item["label_map"] if "label_map" in item else ground_truth.gt_masks.label_map
        sketch = draw_instances(
            np.ascontiguousarray(image[:, :, ::-1] if image_format == "BGR" else image),
            cv2.resize(label_map.numpy().astype(np.uint16), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT),
            ground_truth.gt_classes.numpy(),
            masses=ground_truth.gt_masses.numpy(),
            class_names=class_names,
            alpha=0.15,
        )
        shrink = min(1.0, _LONGEST / max(sketch.shape))
        drawn.append(cv2.resize(sketch, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA))
    height, width = (max(sketch.shape[axis] for sketch in drawn) + _MARGIN for axis in (0, 1))
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    tiles = np.full((rows * columns, height, width, 3), 255, np.uint8)
    for tile, sketch in zip(tiles, drawn, strict=False):
        tile[: sketch.shape[0], : sketch.shape[1]] = sketch
    sheet = tiles.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return sheet[:-_MARGIN, :-_MARGIN]


@dataclass(frozen=True)
class Assignment:
    """The keys of ``MODEL.RAMSES`` that decide which cell predicts which object; levels from fine to coarse."""

    strides: tuple[int, ...]
    grid_sizes: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    offset_factor: float
    square_grids: bool = False
    level_rule: str = "ramses"


@dataclass(frozen=True)
class MappedImage:
    """What assignment needs of a training item: its K objects, and height and width of the network input in px."""

    geometry: ObjectGeometry
    size: tuple[int, int]

    @property
    def scales(self) -> np.ndarray:
        """(K,) sqrt(box height * box width), px of the network input."""
        sides = self.geometry.sizes * (torch.tensor(self.size) - 1)
        return sides.prod(dim=1).sqrt().numpy()

    def membership(self, assignment: Assignment) -> torch.Tensor:
        """(L, K) bool: which levels take which object."""
        strides, ranges, rule = assignment.strides, assignment.scale_ranges, assignment.level_rule
        return level_membership(self.geometry.sizes, self.size, strides, ranges, rule)

    def paint(self, objects: torch.Tensor | list[int], grid_size: int, assignment: Assignment) -> torch.Tensor:
        """(rows, cols) labels 1..K of the chosen objects on one grid, 0 = background."""
        labels = torch.arange(1, len(self.geometry) + 1)[objects]
        chosen = ObjectGeometry(self.geometry.centers[objects], self.geometry.sizes[objects])
        shape = grid_shape(grid_size, *self.size, square=assignment.square_grids)
        return paint_grid(chosen, labels, shape, assignment.offset_factor)


def mapped_image(item: dict[str, Any]) -> MappedImage:
    """Reduce a training item of the mapper to what assignment needs."""
    return MappedImage(object_geometry(item["label_map"], len(item["instances"])), tuple(item["image"].shape[-2:]))


def assignment_of(cfg: CfgNode) -> Assignment:
    """The keys of a config; the strides are those of its backbone."""
    ramses = cfg.MODEL.RAMSES
    shapes = build_backbone(cfg).output_shape()
    missing = sorted(set(ramses.IN_FEATURES) - set(shapes))
    if missing:
        raise RamsesError(f"MODEL.RAMSES.IN_FEATURES: no level {missing}, the backbone gives {sorted(shapes)}")
    strides = tuple(shapes[name].stride for name in ramses.IN_FEATURES)
    grids, ranges = tuple(ramses.GRID_SIZES), tuple(map(tuple, ramses.SCALE_RANGES))
    return Assignment(strides, grids, ranges, ramses.OFFSET_FACTOR, ramses.SQUARE_GRIDS, ramses.LEVEL_RULE)


@dataclass(frozen=True)
class AssignmentStatistics:
    """Counts over images; an object can be at several levels."""

    levels: pd.DataFrame  # a row per level: its keys, and what _COUNTS names
    objects_without_cell: int  # no cell of any level predicts them: the network cannot learn them
    positives: list[int]  # positive cells of each image
    scales: np.ndarray  # of all objects, px of the network input
    memberships: np.ndarray  # of all objects, a bit mask of their levels

    @property
    def share_with_cell(self) -> float:
        """Share of the objects that at least one cell predicts; NaN without objects."""
        return 1 - self.objects_without_cell / len(self.scales) if len(self.scales) else float("nan")

    def to_json(self) -> dict[str, Any]:
        """The counts without the arrays."""
        positives = self.positives or [0]
        percentiles = (1, 5, 25, 50, 75, 95, 99) if len(self.scales) else ()
        return {
            "pictures": len(self.positives),
            "objects": len(self.scales),
            "objects_without_cell": self.objects_without_cell,
            "share_with_cell": self.share_with_cell,
            **{f"{name}_per_level": self.levels[name].tolist() for name in _COUNTS},
            "positives_per_picture": {"mean": float(np.mean(positives)), "max": max(positives)},
            "scale_px": {f"p{q}": float(np.percentile(self.scales, q)) for q in percentiles},
        }


def assignment_statistics(images: Iterable[MappedImage], assignment: Assignment) -> AssignmentStatistics:
    """Assign the objects of images to cells and count."""
    counts = np.zeros((len(assignment.strides), 4), np.int64)
    without, positives, scales, memberships = 0, [], [np.zeros(0)], [np.zeros(0, np.int64)]
    for image in images:
        membership = image.membership(assignment)
        with_cell: set[int] = set()
        positives.append(0)
        for level, (member, grid) in enumerate(zip(membership, assignment.grid_sizes, strict=True)):
            painted = image.paint(member, grid, assignment)
            owners, cells = set(painted.unique().tolist()) - {0}, int(painted.count_nonzero())
            with_cell |= owners
            # An object that is painted alone covers no other
            alone = [image.paint([k], grid, assignment) > 0 for k in member.nonzero()[:, 0].tolist()]
            contested = int((sum(alone, torch.tensor(0)) > 1).sum())
            counts[level] += len(alone), len(alone) - len(owners), cells, contested
            positives[-1] += cells
        without += len(image.geometry) - len(with_cell)
        scales.append(image.scales)
        memberships.append((membership.long() << torch.arange(len(membership))[:, None]).sum(0).numpy())
    ranges = ["{:g}-{:g}".format(*limits) for limits in assignment.scale_ranges]
    levels = pd.DataFrame({"stride": assignment.strides, "grid": assignment.grid_sizes, "range": ranges})
    levels[list(_COUNTS)] = counts
    return AssignmentStatistics(levels, without, positives, np.concatenate(scales), np.concatenate(memberships))


def suggest_assignment(images: Sequence[MappedImage], assignment: Assignment) -> Assignment:
    """Grid sizes and scale ranges that fit a sample of training images; the other keys stay.

    Ranges double from level to level and overlap by half. The first one ends at twice the 25th percentile of the
    scales, so that the finest level, which sees best, learns from many objects; later, if the largest objects would
    otherwise be beyond the last. A cell of a grid is half as large as the small objects of its level (their 5th
    percentile), or smaller where that leaves more than 0.5 % of the objects of the level without a cell.
    """
    scales = np.concatenate([image.scales for image in images] or [np.zeros(0)])
    if not len(scales):
        raise RamsesError("no object in the training images that were looked at: nothing to fit GRID_SIZES to")
    levels = len(assignment.strides)
    long_side = max(max(image.size) for image in images)
    quarter, largest = np.percentile(scales, (25, 98))
    ranges: list[tuple[float, float]] = [(1, round_up(max(2 * quarter, largest / 2 ** (levels - 1)), 8))]
    while len(ranges) < levels:
        ranges.append((ranges[-1][1] // 2, 2 * ranges[-1][1]))
    ranges[-1] = (ranges[-1][0], max(long_side, ranges[-1][0] + 1))
    fitted = replace(assignment, scale_ranges=tuple(ranges))
    memberships = [image.membership(fitted) for image in images]
    grids: list[int] = []
    for level in reversed(range(levels)):
        members = [membership[level] for membership in memberships]
        own = scales[torch.cat(members).numpy()]
        half = (float(np.percentile(own, 5)) if len(own) else ranges[level][0]) / 2
        allowed = (1 - _WANTED_SHARE) * len(own)
        tried = range(round_up(long_side / half, 4), _LARGEST_GRID + 1, 4)
        coarsest = next((grid for grid in tried if _lost(images, members, grid, fitted) <= allowed), _LARGEST_GRID)
        grids.insert(0, max([coarsest, *grids[:1]]))  # a finer level never has the coarser grid
    return replace(fitted, grid_sizes=tuple(grids))


def _lost(images: Sequence[MappedImage], members: list[torch.Tensor], grid: int, assignment: Assignment) -> int:
    """How many objects of a level get no cell of a grid."""
    each = zip(images, members, strict=True)
    return sum(int(own.sum() - image.paint(own, grid, assignment).unique().count_nonzero()) for image, own in each)


def round_up(value: float, step: int) -> int:
    """The next multiple of ``step``, at least one."""
    return max(step, int(np.ceil(value / step)) * step)


def scale_plot(statistics: AssignmentStatistics, assignment: Assignment, level_names: Sequence[str]) -> Figure:
    """Histogram of object scales, one colour and hatch per set of levels, with each level's range below it."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    scales = np.maximum(statistics.scales, 1)
    edges = np.geomspace(max(1, scales.min(initial=1) * 0.9), scales.max(initial=2) * 1.1, 41)
    style = {"histtype": "stepfilled", "alpha": 0.6, "edgecolor": "black"}
    for index, levels in enumerate(np.unique(statistics.memberships)):
        label = " + ".join(name for bit, name in enumerate(level_names) if levels >> bit & 1) or "no level"
        hatch = ("", "///", "...", "\\\\\\", "xxx")[index % 5]
        above.hist(scales[statistics.memberships == levels], edges, label=label, hatch=hatch, **style)
    share, cells = statistics.share_with_cell, np.mean(statistics.positives)
    title = f"{len(scales)} objects in {len(statistics.positives)} images, {share:.1%} with a cell, "
    title += f"{cells:.0f} positive cells an image"
    above.set(xscale="log", ylabel="objects", title=title)
    above.legend(title="taken by")
    keys = zip(level_names, assignment.grid_sizes, assignment.scale_ranges, strict=True)
    for row, (name, grid, (low, high)) in enumerate(keys):
        below.barh(row, high - low, left=low, height=0.6, color="0.7", edgecolor="black")
        below.text(max(low, edges[0]) * 1.05, row, f"{name}: grid {grid}", va="center", fontsize=9)
    below.set(yticks=[], xlabel="scale, sqrt(box height x box width), px of the network input")
    below.set_xlim(edges[0], max(edges[-1], min(assignment.scale_ranges[-1][1], edges[-1] * 2)))
    below.invert_yaxis()
    return figure
