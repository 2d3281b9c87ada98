"""What each particle of a label image looks like in an image: its colour, and what can be written on it.

Shape letters: h w label image, K particles.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from .captions import Choices, caption_choices

# Saturation and brightness of one round of hues after the other: beyond six hues the eye confuses them
_ROUNDS = ((0.75, 1.0), (0.4, 1.0), (0.7, 0.75))
_HUES_PER_ROUND = 6
_GOLDEN_RATIO = 0.61803398875

Color = tuple[int, int, int]
Box = tuple[slice, slice]


class Appearance(NamedTuple):
    """Particles of a label image.

    Attributes:
        labels: (h, w) label image, k = particle k - 1.
        boxes: K boxes, None for a particle without a pixel.
        colors: K RGB colours from 0 to 255.
        captions: K choices of captions.
        diameter: of the usual particle, side of a square of the median area, px of the label image; NaN without any.
    """

    labels: np.ndarray
    boxes: list[Box | None]
    colors: list[Color]
    captions: list[Choices]
    diameter: float


def class_colors(num_classes: int) -> list[Color]:
    """RGB colours that differ as much as possible from one class to the next, none twice up to 300 classes."""
    colors = []
    for index in range(num_classes):
        hue = (index * _GOLDEN_RATIO) % 1.0  # no two hues come close early
        saturation, value = _ROUNDS[index // _HUES_PER_ROUND % len(_ROUNDS)]
        colors.append(tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)))
    return colors


def particle_appearance(
    labels: np.ndarray,
    class_ids: Sequence[int] | None,
    scores: Sequence[float] | None,
    masses: Sequence[float] | None,
    *,
    class_names: Sequence[str] | Mapping[int, str] | None,
    mode: str,
    colors: Sequence[Color] | None,
) -> Appearance:
    """Colours and captions from the arguments of ``draw_instances``, which see.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    labels = _as_labels(labels)
    fields = {"class_ids": class_ids, "scores": scores, "masses": masses}
    known = {name: _as_array(values) for name, values in fields.items() if values is not None}
    count = _particle_count(int(labels.max(initial=0)), known)
    if "class_ids" in known and known["class_ids"].dtype.kind in "US":  # names, as RAMSES2's calls have them
        class_names, known["class_ids"] = np.unique(known["class_ids"], return_inverse=True)
    ids = known["class_ids"].astype(int).tolist() if "class_ids" in known else None
    points = known["scores"].astype(float).tolist() if "scores" in known else [None] * count
    grams = known["masses"].astype(float).tolist() if "masses" in known else [math.nan] * count
    names = [None] * count if ids is None else _names(ids, class_names)
    areas = np.bincount(labels.ravel())[1:]
    return Appearance(
        labels,
        ndimage.find_objects(labels, max_label=count) if count else [],
        _colors(ids, count, mode, colors),
        [caption_choices(*row) for row in zip(names, points, grams, strict=True)],
        math.sqrt(np.median(areas[areas > 0])) if areas.any() else math.nan,
    )


def _as_array(values: Any) -> np.ndarray:
    """NumPy array of a sequence, an array or a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _as_labels(labels: Any) -> np.ndarray:
    labels = _as_array(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            f"labels {labels.shape} of {labels.dtype}: give an integer (H, W) label image, 0 = background"
            + ("; decode_predictions makes one from masks" if labels.ndim == 3 else "")
        )
    return labels.astype(np.int32)


def _particle_count(largest_label: int, fields: dict[str, np.ndarray]) -> int:
    sizes = {name: values.shape for name, values in fields.items()}
    if not sizes:
        return largest_label
    listed = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
    if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
        raise ValueError(f"{listed}: give one value per particle in each of them")
    (count,) = next(iter(sizes.values()))
    if count < largest_label:
        raise ValueError(f"labels up to {largest_label}, but {listed}: label k needs entry k - 1")
    return count


def _names(ids: list[int], class_names: Sequence[str] | Mapping[int, str] | None) -> list[str]:
    if class_names is None:
        return [str(index) for index in ids]
    names = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    unknown = sorted(set(ids) - set(names))
    if unknown:
        raise ValueError(f"class_ids {unknown} have no name: class_names has {sorted(names)}")
    return [str(names[index]) for index in ids]


def _colors(ids: list[int] | None, count: int, mode: str, colors: Sequence[Color] | None) -> list[Color]:
    if mode not in ("class", "instance"):
        raise ValueError(f'mode="{mode}": give "class" or "instance"')
    keys = ids if mode == "class" and ids is not None else range(count)
    if min(keys, default=0) < 0:
        raise ValueError(f"class_ids from {min(keys)}: class ids start at 0")
    needed = max(keys, default=-1) + 1
    if colors is None:
        palette = np.array(class_colors(needed))
    else:
        palette = _as_array(colors)
        if len(palette) < needed:
            what = "class id" if keys is ids else "particle"
            raise ValueError(f"{len(palette)} colors, but {needed} are needed, one per {what}")
        whole = np.issubdtype(palette.dtype, np.integer) and palette.shape[1:] == (3,)
        if needed and not (whole and palette.min() >= 0 and palette.max() <= 255):
            raise ValueError(f"colors {palette.shape} of {palette.dtype}: give RGB in whole numbers from 0 to 255")
    return [tuple(palette[key].tolist()) for key in keys]
