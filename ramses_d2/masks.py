"""Masks in every form: RLE encoded and decoded inside a box, segmentations and instances painted into label maps.

Shape letters: K instances, H W image, h w a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def encode_in_box(mask: np.ndarray, x0: int, y0: int, height: int, width: int) -> dict[str, Any]:
    """Encode a bool mask (h, w) whose box begins at (x0, y0); equals ``pycocotools.mask.encode`` of the full image."""
    h, w = mask.shape
    if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
        raise ValueError(f"box {w} x {h} at ({x0}, {y0}) is not inside an image of {width} x {height}")
    # One empty row below the box keeps the runs of neighbouring columns apart; every change in this
    # column-major sequence starts or ends a run
    columns = np.zeros((w, h + 1), dtype=np.int8)
    columns[:, :h] = np.asarray(mask, dtype=bool).T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0))
    column, row = np.divmod(changes, h + 1)
    edges = (x0 + column) * height + y0 + row
    # Where the box is as high as the image, a run may end exactly where the next column's run starts: join them
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def decode_in_box(rle: dict[str, Any], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Decode a compressed RLE inside a box (end exclusive): that part of ``pycocotools.mask.decode``, bool (h, w)."""
    height, _ = rle["size"]
    counts = _decode_counts(rle["counts"])
    edges = np.cumsum(counts)
    # Every change of the column-major sequence toggles the mask; a running sum over the box's columns restores it
    first, last = x0 * height, x1 * height
    toggles = np.zeros(last - first + 1, np.int8)
    starts, ends = edges[0::2][: len(edges) // 2], edges[1::2]
    np.add.at(toggles, np.clip(starts, first, last) - first, 1)
    np.add.at(toggles, np.clip(ends, first, last) - first, -1)
    columns = np.cumsum(toggles[:-1], dtype=np.int8).reshape(x1 - x0, height)
    return columns[:, y0:y1].T.astype(bool)


def _decode_counts(counts: bytes | str) -> np.ndarray:
    """Run lengths of a compressed COCO RLE (pycocotools has no public function for this).

    Each number is written in groups of 5 bits, least significant first, as characters from "0" on; bit 6 says that more
    follow. From the fourth number on, the difference to the number two before is stored.
    """
    codes = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    values, value, shift = [], 0, 0
    for code in codes.tolist():
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            values.append(value + values[-2] if len(values) > 2 else value)
            value, shift = 0, 0
    return np.array(values, np.int64)


def encode_label_map(label_map: np.ndarray, labels: Sequence[int]) -> list[dict[str, Any]]:
    """One COCO RLE of the full image per label of a label map; a label without pixels has an empty mask."""
    height, width = label_map.shape
    labels = [int(label) for label in labels]
    boxes = ndimage.find_objects(label_map, max(labels, default=0)) if labels else []
    rles = []
    for label in labels:
        box = boxes[label - 1]
        if box is None:
            rles.append(encode_in_box(np.zeros((0, 0), dtype=bool), 0, 0, height, width))
        else:
            rles.append(encode_in_box(label_map[box] == label, box[1].start, box[0].start, height, width))
    return rles


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as a compressed RLE."""
    if isinstance(segmentation, dict):
        packed = not isinstance(segmentation["counts"], list)
        return segmentation if packed else mask_utils.frPyObjects(segmentation, height, width)
    return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))


def json_rle(rle: dict[str, Any]) -> dict[str, Any]:
    """A compressed RLE with its counts as text, as JSON needs it."""
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def paint_segmentations(segmentations: Sequence[Any], labels: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Paint K COCO segmentations into one int32 label map (H, W), in the order given: later ones cover earlier ones."""
    label_map = np.zeros(shape, dtype=np.int32)
    for segmentation, label in zip(segmentations, labels, strict=True):
        mask, x0, y0 = _mask_in_box(segmentation, shape)
        label_map[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]][mask] = label
    return label_map


