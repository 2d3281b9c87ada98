"""Pictures with an EXIF orientation, written anew as they are to be seen."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, JpegImagePlugin

_JPEG_QUALITY = 95


def save_upright(path: Path, target: Path) -> None:
    """Save a picture turned as its EXIF orientation says; its format, colours and other EXIF entries stay.

    Of a camera's MPO file, which is named .jpg too, the first picture is kept, as JPEG.
    """
    with Image.open(path) as picture:
        options = {"icc_profile": picture.info["icc_profile"]} if "icc_profile" in picture.info else {}
        if picture.format in ("JPEG", "MPO"):
            options |= {"quality": _JPEG_QUALITY, "subsampling": JpegImagePlugin.get_sampling(picture)}
        upright = ImageOps.exif_transpose(picture)
        picture_format = "JPEG" if picture.format == "MPO" else picture.format
        upright.save(target, format=picture_format, exif=upright.getexif(), **options)
