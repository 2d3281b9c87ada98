"""Synthetic data sets on disk: a RAMSES folder of separate images, or of the consecutive frames of one belt.

Boxes in annotations.csv are half-open, x = ROW, y = column. Image i is drawn from the seed pair (seed, i), so it does
not depend on how many images or processes there are. Of a belt, ``belt.csv`` holds the ground truth, one row per stone;
``belt_label`` in annotations.csv says which stone a row of a frame is a part of.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from ramses_d2.data.synthetic.scene import Scene, SceneConfig, render_scene
from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder, folder_swap

JPEG_QUALITY = 92
SYNTHETIC = OwnFolder("synthetic data set", "synthetic.json", "ramses-synthetic")


def write_dataset(
    output: str | Path,
    config: SceneConfig,
    counts: Mapping[str, int],
    seed: int = 1,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Render images into one folder, ``counts`` of them for each subset of split.json: same seed, same bytes."""
    total = sum(counts.values())
    if min(counts.values(), default=0) < 0 or total < 1:
        raise RamsesError(f"image counts {dict(counts)}: give at least one image and no negative number")
    if workers < 1 or seed < 0:
        raise RamsesError(f"workers {workers}, seed {seed}: workers must be at least 1 and the seed not negative")
    with _new_folder(Path(output), config, overwrite) as folder:
        write = partial(_render, folder, config, seed)
        with _pool_map(workers) as pool_map:
            images = pool_map(write, range(total))
            annotations = pd.concat(tqdm(images, total=total, desc="rendering", unit="image", disable=not progress))
        _write_csv(folder / "annotations.csv", annotations, digits=6)
        images, batches = [], []
        for name, stones in annotations.groupby("baseimg", sort=False):
            images.append(_image_entry(len(images), f"{name}.jpg", round(float(stones["res"].iloc[0]), 6), config))
            masses = stones.groupby("class")["mass"].agg(lambda mass: round(float(mass.sum(skipna=False)), 6))
            batches.append({"image_names": [f"{name}.jpg"], "mass": masses.to_dict()})
        _write_json(folder / "metadata.json", {"images": images, "batches": batches})
        # The subsets take consecutive images
        key = Path(output).resolve().name
        names = iter([f"{key}/{name}" for name in annotations["baseimg"].unique()])
        subsets = {subset: list(islice(names, count)) for subset, count in counts.items()}
        split = {"format": "ramses-split", "version": 1, "folders": {key: "."}, "classes": list(config.classes)}
        _write_json(folder / "split.json", split | {"subsets": subsets})
    return Path(output)


def write_belt(
    output: str | Path, config: SceneConfig, frames: int, overlap: int = 0, seed: int = 1, overwrite: bool = False
) -> Path:
    """Render one belt, and write it as frames that share ``overlap`` rows; ``config`` says what a frame looks like."""
    if frames < 1 or not 0 <= overlap < config.height:
        raise RamsesError(f"frames {frames}, overlap {overlap}: at least 1 frame, and an overlap of 0 to height - 1 px")
    if seed < 0:
        raise RamsesError(f"seed {seed}: give 0 or more")
    starts = [index * (config.height - overlap) for index in range(frames)]
    length = starts[-1] + config.height
    low, high = (max(round(number * length / config.height), 1) for number in config.stones)
    belt_config = replace(config, height=length, stones=(low, high), border=False)
    with _new_folder(Path(output), config, overwrite) as folder:
        belt = render_scene(belt_config, np.random.default_rng([seed]))
        tables, images = [], []
        for index, start in enumerate(starts):
            frame, belt_labels = _frame(belt, slice(start, start + config.height))
            name = f"frame_{index + 1:05d}"
            tables.append(_write_scene(folder, frame, name).assign(belt_label=belt_labels))
            images.append(_image_entry(index, f"{name}.jpg", belt.resolution, config) | {"belt_row": start})
        _write_csv(folder / "annotations.csv", pd.concat(tables), digits=9)
        truth = annotate(belt, "belt").rename(columns={"label": "belt_label"}).drop(columns="baseimg")
        _write_csv(folder / "belt.csv", truth, digits=9)
        # The belt is one weighed batch, unless frames that overlap show some stones twice
        masses = pd.Series(belt.masses).groupby(belt.classes).sum().to_dict()
        batch = {"image_names": [image["file_name"] for image in images], "mass": masses}
        _write_json(folder / "metadata.json", {"images": images, "batches": [] if overlap else [batch]})
    return Path(output)


