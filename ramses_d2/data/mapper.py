"""From a dataset dict to the network's input: image, instances, label map, mass scale.

Shape letters: K objects, H W network input, Hm Wm mask grid: the pixels of H W that nearest-exact sampling with the
mask stride takes, H / stride and W / stride where the stride divides them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from scipy import ndimage

from ramses_d2.data.augmentation import applied_scale, build_augmentation, build_test_augmentation
from ramses_d2.data.images import read_image, read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mask_rcnn import LabelMapMasks
from ramses_d2.modeling.mass import mass_scale

SIZE_MULTIPLE = 64
# An object cut by more than this share of its pixels has lost an unknown part of its mass
_MAX_LOST_SHARE = 0.05


class RamsesDatasetMapper:
    """Maps a dataset dict (see datasets/README.md) to a model input; never returns None.

    The fit "edge" gives images of any size, which the network pads to multiples of 64 at the right and the bottom, in
    training as in prediction; their label map is padded with it.

    Always: ``image`` uint8 (3, H, W), and of the file ``resolution`` (px/mm), ``height``, ``width``,
    ``file_name``, ``image_id``.

    For training also, K >= 0 objects with a pixel on the mask grid, in label order:

    * ``instances``: ``gt_boxes`` (K, 4) XYXY in network-input px, taken from the augmented label map;
      ``gt_classes`` int64 (K,); ``gt_masses`` float32 (K,) grams, NaN where unknown, where the resolution is
      unknown, or where the augmentation cut off a part of the object.
    * ``label_map``: int64 (Hm, Wm), 0 = background, 1 ... K in the order of ``instances``.
    * ``mass_scale``: float, normalised mass = grams * mass_scale on this mask grid; NaN for unknown
      resolution. A resize changes it; crop, padding, flips and rotation do not.

    Mask R-CNN learns masks from ``instances.gt_masks`` (:class:`LabelMapMasks` of the network input) in place of
    ``label_map``; its objects are those with a pixel of the network input.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        image_format: str,
        augmentation: T.Augmentation,
        mask_stride: int,
        with_masks: bool = False,
    ) -> None:
        self.is_train = is_train
        self.image_format = image_format
        self.augmentation = augmentation
        self.mask_stride = mask_stride
        self.with_masks = with_masks

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read INPUT.*, MODEL.META_ARCHITECTURE and MODEL.RAMSES.MASK_STRIDE."""
        with_masks = cfg.MODEL.META_ARCHITECTURE == "MaskRCNN"
        if is_train:
            sizes = (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.MODEL.RAMSES.MASK_STRIDE)
            if cfg.INPUT.FIT not in ("pad", "crop", "edge"):
                raise RamsesError(f"INPUT.FIT is {cfg.INPUT.FIT!r}; it is 'pad', 'crop' or 'edge'")
            short: int | tuple[int, ...]
            if cfg.INPUT.FIT == "edge":
                short, long = training_edges(*sizes, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
            else:
                short, long = training_canvas(*sizes)
            augmentation = build_augmentation(
                short=short,
                long=long,
                fit=cfg.INPUT.FIT,
                sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
                flip=cfg.INPUT.AUG.FLIP,
                vertical_flip=cfg.INPUT.AUG.VERTICAL_FLIP,
                rotation=cfg.INPUT.AUG.ROTATION,
                brightness=cfg.INPUT.AUG.BRIGHTNESS,
                contrast=cfg.INPUT.AUG.CONTRAST,
                noise=cfg.INPUT.AUG.NOISE,
                scale=tuple(cfg.INPUT.AUG.SCALE),
            )
        else:
            augmentation = build_test_augmentation(min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST)
        return {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "augmentation": augmentation,
            "mask_stride": 1 if with_masks else cfg.MODEL.RAMSES.MASK_STRIDE,
            "with_masks": with_masks,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dataset dict."""
        output = {key: dataset_dict[key] for key in ("file_name", "image_id", "height", "width", "resolution")}
        image = read_image(dataset_dict, format=self.image_format)
        if not self.is_train:
            inputs = T.AugInput(image)
            self.augmentation(inputs)
            return output | {"image": _to_tensor(inputs.image)}

        label_map = read_label_map(dataset_dict)
        labels = np.array([annotation["label"] for annotation in dataset_dict["annotations"]], dtype=np.int64)
        areas = np.bincount(label_map.ravel(), minlength=labels.max(initial=0) + 1)[labels]
        # From here on shifted by one, so that 0 is what lies outside the image (see augmentation.py)
        inputs = T.AugInput(image, sem_seg=label_map + 1)
        transforms = self.augmentation(inputs)
        scale_x, scale_y = applied_scale(transforms)
        shifted = np.ascontiguousarray(inputs.sem_seg)
        cut = _cut_objects(shifted, labels + 1, areas * scale_x * scale_y)
        label_map = np.maximum(shifted - 1, 0)

        grid_resolution = dataset_dict["resolution"] * math.sqrt(scale_x * scale_y) / self.mask_stride
        masses = np.array([annotation["mass"] for annotation in dataset_dict["annotations"]], dtype=np.float32)
        masses[cut | math.isnan(grid_resolution)] = np.nan
        classes = np.array([annotation["category_id"] for annotation in dataset_dict["annotations"]], dtype=np.int64)
        instances, grid = build_targets(label_map, labels, classes, masses, self.mask_stride)
        output |= {"image": _to_tensor(inputs.image), "instances": instances}
        output["mass_scale"] = float(mass_scale(grid_resolution))
        if self.with_masks:
            instances.gt_masks = LabelMapMasks(grid.int(), torch.arange(1, len(instances) + 1))
            return output
        return output | {"label_map": grid}


