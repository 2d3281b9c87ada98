"""The meta-architecture: it wires backbone, heads, targets, losses and post-processing, and does no maths of its own.

Shape letters: N images, E mask channels, H W network input (padded), Hm Wm mask grid.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

from ramses_d2.config import Range, check_ranges
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import CellPredictions, MaskHead, SharedHead
from ramses_d2.modeling.losses import MASS_LOSSES, focal_loss, mask_loss, mass_loss
from ramses_d2.modeling.mass import (
    ArealDensity,
    ImageResolution,
    geometry_sums,
    mass_in_grams,
    mass_scale,
    normalize_mass,
)
from ramses_d2.modeling.postprocess import GridFrame, InferenceSettings, grid_instances, sampling_offset, to_instances
from ramses_d2.modeling.targets import LEVEL_RULES, assign_cells, grid_shape, object_geometry, sample_cells

# Grids are rounded from the image's aspect ratio and the mask head doubles coarse maps: both need multiples of 64
SIZE_DIVISIBILITY = 64


def predict_by_size(
    batched_inputs: Sequence[dict[str, Any]], predict: Callable[[list[dict[str, Any]]], list[Instances]]
) -> list[dict[str, Instances]]:
    """{"instances": Instances} of each input, in the order given; ``predict`` gets those of one size together.

    Mixing sizes would pad some, and padding changes both RAMSES' grids and ConvNeXt's global response normalisation: an
    image's result must not depend on its neighbours in the batch.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(batched_inputs):
        groups[tuple(item["image"].shape)].append(index)
    results: list[dict[str, Instances]] = [{} for _ in batched_inputs]
    for indices in groups.values():
        found = predict([batched_inputs[i] for i in indices])
        for index, result in zip(indices, found, strict=True):
            results[index] = {"instances": result}
    return results


_RANGES = {
    "MODEL.FPN.OUT_CHANNELS": Range(1),
    "MODEL.FPN.EXTRA_LEVELS": Range(0),
    "MODEL.RAMSES.NUM_CLASSES": Range(1),
    "MODEL.RAMSES.GRID_SIZES": Range(1),
    "MODEL.RAMSES.NORM_GROUPS": Range(1),
    "MODEL.RAMSES.HEAD.CONVS": Range(0),
    "MODEL.RAMSES.HEAD.FACTOR_CONVS": Range(0),
    "MODEL.RAMSES.HEAD.CHANNELS": Range(1),
    "MODEL.RAMSES.HEAD.KERNEL_SIZE": Range(1),
    "MODEL.RAMSES.HEAD.PRIOR_PROB": Range(0, 1, is_open=True),
    "MODEL.RAMSES.MASK_HEAD.MID_CHANNELS": Range(1),
    "MODEL.RAMSES.MASK_HEAD.OUT_CHANNELS": Range(1),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CONVS": Range(0),
    "MODEL.RAMSES.MASK_HEAD.GEOMETRY_CHANNELS": Range(1),
}


def _check_settings(cfg: CfgNode) -> None:
    """Check what can be wrong in ``MODEL.RAMSES`` and ``MODEL.FPN`` before anything is built."""
    check_ranges(cfg, _RANGES)
    ramses = cfg.MODEL.RAMSES
    if ramses.HEAD.KERNEL_SIZE % 2 == 0:
        raise RamsesError(f"MODEL.RAMSES.HEAD.KERNEL_SIZE is {ramses.HEAD.KERNEL_SIZE}, use an odd number from 1 on")
    for key, levels in (("IN_FEATURES", ramses.IN_FEATURES), ("MASK_HEAD.IN_FEATURES", ramses.MASK_HEAD.IN_FEATURES)):
        if not levels:
            raise RamsesError(f"MODEL.RAMSES.{key} is empty, name one pyramid level or more, such as p3")
    counts = {key: len(ramses[key]) for key in ("IN_FEATURES", "GRID_SIZES", "SCALE_RANGES")}
    if len(set(counts.values())) > 1:
        raise RamsesError(f"MODEL.RAMSES: the lengths are {counts}, give one of each per pyramid level")
    for key, value, allowed in (
        ("LOSS.MASS_TYPE", ramses.LOSS.MASS_TYPE, MASS_LOSSES),
        ("LEVEL_RULE", ramses.LEVEL_RULE, LEVEL_RULES),
    ):
        if value not in allowed:
            raise RamsesError(f'MODEL.RAMSES.{key} is "{value}", use one of {", ".join(allowed)}')


