"""One pass over the pixels of a data set: every image and label image is decoded once, and only numbers are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ramses_d2.data.checking.components import BODY_COLUMNS, PARTICLE_COLUMNS, find_parts, measure_particles
from ramses_d2.data.images import read_image, read_label_image
from ramses_d2.errors import RamsesError

EXIF_ORIENTATION = 0x0112
_UINT16_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" is how older Pillows open a 16-bit PNG
_MOST_WORKERS = 16  # each holds one decoded image and its label image
Name = TypeVar("Name")


@dataclass(frozen=True)
class ImageFacts:
    """A decoded image.

    Attributes:
        error: why it cannot be read, None if it can.
        size: (H, W) upright, px.
        orientation: EXIF tag, 1 = upright as stored.
        digest: of its upright RGB pixels and size.
    """

    error: str | None
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(H, W) of the pixels in the file, px."""
        return self.size[::-1] if self.orientation >= 5 else self.size


@dataclass(frozen=True)
class LabelFacts:
    """A decoded label image.

    Attributes:
        error: why it cannot be read, None if it can.
        mode: Pillow's.
        size: (H, W), px.
        particles: columns and rows as :func:`ramses_d2.data.checking.components.measure_particles` gives them; None if
            the colours are no labels.
    """

    error: str | None
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    particles: np.ndarray | None = field(
        default_factory=lambda: np.zeros((0, len(PARTICLE_COLUMNS) + len(BODY_COLUMNS)), np.int64)
    )

    @property
    def is_uint16(self) -> bool:
        """Whether it is single-channel with 16 bits."""
        return self.mode in _UINT16_MODES


Facts = tuple[ImageFacts | None, LabelFacts | None]


def measure_images(
    files: Mapping[Name, tuple[Path | None, Path | None]], workers: int | None = None, progress: bool = False
) -> dict[Name, Facts]:
    """Decode images and label images, several at a time, and measure them.

    Threads do it: decoding, hashing and numpy release Python's lock, and nothing has to start or be copied.

    Args:
        files: name -> image, label image; None where there is none.
        workers: threads; default: one per core.
        progress: show a progress bar on a terminal.

    Returns:
        name -> facts of its image and its label image.

    Raises:
        RamsesError: less than one worker.
    """
    if workers is not None and workers < 1:
        raise RamsesError(f"workers {workers}: give at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers or min(cores, _MOST_WORKERS)) as pool:
        facts = pool.map(_measure, files.values())
        bar = tqdm(facts, total=len(files), desc="checking", unit="picture", disable=None if progress else True)
        return dict(zip(files, bar, strict=True))


def _measure(paths: tuple[Path | None, Path | None]) -> Facts:
    image, label = paths
    return image and image_facts(image), label and label_facts(label)


def image_facts(path: Path) -> ImageFacts:
    """Decode and hash an image."""
    try:
        pixels = read_image(path)
        with Image.open(path) as image:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except RamsesError as error:
        return ImageFacts(_reason(error, path))
    digest = hashlib.blake2b(pixels, digest_size=16)
    digest.update(repr(pixels.shape).encode())
    orientation = orientation if orientation in range(1, 9) else 1
    return ImageFacts(None, pixels.shape[:2], orientation, digest.hexdigest())


def label_facts(path: Path) -> LabelFacts:
    """Decode a label image and measure its particles."""
    try:
        label_map, mode, size = read_labels(path)
    except RamsesError as error:
        return LabelFacts(_reason(error, path))
    return LabelFacts(None, mode, size, None if label_map is None else measure_particles(find_parts(label_map)))


def read_labels(path: Path) -> tuple[np.ndarray | None, str, tuple[int, int]]:
    """Read a label image of any kind.

    Returns:
        integer (H, W), None if its colours are no labels; Pillow's mode; its (H, W).

    Raises:
        RamsesError: missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
            if mode not in ("L", *_UINT16_MODES):
                return _labels_of_pixels(np.asarray(image)), mode, (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if not path.is_file():
            raise RamsesError(f"{path}: no such file") from None
        reason = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
        raise RamsesError(f"{path}: the image cannot be read ({reason}); replace the file") from None
    return read_label_image(path), mode, (height, width)


def _labels_of_pixels(pixels: np.ndarray) -> np.ndarray | None:
    """Labels of a palette, bool, float or grey image saved with several channels; None if there are none in it."""
    if pixels.ndim == 3:
        colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]  # the last of 2 or 4 is alpha
        if (colours != colours[..., :1]).any():
            return None
        pixels = colours[..., 0]
    if pixels.dtype.kind == "f" and not ((pixels >= 0) & (pixels <= 65535) & (pixels % 1 == 0)).all():
        return None
    return pixels.astype(np.int32)


def _reason(error: RamsesError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
