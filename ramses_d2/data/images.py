"""Images with an EXIF orientation, written anew as they are to be seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from detectron2.utils.logger import log_first_n
from PIL import Image, ImageOps, JpegImagePlugin

from ramses_d2.errors import RamsesError
from ramses_d2.masks import decode_in_box

# Pillow's modes of a single integer channel: 8, 16 and 32 bit
_LABEL_MODES = ("L", "I;16", "I;16B", "I;16L", "I;16N", "I")
EXIF_ORIENTATION = 0x0112


def read_image(source: dict[str, Any] | str | Path, format: str = "RGB") -> np.ndarray:
    """Read an image as 8-bit colours, turned upright as its EXIF orientation says.

    Grey, palette and RGBA images are converted (alpha is dropped); of 16-bit grey ones the upper byte is
    kept.

    Args:
        source: a dataset dict, whose ``height`` and ``width`` the image must then have, or a path.
        format: "RGB" or "BGR" (``INPUT.FORMAT``).

    Returns:
        uint8 (H, W, 3), contiguous.

    Raises:
        RamsesError: no such file; not an image; truncated; of another size than the dataset dict says; unknown
            format.
    """
    if format not in ("RGB", "BGR"):
        raise RamsesError(f"INPUT.FORMAT is {format!r}; RAMSES reads RGB or BGR")
    path = Path(source["file_name"] if isinstance(source, dict) else source)
    image_file = decode(path)
    ImageOps.exif_transpose(image_file, in_place=True)
    if image_file.mode.startswith("I"):
        image_file = Image.fromarray((np.asarray(image_file, dtype=np.int32) >> 8).clip(0, 255).astype(np.uint8))
    elif image_file.mode == "F":
        raise RamsesError(f"{path}: floating-point images are not supported; save it with 8 bits per channel")
    image = np.array(image_file if image_file.mode == "RGB" else image_file.convert("RGB"))
    if isinstance(source, dict):
        _check_size(path, image.shape[:2], (source["height"], source["width"]), "its record")
    return np.ascontiguousarray(image[:, :, ::-1]) if format == "BGR" else image


def read_label_map(dataset_dict: dict[str, Any]) -> np.ndarray:
    """The label map of a dataset dict: its label image, or its COCO outlines painted from large to small.

    Values that no annotation names become background. Annotations without a pixel are the caller's to skip;
    the first time this happens in a folder it is logged.

    Args:
        dataset dict: dataset dict, see datasets/README.md.

    Returns:
        int32 (H, W) with values among the annotations' ``label``, 0 = background.

    Raises:
        RamsesError: label image missing, truncated, not single-channel integer, or of another size than the
            image.
    """
    shape = (dataset_dict["height"], dataset_dict["width"])
    labels = np.array([a["label"] for a in dataset_dict["annotations"]], dtype=np.int64)
    if "label_file_name" not in dataset_dict:
        return paint_outlines([a["segmentation"] for a in dataset_dict["annotations"]], labels, shape)

    path = Path(dataset_dict["label_file_name"])
    label_map = read_label_image(path)
    _check_size(path, label_map.shape, shape, f"the image {dataset_dict['file_name']}")
    highest = int(label_map.max(initial=0))
    present = np.zeros(highest + 1, dtype=bool)
    present[label_map] = True
    annotated = np.zeros(highest + 1, dtype=bool)
    annotated[labels[labels <= highest]] = True
    missing = len(labels) - np.count_nonzero(present & annotated)
    if missing:
        log_first_n(
            logging.WARNING,
            f"{path.parent.parent}: annotation rows without a pixel in the label image are ignored",
            key="message",
        )
    unknown = present & ~annotated
    if unknown[1:].any():
        label_map = np.where(annotated, np.arange(highest + 1, dtype=np.int32), 0).astype(np.int32)[label_map]
    return label_map


def read_label_image(path: Path) -> np.ndarray:
    """Read a label PNG as it is.

    Returns:
        int32 (H, W), values >= 0.

    Raises:
        RamsesError: missing, truncated, or not a single channel of 8, 16 or 32-bit integers.
    """
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


def paint_outlines(outlines: Sequence[Any], labels: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Paint COCO segmentations into one label map, in the order given: later ones cover earlier ones.

    Args:
        outlines: K segmentations, each a list of polygons [x, y, x, y, ...] or an RLE.
        labels: K values.
        shape: (H, W) of the image.

    Returns:
        int32 (H, W), 0 = background.
    """
    label_map = np.zeros(shape, dtype=np.int32)
    for outline, label in zip(outlines, labels, strict=True):
        mask, x0, y0 = _outline_mask(outline, shape)
        label_map[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]][mask] = label
    return label_map


def _outline_mask(outline: Any, shape: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Bool mask of one COCO segmentation inside its box, and the box's left and top."""
    height, width = shape
    if isinstance(outline, dict):
        rle = mask_utils.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
        x0, y0, w, h = (int(v) for v in mask_utils.toBbox(rle))
        return decode_in_box(rle, x0, y0, x0 + w, y0 + h), x0, y0
    # Polygons are rasterised inside their box only: a full-size mask per object would cost K * H * W
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in outline])
    x0, y0 = np.floor(points.min(axis=0)).astype(int).clip(0, (width - 1, height - 1)).tolist()
    x1, y1 = (np.ceil(points.max(axis=0)).astype(int) + 1).clip((x0 + 1, y0 + 1), (width, height)).tolist()
    shifted = [(np.reshape(polygon, (-1, 2)) - (x0, y0)).ravel().tolist() for polygon in outline]
    rles = mask_utils.frPyObjects(shifted, y1 - y0, x1 - x0)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool), x0, y0


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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
        raise RamsesError(f"{path}: the image cannot be read ({reason}); replace the file") from None


def decode(path: Path) -> Image.Image:
    """Open and fully decode an image, as it is stored; Pillow, unlike OpenCV, reports truncated files."""
    with open_image(path) as image:
        image.load()
        return image


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as stored, and its EXIF orientation (1 = upright), without decoding its pixels."""
    with open_image(path) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        return (image.height, image.width), orientation if orientation in range(1, 9) else 1


def _check_size(path: Path, found: tuple[int, int], expected: tuple[int, int], origin: str) -> None:
    if tuple(found) != tuple(expected):
        raise RamsesError(
            f"{path}: is {found[0]} x {found[1]} px (height x width), "
            f"but {origin} says {expected[0]} x {expected[1]}; replace one of them"
        )


def turn_upright(label_map: np.ndarray, orientation: int) -> np.ndarray:
    """A label map that lies as the pixels of its image are stored, turned as the image's EXIF orientation says."""
    image = Image.fromarray(label_map.astype(np.int32))
    image.getexif()[EXIF_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


_JPEG_QUALITY = 95


def save_upright(path: Path, target: Path) -> None:
    """Save an image turned as its EXIF orientation says; its format, colours and other EXIF entries stay.

    Of a camera's MPO file, which is named .jpg too, the first image is kept, as JPEG.
    """
    with Image.open(path) as image:
        options = {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
        if image.format in ("JPEG", "MPO"):
            options |= {"quality": _JPEG_QUALITY, "subsampling": JpegImagePlugin.get_sampling(image)}
        upright = ImageOps.exif_transpose(image)
        image_format = "JPEG" if image.format == "MPO" else image.format
        upright.save(target, format=image_format, exif=upright.getexif(), **options)
