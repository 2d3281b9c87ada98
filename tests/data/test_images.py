"""Images and label images of every kind: read right, turned upright, or refused with one clear line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ramses_d2.data.folder import load_folder
from ramses_d2.data.images import read_image, read_label_image, read_label_map, save_upright
from tests.conftest import refused

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
ORIENTATION, CAMERA = 0x0112, 0x0110


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_colour_formats(tmp_path: Path) -> None:
    image = np.random.randint(0, 256, (6, 8, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", image)
    assert np.array_equal(read_image(path), image)
    assert np.array_equal(read_image(path, format="BGR"), image[:, :, ::-1])
    assert read_image(path, format="BGR").flags.c_contiguous and read_image(path).flags.writeable
    with refused("INPUT.FORMAT", "'L'"):
        read_image(path, format="L")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16"])
def test_other_pixel_kinds_become_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        path = save(tmp_path / "a.png", RAMP.astype(np.uint16) * 256 + 255)
    elif mode == "P":
        path = save(tmp_path / "a.png", np.repeat(RAMP[..., None], 3, axis=2), "P")
    else:
        path = save(tmp_path / "a.png", RAMP, mode)
    assert Image.open(path).mode == mode
    image = read_image(path)
    assert image.shape == (6, 8, 3) and image.dtype == np.uint8
    tolerance = 60 if mode == "P" else 0  # the palette has few colours
    assert np.abs(image.astype(int) - RAMP[..., None]).max() <= tolerance


@pytest.mark.parametrize(("dtype", "suffix"), [("uint8", ".png"), ("uint16", ".png"), ("int32", ".tif")])
def test_integer_label_images(tmp_path: Path, dtype: str, suffix: str) -> None:
    values = (np.arange(48).reshape(6, 8) * (5 if dtype == "uint8" else 1300)).astype(dtype)
    label_map = read_label_image(save(tmp_path / f"a{suffix}", values))
    assert label_map.dtype == np.int32
    assert np.array_equal(label_map, values)


LARGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("read", "suffix", "content", "words"),
    [
        (read_image, ".jpg", None, "no such file"),
        (read_image, ".jpg", "hello", "cannot be read"),
        *((read_image, suffix, LARGE, "cannot be read") for suffix in (".jpg", ".png")),  # cut in the middle
        (read_label_image, ".png", LARGE[..., 0].astype(np.uint16), "cannot be read"),
        *((read_label_image, ".png", mode, "one channel") for mode in ("RGB", "RGBA", "P", "LA", "1")),
        (read_label_image, ".tif", "F", "one channel"),
        (read_image, ".tif", "F", "floating-point"),
        (read_label_image, ".tif", RAMP.astype(np.int32) - 1, "negative"),
    ],
)
def test_faults_of_files(
    tmp_path: Path, read: Callable[[Path], Any], suffix: str, content: str | np.ndarray | None, words: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if isinstance(content, np.ndarray):
        save(path, content)
        if words == "cannot be read":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "hello":
        path.write_text(content)
    elif content is not None:
        save(path, RAMP, content)
    with refused(f"{path}: ", words):
        read(path)


def test_another_size_than_the_dataset_dict_says(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    path = save(tmp_path / "a.png", RAMP)
    read_image({"file_name": str(path), "height": 6, "width": 8})
    with refused("a.png", "6 x 8 px", "8 x 6"):
        read_image({"file_name": str(path), "height": 8, "width": 6})
    dataset_dicts, _ = load_folder(tiny_folder())
    dataset_dicts[0]["label_file_name"] = dataset_dicts[1]["label_file_name"]
    with refused("img1.png", "96 x 64 px", "img0.png says 64 x 96"):
        read_label_map(dataset_dicts[0])


def test_values_without_annotation_become_background(tiny_folder: Callable[..., Path]) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(count=6))
    full = read_label_map(dataset_dicts[0])
    assert full.dtype == np.int32 and full.shape == (64, 96)
    assert sorted(np.unique(full)) == [0, 1, 2, 3, 4, 5, 6]
    dataset_dicts[0]["annotations"] = [a for a in dataset_dicts[0]["annotations"] if a["label"] in (2, 5)]
    label_map = read_label_map(dataset_dicts[0])
    assert label_map.dtype == np.int32
    assert np.array_equal(label_map, np.where(np.isin(full, (2, 5)), full, 0))


def test_rows_without_pixels_are_logged_once(
    tiny_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset_dicts, _ = load_folder(tiny_folder(count=6))
    for dataset_dict in dataset_dicts:
        dataset_dict["annotations"].append(dataset_dict["annotations"][0] | {"label": 9})
    with caplog.at_level(logging.WARNING):
        maps = [read_label_map(dataset_dict) for dataset_dict in dataset_dicts]
    assert all(label_map.max() == 6 for label_map in maps)
    assert len([r for r in caplog.records if "without a pixel" in r.message]) == 1


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn clockwise
    path = save(tmp_path / "a.png", RAMP, exif=exif)
    assert np.array_equal(read_image(path)[:, :, 0], np.rot90(RAMP, -1))


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