def training_canvas(min_size: int | Sequence[int], max_size: int, mask_stride: int) -> tuple[int, int]:
    """Short and long side of the training canvas from INPUT.MIN_SIZE_TRAIN (one value) and MAX_SIZE_TRAIN, checked."""
    sizes = (min_size,) if isinstance(min_size, int) else tuple(min_size)
    if len(sizes) != 1:
        raise RamsesError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}; give one value, and vary the scale by INPUT.AUG.SCALE "
            "(only INPUT.FIT 'edge' draws from several)"
        )
    short, long = sizes[0], max_size
    for name, size in (("MIN_SIZE_TRAIN", short), ("MAX_SIZE_TRAIN", long)):
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            near = max(1, round(size / SIZE_MULTIPLE)) * SIZE_MULTIPLE
            raise RamsesError(f"INPUT.{name} is {size}, not a multiple of {SIZE_MULTIPLE}; the nearest is {near}")
    if short > long:
        raise RamsesError(f"INPUT.MIN_SIZE_TRAIN ({short}) is above INPUT.MAX_SIZE_TRAIN ({long}); swap them")
    _check_mask_stride(mask_stride)
    return short, long


def training_edges(
    min_size: int | Sequence[int], max_size: int, mask_stride: int, sampling: str
) -> tuple[tuple[int, ...], int]:
    """Shorter sides to draw from and largest longer side of the fit "edge", checked; any size will do."""
    sizes = (min_size,) if isinstance(min_size, int) else tuple(min_size)
    if sampling not in ("choice", "range"):
        raise RamsesError(f"INPUT.MIN_SIZE_TRAIN_SAMPLING is {sampling!r}; it is 'choice' or 'range'")
    for is_wrong, remedy in (
        (not sizes or min(sizes) < 1, "give one or more sizes in px, above 0"),
        (
            sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]),
            "a 'range' is the smallest and the largest size",
        ),
        (sizes and max(sizes) > max_size, f"INPUT.MAX_SIZE_TRAIN is only {max_size}; raise it"),
    ):
        if is_wrong:
            raise RamsesError(f"INPUT.MIN_SIZE_TRAIN is {sizes}; {remedy}")
    _check_mask_stride(mask_stride)
    return sizes, max_size


def _check_mask_stride(mask_stride: int) -> None:
    if mask_stride < 1 or SIZE_MULTIPLE % mask_stride:
        raise RamsesError(f"MODEL.RAMSES.MASK_STRIDE is {mask_stride}; it must divide {SIZE_MULTIPLE}")


def build_targets(
    label_map: np.ndarray, labels: np.ndarray, classes: np.ndarray, masses: np.ndarray, mask_stride: int
) -> tuple[Instances, torch.Tensor]:
    """Instances and int64 label map (Hm, Wm), 1 ... K in their order, of the K <= N objects with a pixel on the mask
    grid.

    The N ascending ``labels`` are values of ``label_map`` (H, W), with classes and masses (g) in their order.
    """
    half = mask_stride // 2
    grid = label_map[half::mask_stride, half::mask_stride]  # nearest-exact for a whole-number stride
    kept = np.isin(labels, grid)
    labels = labels[kept]
    renumber = np.zeros(label_map.max(initial=0) + 1, dtype=np.int64)
    renumber[labels] = np.arange(1, len(labels) + 1)

    found = ndimage.find_objects(label_map)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in (found[label - 1] for label in labels)]
    instances = Instances(label_map.shape)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.from_numpy(classes[kept])
    instances.gt_masses = torch.from_numpy(masses[kept])
    return instances, torch.from_numpy(renumber[grid])


def _cut_objects(shifted: np.ndarray, labels: np.ndarray, expected_areas: np.ndarray) -> np.ndarray:
    """Bool (N,): the object touches the border of the content and has lost more than 5 % of its pixels.

    Only objects at the border are asked, because sampling alone changes the area of a small object as much. In
    ``shifted`` (H, W) 0 is outside the image; whole objects would have ``expected_areas`` (N,) px.
    """
    content = (shifted > 0).astype(np.uint8)
    inner = cv2.erode(content, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    at_border = np.isin(labels, shifted[content > inner])
    areas = np.bincount(shifted.ravel(), minlength=labels.max(initial=0) + 1)[labels]
    return at_border & (areas < (1 - _MAX_LOST_SHARE) * expected_areas)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