def annotate(scene: Scene, name: str) -> pd.DataFrame:
    """The rows of annotations.csv of one image: px and g."""
    boxes = ndimage.find_objects(scene.labels)
    masks = [np.pad(scene.labels[box] == label, 1).astype(np.uint8) for label, box in enumerate(boxes, start=1)]
    return pd.DataFrame(
        {
            "label": np.arange(1, len(masks) + 1),
            "baseimg": name,
            "area": [int(mask.sum()) for mask in masks],
            "x0": [rows.start for rows, _ in boxes],
            "y0": [columns.start for _, columns in boxes],
            "x1": [rows.stop for rows, _ in boxes],
            "y1": [columns.stop for _, columns in boxes],
            "feret": [_feret(mask) for mask in masks],
            "radius": [float(cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()) for m in masks],
            "class": scene.classes,
            "res": scene.resolution,
            "mass": scene.masses,
            "gt_mass": np.isfinite(scene.masses),
            "height": scene.labels.shape[0],
            "width": scene.labels.shape[1],
        }
    )


def _feret(mask: np.ndarray) -> float:
    """Largest distance between two corners of the mask's pixels."""
    row, column = np.nonzero(mask)
    corners = np.concatenate([np.stack([row + i, column + j], axis=1) for i in (0, 1) for j in (0, 1)])
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0]
    return float(np.linalg.norm(hull[:, None] - hull, axis=-1).max())


def _frame(belt: Scene, rows: slice) -> tuple[Scene, np.ndarray]:
    """Some rows of the belt, their stones renumbered 1..K and the mass of a cut one NaN; (K,) labels on the belt."""
    whole = np.bincount(belt.labels.ravel(), minlength=len(belt.classes) + 1)
    labels = belt.labels[rows]
    seen, areas = np.unique(labels[labels > 0], return_counts=True)
    renumber = np.zeros(len(whole), np.uint16)
    renumber[seen] = np.arange(1, len(seen) + 1)
    index = seen.astype(int) - 1
    frame = replace(
        belt,
        image=belt.image[rows],
        labels=renumber[labels],
        classes=[belt.classes[i] for i in index],
        masses=np.where(areas < whole[seen], np.nan, belt.masses[index]),
        height_mm=belt.height_mm[rows],
        widths_mm=belt.widths_mm[index],
        thicknesses_mm=belt.thicknesses_mm[index],
    )
    return frame, seen


@contextmanager
def _pool_map(workers: int) -> Iterator[Callable[..., Iterator]]:
    """``map`` over processes, or the plain one where one process is enough."""
    if workers == 1:
        yield map
    else:
        # Forked children of a process with OpenCV or torch threads may hang: start them afresh
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
            yield partial(pool.map, chunksize=4)


@contextmanager
def _new_folder(output: Path, config: SceneConfig, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, renamed to ``output`` at the end and removed on failure."""
    SYNTHETIC.check_replaceable(output, overwrite)
    with folder_swap(output) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        yield folder
        _write_json(folder / "classes.json", {name: number for number, name in enumerate(config.classes, start=1)})
        _write_json(folder / SYNTHETIC.marker, SYNTHETIC.entries())


def _render(folder: Path, config: SceneConfig, seed: int, index: int) -> pd.DataFrame:
    return _write_scene(folder, render_scene(config, np.random.default_rng([seed, index])), f"scene_{index + 1:05d}")


def _write_scene(folder: Path, scene: Scene, name: str) -> pd.DataFrame:
    """Write image and label image; returns the rows of annotations.csv."""
    image = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    for path, content in ((f"images/{name}.jpg", image), (f"labels/{name}.png", scene.labels)):
        if not cv2.imwrite(str(folder / path), content, options if path.endswith("jpg") else []):
            raise RamsesError(f"cannot write {folder / path}: is the disk full?")
    return annotate(scene, name)


def _image_entry(index: int, file_name: str, resolution: float, config: SceneConfig) -> dict[str, Any]:
    """An image in metadata.json."""
    entry = {"id": index + 1, "file_name": file_name, "res": resolution, "height": config.height, "width": config.width}
    return entry | {"camera": "synthetic", "date": "", "tag": "SYNTHETIC"}


def _write_csv(path: Path, table: pd.DataFrame, digits: int) -> None:
    table.to_csv(path, index=False, na_rep="nan", float_format=f"%.{digits}g")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
