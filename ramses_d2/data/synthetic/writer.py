"""A synthetic data set in the RAMSES folder format (reference section 6).

``images/*.jpg``, ``labels/*.png`` (uint16), ``annotations.csv`` (one row per stone, x = ROW, y = column,
half-open boxes), ``metadata.json`` (one batch per image), ``split.json`` and ``synthetic.json`` (checksums).
Image i is drawn from the seed pair (seed, i), so it does not depend on how many images or processes there are.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from ramses_d2.data.synthetic.scene import Scene, SceneConfig, render_scene
from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder, folder_swap

JPEG_QUALITY = 92
SYNTHETIC_TAG = "SYNTHETIC"
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
    """Render a data set into one folder; nothing is left behind when it fails.

    Args:
        output: folder to create.
        config: what the images look like.
        counts: number of images of every subset of ``split.json``, e.g. ``{"train": 360, "valid": 40}``.
        seed: same seed, same bytes.
        workers: processes.
        overwrite: replace an existing data set that was rendered, and that nobody changed since.
        progress: show a progress bar.

    Returns:
        ``output``.
    """
    if min(counts.values(), default=0) < 0 or sum(counts.values()) < 1:
        raise RamsesError(f"image counts {dict(counts)}: give at least one image and no negative number")
    if workers < 1 or seed < 0:
        raise RamsesError(f"workers {workers}, seed {seed}: workers must be at least 1 and the seed not negative")
    with new_folder(Path(output), overwrite) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        total = sum(counts.values())
        write = partial(_write_image, folder, config, seed)
        with _pool_map(workers) as pool_map:
            images = pool_map(write, range(total))
            tables = list(tqdm(images, total=total, desc="rendering", unit="picture", disable=not progress))
        annotations = pd.concat(tables, ignore_index=True)
        annotations.to_csv(folder / "annotations.csv", index=False, na_rep="nan", float_format="%.6g")
        write_json(folder / "metadata.json", _metadata(annotations))
        write_json(folder / "classes.json", class_ids(config))
        write_json(folder / "split.json", _split(Path(output).resolve().name, config, counts))
    return Path(output)


@contextmanager
def _pool_map(workers: int) -> Iterator[Callable[..., Iterator]]:
    """``map`` over processes, or the plain one where one process is enough."""
    if workers == 1:
        yield map
    else:
        # Forked children of a process with OpenCV or torch threads may hang: start them afresh.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
            yield partial(pool.map, chunksize=4)


def class_ids(config: SceneConfig) -> dict[str, int]:
    """``classes.json``: the class order, the same by every address of the folder."""
    return {name: number for number, name in enumerate(config.classes, start=1)}


def image_name(index: int) -> str:
    """Base name of image ``index``."""
    return f"scene_{index + 1:05d}"


def annotate(scene: Scene, name: str) -> pd.DataFrame:
    """The rows of ``annotations.csv`` of one image: columns as in reference section 6.2, px and g."""
    height, width = scene.labels.shape
    rows = []
    for label, box in enumerate(ndimage.find_objects(scene.labels), start=1):
        mask = np.pad(scene.labels[box] == label, 1)
        rows.append(
            {
                "label": label,
                "baseimg": name,
                "area": int(mask.sum()),
                "x0": box[0].start,
                "y0": box[1].start,
                "x1": box[0].stop,
                "y1": box[1].stop,
                "feret": _feret(mask),
                "radius": cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max(),
                "class": scene.classes[label - 1],
                "res": scene.resolution,
                "mass": scene.masses[label - 1],
                "gt_mass": bool(np.isfinite(scene.masses[label - 1])),
                "height": height,
                "width": width,
            }
        )
    return pd.DataFrame(rows)


def _feret(mask: np.ndarray) -> float:
    """Largest distance between two corners of the mask's pixels."""
    row, column = np.nonzero(mask)
    corners = np.concatenate([np.stack([row + i, column + j], axis=1) for i in (0, 1) for j in (0, 1)])
    hull = cv2.convexHull(corners.astype(np.float32))[:, 0]
    return float(np.linalg.norm(hull[:, None] - hull, axis=-1).max())


def _write_image(folder: Path, config: SceneConfig, seed: int, index: int) -> pd.DataFrame:
    scene = render_scene(config, np.random.default_rng([seed, index]))
    name = image_name(index)
    image = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    write_image(folder / "images" / f"{name}.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write_image(folder / "labels" / f"{name}.png", scene.labels, [])
    return annotate(scene, name)


def write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Write a BGR or label image, or raise :class:`RamsesError`."""
    if not cv2.imwrite(str(path), image, options):
        raise RamsesError(f"cannot write {path}: is the disk full?")


def _metadata(annotations: pd.DataFrame) -> dict:
    """``metadata.json``: every image and, as its batch, its grams per class."""
    images, batches = [], []
    for index, (name, stones) in enumerate(annotations.groupby("baseimg", sort=False), start=1):
        first = stones.iloc[0]
        images.append(
            {
                "id": index,
                "file_name": f"{name}.jpg",
                "res": round(float(first["res"]), 6),
                "height": int(first["height"]),
                "width": int(first["width"]),
                "camera": "synthetic",
                "date": "",
                "tag": SYNTHETIC_TAG,
            }
        )
        grams = stones.groupby("class")["mass"].agg(lambda mass: mass.sum(skipna=False))
        batches.append({"image_names": [f"{name}.jpg"], "mass": {key: round(float(g), 6) for key, g in grams.items()}})
    return {"images": images, "batches": batches}


def _split(key: str, config: SceneConfig, counts: Mapping[str, int]) -> dict:
    """``split.json`` of folder ``key``: the subsets take consecutive images, in the order of ``counts``."""
    subsets, start = {}, 0
    for subset, count in counts.items():
        subsets[subset] = [f"{key}/{image_name(index)}" for index in range(start, start + count)]
        start += count
    return {
        "format": "ramses-split",
        "version": 1,
        "folders": {key: "."},
        "classes": list(config.classes),
        "subsets": subsets,
    }


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill beside ``output``, renamed to it at the end and removed on failure.

    Args:
        output: the folder to write; it gets ``synthetic.json``, its checksums.
        overwrite: replace a synthetic data set that nobody changed since.
    """
    SYNTHETIC.check_replaceable(output, overwrite)
    with folder_swap(output) as folder:
        yield folder
        write_json(folder / SYNTHETIC.marker, SYNTHETIC.entries())
