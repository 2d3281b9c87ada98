"""From an image on disk to the network's input: Detectron2 augmentations of image and label map.

The training canvas has the sides ``short`` and ``long``, turned as the image is; only the fit "edge" has none. Random
numbers come from numpy's global generator, which Detectron2 seeds in every worker.

Inside the chain a label map is shifted by one: 0 = outside the image, 1 = background, k + 1 = object k.
Whatever a rotation or padding fills with 0 is thereby known to be no part of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import detectron2.data.transforms as T
import numpy as np
from fvcore.transforms.transform import CropTransform, NoOpTransform, PadTransform, Transform, TransformList


def build_augmentation(
    *,
    short: int | Sequence[int],
    long: int,
    fit: str = "pad",
    sampling: str = "choice",
    flip: bool = False,
    vertical_flip: bool = True,
    rotation: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    noise: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> T.AugmentationList:
    """The training chain: fit to the canvas, flip, rotate, change colours, then crop or pad to the canvas.

    Args:
        short, long: sides of the canvas, px; for "edge" the shorter sides to draw from, and the largest longer side.
        fit: "pad" = all of the image fits the canvas; "crop" = its middle, cut to the canvas' aspect ratio; "edge" =
            as Detectron2 resizes, without a canvas, with ``sampling`` "choice" or "range".
        rotation: largest rotation either way, degrees.
        brightness, contrast: largest relative change.
        noise: standard deviation of Gaussian noise, grey levels.
        scale: range of the factor by which the image is larger or smaller than the fit.
    """
    augmentations: list[T.Augmentation] = []
    if fit == "edge":
        augmentations.append(ResizeShorterSide(short, long, sampling, scale))
    else:
        if fit == "crop":
            augmentations.append(CropToAspect(short, long))
        augmentations.append(ResizeToCanvas(short, long, scale))
    if flip:
        augmentations.append(T.RandomFlip(prob=0.5, horizontal=True, vertical=False))
    if flip and vertical_flip:
        augmentations.append(T.RandomFlip(prob=0.5, horizontal=False, vertical=True))
    if rotation:
        augmentations.append(T.RandomRotation([-rotation, rotation], expand=False))
    if brightness:
        augmentations.append(T.RandomBrightness(1 - brightness, 1 + brightness))
    if contrast:
        augmentations.append(T.RandomContrast(1 - contrast, 1 + contrast))
    if noise:
        augmentations.append(RandomNoise(noise))
    if fit != "edge":
        augmentations.append(PlaceOnCanvas(short, long))
    return T.AugmentationList(augmentations)


def build_test_augmentation(*, min_size: int, max_size: int) -> T.Augmentation:
    """The test chain, DefaultPredictor's: shorter side to ``min_size``, longer at most ``max_size``."""
    return T.ResizeShortestEdge([min_size, min_size], max_size)


def applied_scale(transforms: TransformList) -> tuple[float, float]:
    """Factors (x, y) by which a training chain enlarged the image; crop, flip and rotation do not count."""
    resizes = [transform for transform in transforms.transforms if isinstance(transform, AreaResizeTransform)]
    return float(np.prod([r.new_w / r.w for r in resizes])), float(np.prod([r.new_h / r.h for r in resizes]))


def canvas_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """(H, W) of the canvas for an image: long side along the image's, lying for a square one.

    An image that is square only after the resize fits the lying canvas as well as the standing one.
    """
    return (short, long) if height <= width else (long, short)


class AreaResizeTransform(Transform):
    """Resize by averaging the covered pixels (no aliasing), labels by the pixel at the same centre."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        reduces = self.new_h * self.new_w < self.h * self.w
        return cv2.resize(img, (self.new_w, self.new_h), interpolation=cv2.INTER_AREA if reduces else cv2.INTER_LINEAR)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * (self.new_w / self.w, self.new_h / self.h)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return cv2.resize(segmentation, (self.new_w, self.new_h), interpolation=cv2.INTER_NEAREST_EXACT)


class NoiseTransform(Transform):
    """Add Gaussian noise to the image; the same noise each time it is applied."""

    def __init__(self, sigma: float, seed: int) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        # float32 from a local generator: several times faster than numpy's global one on large images
        noise = np.random.default_rng(self.seed).standard_normal(img.shape, dtype=np.float32)
        noise *= self.sigma
        noise += img
        return noise.round().clip(0, 255).astype(np.uint8)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation


class CropToAspect(T.Augmentation):
    """Cut the middle of the image to the canvas' aspect ratio."""

    def __init__(self, short: int, long: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        canvas_h, canvas_w = canvas_size(height, width, self.short, self.long)
        new_h = min(round(width * canvas_h / canvas_w), height)
        new_w = min(round(new_h * canvas_w / canvas_h), width)
        return CropTransform((width - new_w) // 2, (height - new_h) // 2, new_w, new_h)


class ResizeToCanvas(T.Augmentation):
    """Resize so that the whole image just fits the canvas, times a random factor from ``scale``."""

    def __init__(self, short: int, long: int, scale: tuple[float, float]) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        canvas_h, canvas_w = canvas_size(height, width, self.short, self.long)
        factor = min(canvas_h / height, canvas_w / width) * np.random.uniform(*self.scale)
        new_h, new_w = max(1, round(height * factor)), max(1, round(width * factor))
        if height > width:
            new_h = max(new_h, new_w + 1)  # rounding must not make a standing image square: it keeps its canvas
        return AreaResizeTransform(height, width, new_h, new_w)


class ResizeShorterSide(T.Augmentation):
    """Detectron2's ``ResizeShortestEdge``, averaging pixels, for sizes that a random factor from ``scale`` changes."""

    def __init__(self, sizes: Sequence[int], max_size: int, sampling: str, scale: tuple[float, float]) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.sampling == "range":
            size = np.random.randint(self.sizes[0], self.sizes[1] + 1)
        else:
            size = np.random.choice(self.sizes)
        size *= np.random.uniform(*self.scale)
        new_h, new_w = T.ResizeShortestEdge.get_output_shape(height, width, size, self.max_size)
        return AreaResizeTransform(height, width, max(1, new_h), max(1, new_w))


class RandomNoise(T.Augmentation):
    """Gaussian noise of ``sigma`` grey levels."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return NoiseTransform(self.sigma, np.random.randint(2**31 - 1))


class PlaceOnCanvas(T.Augmentation):
    """Crop a larger image to the canvas, pad a smaller one with 0, at a random place in either case."""

    def __init__(self, short: int, long: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        canvas_h, canvas_w = canvas_size(height, width, self.short, self.long)
        crop_h, crop_w = min(height, canvas_h), min(width, canvas_w)
        crop_y, crop_x = np.random.randint(height - crop_h + 1), np.random.randint(width - crop_w + 1)
        free_h, free_w = canvas_h - crop_h, canvas_w - crop_w
        top, left = np.random.randint(free_h + 1), np.random.randint(free_w + 1)
        steps: list[Transform] = []
        if (crop_h, crop_w) != (height, width):
            steps.append(CropTransform(crop_x, crop_y, crop_w, crop_h))
        if free_h or free_w:
            steps.append(PadTransform(left, top, free_w - left, free_h - top))
        return TransformList(steps) if steps else NoOpTransform()
