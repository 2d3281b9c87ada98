"""Decode images and label images, upright and checked.

A label map is an int32 (H, W) array: 0 = background, k = the object whose annotation has ``label`` k. It takes the
place of a stack of K masks everywhere, because its size does not grow with the number of objects.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.logger import log_first_n
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin

from ramses_d2.errors import RamsesError
from ramses_d2.masks import paint_segmentations

# What Pillow raises for a file that is not an image, or a damaged one
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Pillow's modes of a single integer channel: 8, 16 and 32 bit
_LABEL_MODES = ("L", "I;16", "I;16B", "I;16L", "I;16N", "I")
_JPEG_QUALITY = 95


def read_image(source: dict[str, Any] | str | Path, format: str = "RGB") -> np.ndarray:
    """Read an image as uint8 (H, W, 3) in RGB or BGR, contiguous, turned upright as its EXIF orientation says.

    Grey, palette and RGBA images are converted (alpha is dropped); of 16-bit grey ones the upper byte is kept. A
    dataset dict says the ``height`` and ``width`` that the image must have.
    """
    if format not in ("RGB", "BGR"):
        raise RamsesError(f"INPUT.FORMAT is {format!r}; RAMSES reads RGB or BGR")
    path = Path(source["file_name"] if isinstance(source, dict) else source)
    decoded = decode(path)
    ImageOps.exif_transpose(decoded, in_place=True)
    if decoded.mode.startswith("I"):
        decoded = Image.fromarray((np.asarray(decoded, dtype=np.int32) >> 8).clip(0, 255).astype(np.uint8))
    elif decoded.mode == "F":
        raise RamsesError(f"{path}: floating-point images are not supported; save it with 8 bits per channel")
    image = np.array(decoded if decoded.mode == "RGB" else decoded.convert("RGB"))
    if isinstance(source, dict):
        _check_size(path, image.shape[:2], (source["height"], source["width"]), "its dataset dict")
    return np.ascontiguousarray(image[:, :, ::-1]) if format == "BGR" else image


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; whatever is wrong with it, also inside the block, is a RamsesError."""
    if not path.is_file():
        raise RamsesError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            yield image
    except RamsesError:
        raise
    except PILLOW_ERRORS as error:
        reason = str(error).replace(repr(str(path)), "").replace(str(path), "")
        reason = " ".join(reason.split()).rstrip(": ") or type(error).__name__
        raise RamsesError(f"{path}: the image cannot be read ({reason}); replace the file") from None


def decode(path: Path) -> Image.Image:
    """Open and fully decode an image, as it is stored; Pillow, unlike OpenCV, reports truncated files."""
    with open_image(path) as image:
        image.load()
        return image


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as it is stored, and its EXIF orientation (1 = upright), from its header."""
    with open_image(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return (image.height, image.width), orientation if orientation in range(1, 9) else 1


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image turned upright, from its header."""
    size, orientation = stored_size(path)
    return size[::-1] if orientation >= 5 else size


def turn_upright(label_map: np.ndarray, orientation: int) -> np.ndarray:
    """A label map that lies as the pixels of its image are stored, turned as the image's EXIF orientation says."""
    image = Image.fromarray(label_map.astype(np.int32))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def save_upright(path: Path, target: Path) -> None:
    """Save an image turned as its EXIF orientation says; its format, colours and other EXIF entries stay.

    Of a camera's MPO file, which is named .jpg too, the first image is kept, as JPEG.
    """
    with Image.open(path) as image:
        options = {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
        if image.format in ("JPEG", "MPO"):
            options |= {"quality": _JPEG_QUALITY, "subsampling": JpegImagePlugin.get_sampling(image)}
        upright = ImageOps.exif_transpose(image)
        upright.save(target, format=image.format.replace("MPO", "JPEG"), exif=upright.getexif(), **options)


def read_label_map(dataset_dict: dict[str, Any]) -> np.ndarray:
    """The label map of a dataset dict: its label image, or its COCO segmentations painted from large to small.

    Values that no annotation names become background. Annotations without a pixel are the caller's to skip; the first
    time this happens in a folder it is logged.
    """
    shape = (dataset_dict["height"], dataset_dict["width"])
    labels = np.array([a["label"] for a in dataset_dict["annotations"]], dtype=np.int64)
    if "label_file_name" not in dataset_dict:
        return paint_segmentations([a["segmentation"] for a in dataset_dict["annotations"]], labels, shape)

    path = Path(dataset_dict["label_file_name"])
    label_map = read_label_image(path)
    _check_size(path, label_map.shape, shape, f"the image {dataset_dict['file_name']}")
    highest = int(label_map.max(initial=0))
    present, annotated = np.zeros((2, highest + 1), dtype=bool)
    present[label_map] = True
    annotated[labels[labels <= highest]] = True
    if np.count_nonzero(present & annotated) < len(labels):
        message = f"{path.parent.parent}: annotation rows without a pixel in the label image are ignored"
        log_first_n(logging.WARNING, message, key="message")
    if (present & ~annotated)[1:].any():
        label_map = np.where(annotated, np.arange(highest + 1, dtype=np.int32), 0).astype(np.int32)[label_map]
    return label_map


def read_label_image(path: Path) -> np.ndarray:
    """Read a label PNG as it is: int32 (H, W), values >= 0."""
    image = decode(path)
    if image.mode not in _LABEL_MODES:
        raise RamsesError(
            f"{path}: a label image has one channel of 8, 16 or 32-bit integers, not mode {image.mode!r}; "
            f"save it as 16-bit grey PNG"
        )
    label_map = np.asarray(image).astype(np.int32)
    if label_map.min(initial=0) < 0:
        raise RamsesError(f"{path}: the label image has negative values; labels are 0 (background) or more")
    return label_map


def _check_size(path: Path, found: Sequence[int], expected: Sequence[int], origin: str) -> None:
    if tuple(found) != tuple(expected):
        raise RamsesError(
            f"{path}: is {found[0]} x {found[1]} px (height x width), "
            f"but {origin} says {expected[0]} x {expected[1]}; replace one of them"
        )
