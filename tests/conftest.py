"""Shared by all tests: a seed, a factory of small RAMSES folders whose every object is known, writers of files."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.utils.logger import setup_logger
from PIL import Image

from ramses_d2.errors import RamsesError

GRAMS_PER_MM2 = 0.02


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """No test hears or writes what a logger does that another one set up in this process."""
    loggers = [logging.getLogger(name) for name in ("ramses_d2", "detectron2", "fvcore")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    setup_logger.cache_clear()
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def draw_objects(size: tuple[int, int], count: int) -> np.ndarray:
    """Label map of ``count`` objects on a regular grid: even labels are rectangles, odd ones ellipses.

    uint16 (H, W) of values 0 ... K. Object ``i`` (label ``i + 1``) fills the middle of cell ``i``; objects never touch,
    and none is square, so that rows and columns cannot be confused.
    """
    height, width = size
    label_map = np.zeros(size, dtype=np.uint16)
    columns = max(1, int(np.ceil(np.sqrt(count * width / height))))
    rows = max(1, int(np.ceil(count / columns)))
    cell_h, cell_w = height // rows, width // columns
    assert count == 0 or min(cell_h, cell_w) >= 6, "image too small for so many objects"
    for index in range(count):
        row, column = divmod(index, columns)
        half_h, half_w = 0.30 * cell_h, 0.42 * cell_w
        ys, xs = np.ogrid[:height, :width]
        dy = np.abs(ys - (row + 0.5) * cell_h + 0.5) / half_h
        dx = np.abs(xs - (column + 0.5) * cell_w + 0.5) / half_w
        inside = (dy**2 + dx**2 <= 1) if index % 2 == 0 else (np.maximum(dy, dx) <= 1)
        label_map[inside] = index + 1
    return label_map


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Callable[..., Path]:
    """Factory of small RAMSES folders; the options are those of ``_write_folder`` below."""

    def _write_folder(
        name: str = "demo",
        sizes: Sequence[tuple[int, int]] = ((64, 96), (96, 64)),
        count: int | Sequence[int] = 6,
        classes: Sequence[str] = ("brick", "concrete", "glass"),
        resolution: float | Sequence[float] = 2.0,
        nan_masses: bool = False,
        box_convention: str = "rows",
        extension: str = ".png",
        metadata: bool = True,
    ) -> Path:
        """Write ``<tmp_path>/<name>``: images/, labels/, annotations.csv and metadata.json; returns the folder.

        Image ``i`` is ``img<i>``, of (H, W) ``sizes``; ``count`` (objects) and ``resolution`` are one number or one
        each. Label ``k`` has class ``classes[(k - 1) % len(classes)]``, a grey level of its class (so that a network
        can learn it) and the mass 0.02 g/mm2 x (class number from 1) x its area, or NaN and gt_mass False. Boxes are
        "rows" (the original: x = rows), "columns" (x = columns), "wrong" or "none". An image without objects has no
        CSV rows, and its resolution in metadata.json.
        """
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir()
        counts = [count] * len(sizes) if isinstance(count, int) else list(count)
        resolutions = [resolution] * len(sizes) if isinstance(resolution, (int, float)) else list(resolution)
        rows, images = [], []
        rng = np.random.default_rng(0)
        for index, (size, objects, res) in enumerate(zip(sizes, counts, resolutions, strict=True)):
            base = f"img{index}"
            label_map = draw_objects(size, objects)
            # background 40, then one grey level per class and a little noise
            levels = np.r_[40, 80 + 150 * (np.arange(objects) % len(classes)) / len(classes)]
            image = levels[label_map][..., None] + rng.normal(0, 4, (*size, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{base}{extension}")
            Image.fromarray(label_map).save(folder / "labels" / f"{base}.png")
            images.append({"file_name": f"{base}{extension}", "res": res, "height": size[0], "width": size[1]})
            for label in range(1, objects + 1):
                ys, xs = np.nonzero(label_map == label)
                r0, c0, r1, c1 = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
                boxes = {
                    "rows": (r0, c0, r1, c1),
                    "columns": (c0, r0, c1, r1),
                    "wrong": (r0 + 9, c0 + 9, r1 + 20, c1 + 20),
                }
                class_index = (label - 1) % len(classes)
                mass = GRAMS_PER_MM2 * (class_index + 1) * len(ys) / res**2
                row = {"label": label, "baseimg": base, "area": len(ys)}
                if box_convention != "none":
                    row |= dict(zip(("x0", "y0", "x1", "y1"), boxes[box_convention], strict=True))
                row |= {
                    "class": classes[class_index],
                    "res": res,
                    "mass": "NaN" if nan_masses else mass,
                    "gt_mass": not nan_masses,
                    "height": size[0],
                    "width": size[1],
                }
                rows.append(row)
        columns = ["label", "baseimg", "class", "res", "mass", "gt_mass"]
        pd.DataFrame(rows, columns=None if rows else columns).to_csv(folder / "annotations.csv", index=False)
        if metadata:
            (folder / "metadata.json").write_text(json.dumps({"images": images, "batches": []}))
        return folder

    return _write_folder


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect wrong input to be refused in one line with all these words: file, row or key, what is wrong."""
    with pytest.raises(RamsesError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def edit_csv(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Replace a folder's annotations.csv by what ``change`` makes of it."""
    change(pd.read_csv(folder / "annotations.csv")).to_csv(folder / "annotations.csv", index=False)


def write_json(path: Path, content: Any) -> Path:
    """Write any JSON; returns the path."""
    path.write_text(json.dumps(content))
    return path


def write_split(path: Path, **changes: Any) -> Path:
    """A split file of ours over the folder it lies in, with some keys changed, or removed (None)."""
    subsets = {"train": ["demo/img0"], "valid": ["demo/img1"]}
    split = {"format": "ramses-split", "version": 1, "folders": {"demo": "."}, "subsets": subsets}
    split |= {"classes": ["glass", "brick", "concrete"]} | changes
    return write_json(path, {key: value for key, value in split.items() if value is not None})


def write_coco(path: Path, annotations: Sequence[Any] = (), *, images: Any = (), categories: Any = ()) -> Path:
    """A COCO json; images as entries or id -> file name (30 x 40 px), categories as entries or id -> name."""
    if isinstance(images, Mapping):
        images = [{"id": key, "file_name": name, "height": 30, "width": 40} for key, name in images.items()]
    if isinstance(categories, Mapping):
        categories = [{"id": key, "name": name} for key, name in categories.items()]
    return write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def square(x: float, y: float, side: float) -> list[list[float]]:
    """The polygons of a COCO segmentation that is a square."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]
