"""Images written anew as they are to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ramses_d2.data.images import read_image, save_upright

ORIENTATION, CAMERA = 0x0112, 0x0110


@pytest.mark.parametrize(("file_format", "suffix"), [("JPEG", ".jpg"), ("MPO", ".jpg"), ("PNG", ".png")])
def test_a_photograph_is_turned_and_keeps_its_quality(tmp_path: Path, file_format: str, suffix: str) -> None:
    slope = np.indices((40, 60)).sum(axis=0).astype(np.uint8)
    image = Image.fromarray(np.stack([slope, 2 * slope, 255 - slope], axis=2))
    exif = Image.Exif()
    exif[ORIENTATION], exif[CAMERA] = 6, "stereo camera"
    options = {"save_all": True, "append_images": [image]} if file_format == "MPO" else {}
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    image.save(path, format=file_format, exif=exif, quality=95, **options)
    with Image.open(path) as stored:
        assert stored.format == file_format
    save_upright(path, target)
    with Image.open(target) as stored:
        assert stored.format == ("PNG" if suffix == ".png" else "JPEG") and stored.size == (40, 60)
        assert stored.getexif().get(ORIENTATION, 1) == 1 and stored.getexif()[CAMERA] == "stereo camera"
        assert suffix == ".png" or max(stored.quantization[0]) <= 12  # 121 at Pillow's own quality of 75
    assert np.abs(read_image(target).astype(int) - read_image(path)).mean() < 1
