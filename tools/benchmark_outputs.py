#!/usr/bin/env python
r"""Time and memory of what follows the network: from the instances of one image to all files of a run.

Examples:
    python tools/benchmark_outputs.py --size 4096 6144 --objects 768
    python tools/benchmark_outputs.py --size 4096 6144 --objects 768 --yardstick

The yardstick is the way of RAMSES2 (a label image at the size of the network, region properties and Python functions
for each particle, table only). Peak memory is that of the process, so each way needs a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ramses_d2  # noqa: F401  before Detectron2, whose warnings it silences

# isort: split
import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.mask import toBbox
from scipy.ndimage import distance_transform_edt
from skimage.measure import regionprops_table

from ramses_d2.analysis.run import ImageFile, RunFolder, image_overlay, image_result
from ramses_d2.masks import encode_label_map

CLASSES = ["Rc", "Ru", "Rb", "Ra", "Rg"]
RESOLUTION = 28.7


def draw_scene(height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """Label image (H, W) of irregular polygons, one in each cell of a grid, sizes spread fivefold."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count * width / height)))
    rows = int(np.ceil(count / columns))
    step = np.array([width / columns, height / rows])
    labels = np.zeros((height, width), np.uint16)
    for index in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
        radius = rng.choice([0.15, 0.3, 0.5, 0.75], p=[0.25, 0.35, 0.3, 0.1]) * step.min()
        radii = radius * (1 + 0.15 * rng.standard_normal(14)).clip(0.5, 1.5)
        middle = (np.array(divmod(index, columns))[::-1] + 0.5) * step
        points = middle + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        cv2.fillPoly(labels, [points.astype(np.int32)], index + 1)
    return labels


def to_instances(labels: np.ndarray) -> Instances:
    """The particles of a label image as a network gives them with run lengths."""
    values = [int(value) for value in np.unique(labels) if value]
    rng = np.random.default_rng(1)
    found = Instances(labels.shape)
    found.pred_masks = encode_label_map(labels, values)
    boxes = np.array([_box(rle) for rle in found.pred_masks])
    found.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.as_tensor(rng.integers(0, len(CLASSES), len(values)))
    found.scores = torch.as_tensor(rng.uniform(0.5, 1, len(values)))
    found.pred_masses = torch.as_tensor(rng.uniform(0.1, 50, len(values)))
    return found


def _box(rle: dict) -> list[float]:
    x, y, width, height = toBbox(rle)
    return [x, y, x + width, y + height]


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print wall and processor seconds of a block, and the peak memory of the process after it."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:42s} {wall:7.2f} s {cpu:7.2f} CPU s   peak {_peak():5.2f} GiB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ours(labels: np.ndarray) -> None:
    """Every file of a run with one image."""
    instances = to_instances(labels)
    image = np.random.default_rng(2).integers(60, 90, (*labels.shape, 3), dtype=np.uint8)
    image[labels > 0] += 90
    print(f"{'before':62s} peak {_peak():5.2f} GiB")
    with tempfile.TemporaryDirectory() as folder, timed("all together"):
        run = RunFolder(f"{folder}/run", CLASSES, {})
        with timed("label image and particle table"):
            result = image_result("belt.jpg", instances, CLASSES, RESOLUTION)
        with timed("overlay"):
            overlay = image_overlay(image, result, CLASSES)
        with timed("label PNG, overlay JPEG, run lengths"):
            run.add(ImageFile(Path("belt.jpg"), "belt", RESOLUTION), labels.shape, RESOLUTION, result.labels,
                    result.table, overlay)  # fmt: skip
        with timed("tables and COCO files of the run"):
            run.finish()
    print(f"{len(result.table)} particles")


def yardstick(labels: np.ndarray, network_size: tuple[int, int]) -> None:
    """The table alone, after reference section 5.1: sizes in px of the network, Python for each particle."""
    small = cv2.resize(labels, network_size[::-1], interpolation=cv2.INTER_NEAREST)

    def min_feret(mask: np.ndarray) -> float:
        padded = np.pad(mask, 1).astype(np.uint8)
        contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return min(cv2.minAreaRect(max(contours, key=cv2.contourArea))[1])

    def inscribed_radius(mask: np.ndarray) -> float:
        return distance_transform_edt(np.pad(mask, 1)).max()

    names = ("label", "bbox", "area", "axis_major_length", "axis_minor_length", "feret_diameter_max")
    with timed(f"table at {small.shape[0]} x {small.shape[1]} px"):
        table = regionprops_table(small, properties=names, extra_properties=(min_feret, inscribed_radius))
    print(f"{len(table['label'])} particles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(4096, 6144), metavar=("H", "W"), help="px")
    parser.add_argument("--objects", type=int, default=768, metavar="N")
    parser.add_argument("--yardstick", action="store_true", help="RAMSES2's way instead of ours")
    parser.add_argument("--network-size", type=int, nargs=2, default=(2048, 3072), metavar=("H", "W"), help="px")
    args = parser.parse_args()
    if min(args.objects, *args.size, *args.network_size) < 1:
        parser.error("--objects, --size and --network-size: give numbers from 1 on")
    labels = draw_scene(*args.size, args.objects)
    if args.yardstick:
        yardstick(labels, tuple(args.network_size))
    else:
        ours(labels)


if __name__ == "__main__":
    main()