@META_ARCH_REGISTRY.register()
class RAMSES(nn.Module):
    """SOLOv2 with a mass branch; the arguments are those of ``MODEL.RAMSES`` in config.py."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        # Heads
        shared_head: nn.Module,
        mask_head: nn.Module,
        in_features: Sequence[str],  # with grid_sizes and scale_ranges: of the shared head's levels, fine to coarse
        grid_sizes: Sequence[int],
        square_grids: bool,
        mask_in_features: Sequence[str],
        mask_stride: int,  # network-input pixels per mask-grid pixel
        # Targets and losses
        scale_ranges: Sequence[Sequence[float]],
        level_rule: str,
        offset_factor: float,
        max_pos_per_image: int,
        loss_weights: dict[str, float],  # of "loss_cls", "loss_mask" and "loss_mass"
        focal_alpha: float,
        focal_gamma: float,
        mass_loss_type: str,
        # Inference
        settings: InferenceSettings,
        resolution: float,  # px/mm of images that state none; 0 = unknown
        areal_density: ArealDensity | None = None,  # gives masses where there is no mass branch
        # Input
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.shared_head = shared_head
        self.mask_head = mask_head
        self.in_features, self.grid_sizes = list(in_features), list(grid_sizes)
        self.mask_in_features, self.mask_stride = list(mask_in_features), mask_stride
        self.square_grids = square_grids
        self.scale_ranges, self.offset_factor = [list(pair) for pair in scale_ranges], offset_factor
        self.level_rule = level_rule
        self.max_pos_per_image = max_pos_per_image
        self.loss_weights = loss_weights
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.mass_loss_type = mass_loss_type
        self.settings = settings
        self.image_resolution = ImageResolution(resolution)
        self.areal_density = areal_density
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.in_features]
        stride = shapes[self.mask_in_features[mask_head.output_level]].stride // (2 if mask_head.upscale else 1)
        if stride != mask_stride:
            raise RamsesError(
                f"MODEL.RAMSES.MASK_STRIDE is {mask_stride}, but this network's mask grid has stride {stride}"
            )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        _check_settings(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        ramses, loss = cfg.MODEL.RAMSES, cfg.MODEL.RAMSES.LOSS
        missing = (set(ramses.IN_FEATURES) | set(ramses.MASK_HEAD.IN_FEATURES)) - set(shapes)
        if missing:
            raise RamsesError(f"MODEL.RAMSES...IN_FEATURES: no level {sorted(missing)}, there are {sorted(shapes)}")
        return {
            "backbone": backbone,
            # Heads
            "shared_head": SharedHead(cfg, shapes),
            "mask_head": MaskHead(cfg, shapes),
            "in_features": ramses.IN_FEATURES,
            "grid_sizes": ramses.GRID_SIZES,
            "square_grids": ramses.SQUARE_GRIDS,
            "mask_in_features": ramses.MASK_HEAD.IN_FEATURES,
            "mask_stride": ramses.MASK_STRIDE,
            # Targets and losses
            "scale_ranges": ramses.SCALE_RANGES,
            "level_rule": ramses.LEVEL_RULE,
            "offset_factor": ramses.OFFSET_FACTOR,
            "max_pos_per_image": loss.MAX_POS_PER_IMAGE,
            "loss_weights": {"loss_cls": loss.CLS_WEIGHT, "loss_mask": loss.MASK_WEIGHT, "loss_mass": loss.MASS_WEIGHT},
            "focal_alpha": loss.FOCAL_ALPHA,
            "focal_gamma": loss.FOCAL_GAMMA,
            "mass_loss_type": loss.MASS_TYPE,
            # Inference
            "settings": InferenceSettings.from_config(cfg),
            "resolution": cfg.INPUT.RESOLUTION,
            "areal_density": ArealDensity.from_config(cfg),
            # Input
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def used_levels(self) -> set[str]:
        return {*self.in_features, *self.mask_in_features}

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """The losses in training, otherwise {"instances": Instances} of each image, see ``postprocess.to_instances``.

        Args:
            batched_inputs: dicts with "image" (3, h, w) in ``INPUT.FORMAT``; in training also "instances" (gt_classes,
                gt_masses in grams), "label_map" (Hm, Wm) and "mass_scale"; at inference "height" and "width" of the
                image wanted and "resolution" of it in px/mm, all optional.
        """
        return self._losses(batched_inputs) if self.training else self.inference(batched_inputs)

    def inference(
        self, batched_inputs: list[dict[str, Any]], settings: InferenceSettings | None = None
    ) -> list[dict[str, Instances]]:
        """Predict images as :meth:`forward` does, with settings for this call instead of the network's own."""
        settings = settings or self.settings
        return predict_by_size(batched_inputs, lambda items: self._predict(items, settings))

    def raw_outputs(
        self, images: torch.Tensor
    ) -> tuple[CellPredictions, torch.Tensor, torch.Tensor | None, list[tuple[int, int]]]:
        """(N, 3, H, W) -> cell predictions, mask features (N, E, Hm, Wm), geometry map (N, Hm, Wm), grid shapes."""
        features = self.backbone(images)
        # From the level's own shape, as in the original: at stride 128 it has another aspect ratio than the image
        shapes = [
            grid_shape(size, *features[name].shape[-2:], square=self.square_grids)
            for name, size in zip(self.in_features, self.grid_sizes, strict=True)
        ]
        cells = self.shared_head([features[name] for name in self.in_features], shapes)
        mask_features, geometry = self.mask_head([features[name] for name in self.mask_in_features])
        return cells, mask_features, geometry, shapes

    def _batch(self, batched_inputs: list[dict[str, Any]]) -> torch.Tensor:
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, SIZE_DIVISIBILITY).tensor

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = self._batch(batched_inputs)
        cells, features, geometry, shapes = self.raw_outputs(images)
        height, width = images.shape[-2:]
        with torch.autocast(device_type=self.device.type, enabled=False):
            parts = [
                self._image_losses(item, cells, features, geometry, shapes, (height, width), index)
                for index, item in enumerate(batched_inputs)
            ]
            names = list(parts[0][0])
            counts = torch.tensor([[float(part[name]) for _, part in parts] for name in names], device=self.device)
            totals = counts.sum(1)
            # Every rank takes part, with or without objects
            normalizers = _mean_over_ranks(totals).clamp(min=1)
            losses = {
                name: self.loss_weights[name] * sum(part[name] for part, _ in parts) / normalizer
                for name, normalizer in zip(names, normalizers, strict=True)
            }
        get_event_storage().put_scalar("ramses/positive_cells", float(totals[0]) / len(parts))
        return losses

    def _image_losses(
        self,
        item: dict[str, Any],
        cells: CellPredictions,
        features: torch.Tensor,
        geometry: torch.Tensor | None,
        shapes: list[tuple[int, int]],
        image_size: tuple[int, int],
        index: int,
    ) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """Unnormalised losses of one image, and the numbers they are to be divided by."""
        ground_truth: Instances = item["instances"].to(self.device)
        grid = features.shape[-2:]
        label_map = item["label_map"].to(self.device)
        label_map = F.pad(label_map, (0, grid[1] - label_map.shape[1], 0, grid[0] - label_map.shape[0]))
        labels = assign_cells(
            object_geometry(label_map, len(ground_truth)),
            image_size,
            shapes,
            self.strides,
            self.scale_ranges,
            self.offset_factor,
            self.level_rule,
        )
        positive = labels.nonzero()[:, 0]
        logits = cells.class_logits[index]
        background = ground_truth.gt_classes.new_full((1,), logits.shape[1])
        classes = torch.cat((background, ground_truth.gt_classes))[labels]
        sampled = positive[sample_cells(labels[positive], max(self.max_pos_per_image, len(ground_truth)))]
        owners = labels[sampled]
        losses = {
            "loss_cls": focal_loss(logits, classes, self.focal_alpha, self.focal_gamma),
            "loss_mask": mask_loss(cells.kernels[index][sampled].float(), features[index].float(), owners, label_map),
        }
        counts = {"loss_cls": len(positive), "loss_mask": len(sampled)}
        if geometry is not None:
            sums = geometry_sums(geometry[index].float(), label_map, len(ground_truth))
            predicted = cells.factors[index][sampled].float() * sums[owners - 1]
            target = normalize_mass(ground_truth.gt_masses, item["mass_scale"])[owners - 1]
            losses["loss_mass"], counts["loss_mass"] = mass_loss(predicted, target, owners, self.mass_loss_type)
        return losses, counts

    def _predict(self, batched_inputs: list[dict[str, Any]], settings: InferenceSettings) -> list[Instances]:
        """Predict images of one size."""
        cells, features, geometry, shapes = self.raw_outputs(self._batch(batched_inputs))
        # Areas and masses overflow fp16, so what follows the network is fp32 whatever the caller's autocast says
        with torch.autocast(device_type=self.device.type, enabled=False):
            probabilities = cells.class_logits.float().sigmoid()
            results = []
            for index, item in enumerate(batched_inputs):
                found = grid_instances(
                    probabilities[index],
                    cells.kernels[index].float(),
                    None if cells.factors is None else cells.factors[index].float(),
                    features[index].float(),
                    None if geometry is None else geometry[index].float(),
                    shapes,
                    settings,
                )
                frame = self.grid_frame(item)
                masses = None
                if found.masses is not None:
                    grid_resolution = self.image_resolution(item) * math.sqrt(frame.step_y * frame.step_x)
                    masses = mass_in_grams(found.masses, mass_scale(grid_resolution))
                instances = to_instances(found, frame, masses, settings)
                if self.areal_density is not None and self.areal_density.is_known:
                    self.areal_density.add_masses(instances, self.image_resolution(item))
                results.append(instances)
        return results

    def grid_frame(self, item: dict[str, Any]) -> GridFrame:
        """How the mask grid lies over the original image of an input."""
        in_height, in_width = item["image"].shape[-2:]
        height, width = item.get("height", in_height), item.get("width", in_width)
        stride = self.mask_stride
        return GridFrame(height, width, in_height / height / stride, in_width / width / stride, sampling_offset(stride))


def _mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Average of a tensor over all processes; every process must call it."""
    if comm.get_world_size() == 1:
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / comm.get_world_size()
