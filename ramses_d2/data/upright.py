"""Images with an EXIF orientation, written anew as they are to be seen."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, JpegImagePlugin

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
