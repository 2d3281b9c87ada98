#!/usr/bin/env python
"""Time and memory of one training step and one prediction, by number of particles.

Example:
    python tools/benchmark.py --config-file configs/ramses_femto.yaml --objects 10 768

A prediction is the network plus its post-processing. The weights here are random, so post-processing computes the masks
of three candidates for each particle, and then goes on with masks as a trained network makes them: a disc each. Of
Mask R-CNN, whose random boxes are few, the true boxes go through the mask head and its post-processing. Memory
is the peak of the whole process so far (on CUDA: of the device), so give the numbers in ascending order.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import ramses_d2  # noqa: F401  before Detectron2, whose warnings it silences

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from scipy import ndimage
from tabulate import tabulate

from ramses_d2.config import load_config
from ramses_d2.engine.solver import build_optimizer
from ramses_d2.errors import RamsesError, exit_on_error
from ramses_d2.modeling.heads import mask_logits
from ramses_d2.modeling.mask_rcnn import LabelMapMasks, MaskRCNN, to_image
from ramses_d2.modeling.meta_arch import SIZE_DIVISIBILITY
from ramses_d2.modeling.nms import suppress
from ramses_d2.modeling.postprocess import GridFrame, GridInstances, InferenceSettings, to_instances


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


def seconds_of(step: Any, device: torch.device) -> float:
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


def main(args: argparse.Namespace) -> None:
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 100, 768], help="numbers of particles")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each step; the median is printed")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    given = parser.parse_args()
    if min(*given.objects, given.repeat) < 1:
        parser.error("--objects and --repeat: give numbers from 1 on")
    with exit_on_error():
        main(given)
