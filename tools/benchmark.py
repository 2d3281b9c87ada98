#!/usr/bin/env python
"""Time and memory by number of particles: a training step, a prediction, and the output files of an image.

Examples:
    python tools/benchmark.py --config-file configs/ramses_femto.yaml --objects 10 768
    python tools/benchmark.py --outputs 4096 6144 --objects 768
    python tools/benchmark.py --outputs 4096 6144 --objects 768 --yardstick

A prediction is the network plus its post-processing. The weights here are random, so post-processing computes the masks
of three candidates for each particle, and then goes on with masks as a trained network makes them: a disc each. For
Mask R-CNN, whose random boxes are few, the ground-truth boxes go through the mask head and its post-processing.
--outputs times what follows the network: from the instances of one image to all files of a run. Its --yardstick is
RAMSES2's way: a label image at the size of the network, region properties, a table only. Memory is the peak of the
whole process so far (on CUDA: of the device), so give the numbers in ascending order, and one way a process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ramses_d2  # noqa: F401  before Detectron2, whose warnings it silences

# isort: split
import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools.mask import toBbox
from scipy import ndimage
from skimage.measure import regionprops_table
from tabulate import tabulate

from ramses_d2.analysis.run import ImageFile, RunFolder, image_overlay, image_result
from ramses_d2.config import load_config
from ramses_d2.engine.solver import build_optimizer
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.masks import encode_label_map
from ramses_d2.modeling.heads import mask_logits
from ramses_d2.modeling.mask_rcnn import LabelMapMasks, MaskRCNN, to_image
from ramses_d2.modeling.meta_arch import SIZE_DIVISIBILITY
from ramses_d2.modeling.nms import suppress
from ramses_d2.modeling.postprocess import GridFrame, GridInstances, InferenceSettings, to_instances

CLASSES = ["Rc", "Ru", "Rb", "Ra", "Rg"]


def crowded_image(cfg: CfgNode, objects: int) -> dict[str, Any]:
    """A training example of the config's size with discs on a regular grid."""
    # The sizes of INPUT.FIT "edge" need not be multiples of what the network takes
    sides = (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN)
    height, width = (-(-side // SIZE_DIVISIBILITY) * SIZE_DIVISIBILITY for side in sides)
    with_masks = cfg.MODEL.META_ARCHITECTURE == "MaskRCNN"
    stride = 1 if with_masks else cfg.MODEL.RAMSES.MASK_STRIDE
    columns = int(np.ceil(np.sqrt(objects * width / height)))
    cell = width // stride / columns
    rows, cols = np.ogrid[: height // stride, : width // stride]
    number = (rows // cell).astype(int) * columns + (cols // cell).astype(int)
    disc = np.hypot(rows % cell - cell / 2, cols % cell - cell / 2) < 0.45 * cell
    label_map = np.where(disc & (number < objects), number + 1, 0)
    if len(np.unique(label_map)) != objects + 1:
        raise RamsesError(f"--objects {objects}: that many do not fit an image of {height} x {width}")
    truth = Instances((height, width))
    truth.gt_classes = torch.arange(objects) % cfg.MODEL.RAMSES.NUM_CLASSES
    truth.gt_masses = torch.ones(objects)
    found = ndimage.find_objects(label_map)
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    truth.gt_boxes = Boxes(stride * torch.tensor(corners, dtype=torch.float32))
    if with_masks:
        truth.gt_masks = LabelMapMasks(torch.from_numpy(label_map).int(), torch.arange(1, objects + 1))
    grey = np.kron(disc, np.ones((stride, stride))) * 120 + 40
    image = torch.from_numpy(np.broadcast_to(grey, (3, height, width)).astype(np.uint8).copy())
    return {
        "image": image,
        "instances": truth,
        "label_map": torch.from_numpy(label_map),
        "mass_scale": 100.0,
        "resolution": 10.0,
        "height": height,
        "width": width,
    }


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def postprocess(label_map: torch.Tensor, objects: int, settings: InferenceSettings, stride: int, channels: int) -> int:
    """Draw and suppress three candidates a particle, bring the survivors to the image; returns their number."""
    labels = torch.arange(1, objects + 1, device=label_map.device).repeat(3)
    features = torch.randn(channels, *label_map.shape, device=label_map.device)
    mask_logits(torch.randn(len(labels), channels, device=label_map.device), features).sigmoid_()
    masks = label_map[None] == labels[:, None, None]
    scores = torch.linspace(0.9, 0.1, len(labels), device=label_map.device)
    classes = torch.zeros_like(labels)
    keep, scores = suppress(
        masks,
        scores,
        classes,
        kind=settings.nms,
        iou_threshold=settings.nms_thresh,
        sigma=settings.nms_sigma,
        min_score=settings.nms_min_score,
        class_agnostic=settings.nms_class_agnostic,
    )
    found = GridInstances(masks[keep].float(), scores, classes[keep], None)
    height, width = (side * stride for side in label_map.shape)
    return len(to_instances(found, GridFrame(height, width, 1 / stride, 1 / stride), None, settings))


def predict_boxes(model: MaskRCNN, image: dict[str, Any]) -> int:
    """Mask R-CNN's prediction, with the true boxes behind its box head and a disc in each; returns their number."""
    images = model.preprocess_image([image])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    model.find_boxes(features, proposals, model.settings)
    truth = image["instances"].to(model.device)
    found = Instances(truth.image_size, pred_boxes=truth.gt_boxes, pred_classes=truth.gt_classes)
    found.scores = torch.linspace(0.9, 0.1, len(found), device=model.device)
    (found,) = model.roi_heads.forward_with_given_boxes(features, [found])
    ticks = torch.linspace(-1, 1, found.pred_masks.shape[-1], device=model.device)
    found.pred_masks = (torch.hypot(ticks[:, None], ticks) < 0.95).float().expand_as(found.pred_masks)
    return len(to_image(found, image["height"], image["width"], model.settings))


def draw_scene(height: int, width: int, count: int) -> np.ndarray:
    """Label image (H, W) of irregular polygons, one in each cell of a grid, sizes spread fivefold."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(count * width / height)))
    step = np.array([width / columns, height / np.ceil(count / columns)])
    labels = np.zeros((height, width), np.uint16)
    for index in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
        radius = rng.choice([0.15, 0.3, 0.5, 0.75], p=[0.25, 0.35, 0.3, 0.1]) * step.min()
        radii = radius * (1 + 0.15 * rng.standard_normal(14)).clip(0.5, 1.5)
        middle = (np.array(divmod(index, columns))[::-1] + 0.5) * step
        points = middle + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        cv2.fillPoly(labels, [points.astype(np.int32)], index + 1)
    return labels


def instances_of(labels: np.ndarray) -> Instances:
    """The particles of a label image as a network predicts them, with RLE masks."""
    values = np.unique(labels[labels > 0]).tolist()
    rng = np.random.default_rng(1)
    found = Instances(labels.shape)
    found.pred_masks = encode_label_map(labels, values)
    boxes = np.array([toBbox(rle) for rle in found.pred_masks]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
    found.pred_classes = torch.as_tensor(rng.integers(0, len(CLASSES), len(values)))
    found.scores = torch.as_tensor(rng.uniform(0.5, 1, len(values)))
    found.pred_masses = torch.as_tensor(rng.uniform(0.1, 50, len(values)))
    return found


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print wall and processor seconds of a block, and the peak memory of the process after it."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:42s} {wall:7.2f} s {cpu:7.2f} CPU s   peak {peak_gib(torch.device('cpu')):5.2f} GiB")


def time_outputs(labels: np.ndarray) -> None:
    """Every file of a run with one image."""
    instances = instances_of(labels)
    image = np.random.default_rng(2).integers(60, 90, (*labels.shape, 3), dtype=np.uint8)
    image[labels > 0] += 90
    print(f"{'before':62s} peak {peak_gib(torch.device('cpu')):5.2f} GiB")
    file = ImageFile(Path("belt.jpg"), "belt", 28.7)
    with tempfile.TemporaryDirectory() as folder, timed("all together"):
        run = RunFolder(f"{folder}/run", CLASSES, {})
        with timed("label image and particle table"):
            result = image_result("belt.jpg", instances, CLASSES, file.resolution)
        with timed("overlay"):
            overlay = image_overlay(image, result, CLASSES)
        with timed("label PNG, overlay JPEG, RLE masks"):
            run.add(file, labels.shape, file.resolution, result.labels, result.table, overlay)
        with timed("tables and COCO files of the run"):
            run.finish()
    print(f"{len(result.table)} particles")


def time_yardstick(labels: np.ndarray, network_size: tuple[int, int] = (2048, 3072)) -> None:
    """RAMSES2's way, the table alone: sizes in px of the network, Python functions for each particle."""
    small = cv2.resize(labels, network_size[::-1], interpolation=cv2.INTER_NEAREST)

    def min_feret(mask: np.ndarray) -> float:
        contours, _ = cv2.findContours(np.pad(mask, 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        return min(cv2.minAreaRect(max(contours, key=cv2.contourArea))[1])

    def inscribed_radius(mask: np.ndarray) -> float:
        return ndimage.distance_transform_edt(np.pad(mask, 1)).max()

    names = ("label", "bbox", "area", "axis_major_length", "axis_minor_length", "feret_diameter_max")
    with timed(f"table at {small.shape[0]} x {small.shape[1]} px"):
        table = regionprops_table(small, properties=names, extra_properties=(min_feret, inscribed_radius))
    print(f"{len(table['label'])} particles")


def time_network(args: argparse.Namespace) -> None:
    """Training step and prediction for each number of particles."""
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.RAMSES.TEST.SCORE_THRESH = 1.1  # the random network is to find nothing
    cfg.MODEL.RAMSES.TEST.MASK_FORMAT = "rle"
    torch.manual_seed(0)
    model = build_model(cfg)
    device = model.device
    optimizer = build_optimizer(cfg, model)

    def train_step() -> None:
        model.train()
        with EventStorage(), torch.autocast(device.type, enabled=cfg.SOLVER.AMP.ENABLED):
            losses = model([image])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    def predict() -> None:
        model.eval()
        with torch.no_grad():
            if isinstance(model, MaskRCNN):
                assert predict_boxes(model, image) == objects
                return
            model([image])
            ramses = cfg.MODEL.RAMSES
            found = postprocess(label_map, objects, model.settings, ramses.MASK_STRIDE, ramses.MASK_HEAD.OUT_CHANNELS)
        assert found == objects

    rows = []
    for objects in args.objects:
        image = crowded_image(cfg, objects)
        label_map = image["label_map"].to(device)
        for name, step in (("prediction", predict), ("training step", train_step)):
            if device.type == "cuda":
                step()  # the first call sets CUDA up
            seconds = sorted(seconds_of(step, device) for _ in range(args.repeat))
            rows.append([objects, name, seconds[len(seconds) // 2], peak_gib(device)])
            print(f"{objects} particles, {name}: {rows[-1][2]:.2f} s", flush=True)
    size = f"{cfg.INPUT.MIN_SIZE_TRAIN[0]}x{cfg.INPUT.MAX_SIZE_TRAIN}"
    threads = torch.get_num_threads()
    print(f"\n{args.config_file}, {size} px, batch 1, {device}, {threads} threads, median of {args.repeat}")
    print(tabulate(rows, ["particles", "step", "seconds", "peak GiB"], floatfmt=".2f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", help="time the network of this config")
    what.add_argument("--outputs", type=int, nargs=2, metavar=("H", "W"), help="time the files of an image, px")
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 100, 768], help="numbers of particles")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each step; the median is printed")
    parser.add_argument("--yardstick", action="store_true", help="with --outputs: RAMSES2's way instead of ours")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args()
    if min(*args.objects, args.repeat, *(args.outputs or ())) < 1:
        parser.error("--objects, --repeat and --outputs: give numbers from 1 on")
    with exit_on_error():
        if args.config_file:
            time_network(args)
            return
        for objects in args.objects:
            (time_yardstick if args.yardstick else time_outputs)(draw_scene(*args.outputs, objects))


if __name__ == "__main__":
    main()