def _mask_in_box(segmentation: Any, shape: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Bool mask of one COCO segmentation inside its box, and the box's left and top."""
    height, width = shape
    if isinstance(segmentation, dict):
        rle = to_rle(segmentation, height, width)
        x0, y0, w, h = (int(v) for v in mask_utils.toBbox(rle))
        return decode_in_box(rle, x0, y0, x0 + w, y0 + h), x0, y0
    # Polygons are rasterised inside their box only: a full-size mask per object would cost K * H * W
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    x0, y0 = np.floor(points.min(axis=0)).astype(int).clip(0, (width - 1, height - 1)).tolist()
    x1, y1 = (np.ceil(points.max(axis=0)).astype(int) + 1).clip((x0 + 1, y0 + 1), (width, height)).tolist()
    shifted = [(np.reshape(polygon, (-1, 2)) - (x0, y0)).ravel().tolist() for polygon in segmentation]
    return mask_utils.decode(to_rle(shifted, y1 - y0, x1 - x0)).astype(bool), x0, y0


class RLEMasks(list):
    """A list of COCO RLEs that can be indexed like a tensor, so that ``Instances`` can hold it."""

    def __getitem__(self, index: Any) -> Any:
        """One RLE for an int, else RLEMasks: for a slice, or a bool or int sequence, array or tensor."""
        if isinstance(index, slice):
            return RLEMasks(super().__getitem__(index))
        if isinstance(index, torch.Tensor):
            index = index.cpu().numpy()
        index = np.asarray(index)
        if index.ndim == 0:
            return super().__getitem__(int(index))
        if index.dtype == bool:
            if len(index) != len(self):
                raise IndexError(f"a bool index of length {len(index)} for {len(self)} masks")
            index = np.flatnonzero(index)
        return RLEMasks(super(RLEMasks, self).__getitem__(int(i)) for i in index)

    def any(self, dim: int) -> torch.Tensor:
        """Union of the masks, as ``any(dim=0)`` of the (K, H, W) tensor; nothing but the union is ever decoded.

        Detectron2's Visualizer asks for it in ``ColorMode.IMAGE_BW``. An empty list, which has no size, gives a single
        False that broadcasts.
        """
        if dim != 0:
            raise ValueError(f"any(dim={dim}): RLE masks can be joined over the masks only, dim=0")
        if not self:
            return torch.tensor(False)
        return torch.from_numpy(mask_utils.decode(mask_utils.merge(list(self))).astype(bool))


def paint_label_image(
    masks: Iterable[np.ndarray], boxes: np.ndarray, scores: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Paint K masks (h, w) of whole-pixel boxes (K, 4) by ascending score: the surest instance owns a disputed pixel.

    Returns uint16 (H, W): 0 = background, instance index + 1 elsewhere. An instance hidden by surer ones has no pixel.
    """
    if len(scores) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(scores)} instances do not fit a 16-bit label image")
    labels = np.zeros(shape, np.uint16)
    masks = list(masks)
    for index in np.argsort(scores, kind="stable"):
        x0, y0, x1, y1 = (int(edge) for edge in boxes[index])
        labels[y0:y1, x0:x1][masks[index]] = index + 1
    return labels


def whole_boxes(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The smallest boxes of whole pixels that hold boxes (K, 4) XYXY of a network, inside an image (H, W)."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    grown = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    return np.clip(grown, 0, [shape[1], shape[0]] * 2).astype(np.int64)


def masks_in_boxes(masks: Sequence[Any], boxes: np.ndarray) -> Iterator[np.ndarray]:
    """``Instances.pred_masks``, RLE or tensor, as bool (h, w) arrays, each cut to its whole-pixel box (K, 4) XYXY."""
    for mask, (x0, y0, x1, y1) in zip(masks, np.asarray(boxes).astype(int), strict=True):
        if isinstance(mask, dict):
            yield decode_in_box(mask, x0, y0, x1, y1)
        else:
            yield mask[y0:y1, x0:x1].cpu().numpy()


# A part is a small component if it has few pixels and is small beside its particle's largest part, or is next to
# nothing beside it
SMALL_PIXELS, SMALL_SHARE, NEGLIGIBLE_SHARE = 10, 0.2, 0.01
# Columns of measure_particles; the body is the largest part, and `parts` does not count small components
PARTICLE_COLUMNS = [
    *("label", "area", "left", "top", "right", "bottom", "parts", "small", "small_pixels"),
    *("body_area", "body_left", "body_top", "body_right", "body_bottom"),
]


class Parts(NamedTuple):
    """The connected parts of all particles of a label map: R runs of equal labels in its rows make P parts."""

    start: np.ndarray  # (R,) first pixel of every run in the flattened label map
    length: np.ndarray  # (R,) px
    part: np.ndarray  # (R,) part of every run, 0 ... P - 1
    label: np.ndarray  # (P,) value in the label map
    area: np.ndarray  # (P,) px
    box: np.ndarray  # (P, 4) left, top, right, bottom, end exclusive, px
    is_body: np.ndarray  # (P,) the largest part of its particle
    is_small: np.ndarray  # (P,) a few stray pixels


def find_parts(label_map: np.ndarray) -> Parts:
    """The connected parts of every particle of an integer label map (H, W); pixels that touch at a corner are joined.

    An image of 25 million pixels has some 100 000 runs, and all measures follow from them: this takes a twentieth of
    the time of scikit-image's ``measure.label``.
    """
    height, width = label_map.shape
    first = np.ones((height, width), dtype=bool)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=first[:, 1:])
    start = np.flatnonzero(first)
    length = np.diff(start, append=height * width)
    value = label_map.ravel()[start].astype(np.int64)
    start, length, value = (array[value > 0] for array in (start, length, value))

    part = _join_runs(start, length, value, width)
    count = int(part.max(initial=-1)) + 1
    label = np.zeros(count, np.int64)
    label[part] = value
    row, column = np.divmod(start, width)
    box = np.tile([width, height, 0, 0], (count, 1))
    for side, coordinate in enumerate((column, row)):
        np.minimum.at(box[:, side], part, coordinate)
    for side, coordinate in ((2, column + length), (3, row + 1)):
        np.maximum.at(box[:, side], part, coordinate)
    area = np.bincount(part, weights=length, minlength=count).astype(np.int64)

    # The parts of a particle behind each other, the largest first
    order = np.lexsort((-area, label))
    leads = np.diff(label[order], prepend=0) != 0
    is_body = np.zeros(count, dtype=bool)
    is_body[order[leads]] = True
    largest = np.zeros(count, np.int64)
    largest[order] = area[order[leads]][np.cumsum(leads) - 1]
    is_small = (area <= SMALL_PIXELS) & (area <= SMALL_SHARE * largest)
    is_small |= area <= NEGLIGIBLE_SHARE * largest
    return Parts(start, length, part, label, area, box, is_body, is_small)


def _join_runs(start: np.ndarray, length: np.ndarray, value: np.ndarray, width: int) -> np.ndarray:
    """(R,) part of every run: runs of one value in neighbouring rows that touch, also at a corner, are joined."""
    row, column = np.divmod(start, width)
    stride = width + 1  # an end at the right border is not yet the next row's start
    begin, end = row * stride + column, row * stride + column + length
    # Runs j of the next row with end_j >= begin_i and begin_j <= end_i; both are sorted
    low = np.searchsorted(end, begin + stride, side="left")
    high = np.searchsorted(begin, end + stride, side="right")
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(start)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    same = value[upper] == value[lower]
    links = (np.ones(np.count_nonzero(same), dtype=bool), (upper[same], lower[same]))
    return connected_components(coo_array(links, shape=(len(start), len(start))), directed=False)[1]


def measure_particles(parts: Parts) -> np.ndarray:
    """Area, box, parts and largest part of every particle: int (K, 14), see PARTICLE_COLUMNS, sorted by label."""
    order = np.argsort(parts.label, kind="stable")
    leads = np.flatnonzero(np.diff(parts.label[order], prepend=0))
    if not len(leads):
        return np.zeros((0, len(PARTICLE_COLUMNS)), np.int64)
    area, box, small = parts.area[order], parts.box[order], parts.is_small[order].astype(np.int64)
    body = order[parts.is_body[order]]
    return np.column_stack(
        [
            parts.label[order[leads]],
            np.add.reduceat(area, leads),
            np.minimum.reduceat(box[:, :2], leads),
            np.maximum.reduceat(box[:, 2:], leads),
            *(np.add.reduceat(values, leads) for values in (1 - small, small, area * small)),
            parts.area[body],
            parts.box[body],
        ]
    )


def without_small_components(label_map: np.ndarray) -> np.ndarray:
    """A copy of the label map in which the stray pixels of its particles are background."""
    parts = find_parts(label_map)
    small = parts.is_small[parts.part]
    cleaned = label_map.copy(order="C")
    for start, length in zip(parts.start[small], parts.length[small], strict=True):
        cleaned.reshape(-1)[start : start + length] = 0
    return cleaned
