"""Settings that fit a data set. The rules are those that made the demo and the published network work; see each one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..data.assignment_statistics import mapped_image, suggest_assignment
from ..data.preview import assignment_of, mapped_items
from ..engine import load_config
from ..errors import RamsesError
from .survey import Survey

TASKS = ("ramses", "solov2", "mask_rcnn")
# Base config by task: for small images, where one fine grid and a slim backbone do, and for large ones
_BASES = {
    "ramses": ("ramses_demo.yaml", "ramses_femto.yaml"),
    "solov2": ("ramses_demo.yaml", "ramses_femto.yaml"),
    "mask_rcnn": ("MaskRCNN/mask_rcnn_demo.yaml", "MaskRCNN/mask_rcnn_convnextv2_femto_FPN.yaml"),
}
_SLIM_UP_TO = 640
_LARGEST_SIDE = 3072
_MULTIPLE = 64


@dataclass(frozen=True)
class Plan:
    """Settings of a training, each under the name of its key.

    Attributes:
        task: of :data:`TASKS`.
        base: config that the others are changes of.
        weighs: whether the network has masses to learn from.
        short_side, long_side: of the network input, px.
        zoom: px of the network input per px of the files.
        grid_sizes, scale_ranges: of RAMSES and SOLOv2.
        mask_stride, upscale: of RAMSES and SOLOv2.
        anchors: sizes of Mask R-CNN's anchors, px of the network input, one per level.
        batch, learning_rate, steps, warmup, period: of the schedule; ``period`` of evaluations and checkpoints.
        detections: most instances of an image.
    """

    task: str
    base: Path
    weighs: bool
    short_side: int
    long_side: int
    zoom: float
    grid_sizes: list[int]
    scale_ranges: list[list[int]]
    mask_stride: int
    upscale: str
    anchors: list[list[int]]
    batch: int
    learning_rate: float
    steps: int
    warmup: int
    period: int
    detections: int

    @property
    def slim(self) -> bool:
        return self.base.name.endswith("demo.yaml")


def choose_task(survey: Survey, task: str | None) -> str:
    """The task, or the one that the data allows: masses need weighed particles and a resolution.

    Raises:
        RamsesError: RAMSES is wanted, and nothing is weighed.
    """
    if task is None:
        return "ramses" if survey.weighed else "solov2"
    if task == "ramses" and not survey.weighed:
        raise RamsesError(
            "no particle of known mass in an image of known resolution: RAMSES has nothing to learn masses from; take "
            "--task solov2, or add masses (tools/prepare_data.py masses)"
        )
    return task


def input_size(survey: Survey) -> tuple[int, int, float]:
    """Short and long side of the network input, and px of it per px of the files.

    The small particles (5th percentile) keep 20 px and the usual ones 40, as far as the images have them; nothing is
    enlarged on purpose, and no side is above that of the published network.
    """
    zoom = min(1.0, max(20 / survey.scale_5, 40 / survey.scale_50), _LARGEST_SIDE / survey.long_side)
    long_side = min(_round_up(zoom * survey.long_side), _LARGEST_SIDE)
    short_side = min(_round_up(long_side * survey.aspect), long_side)
    return short_side, long_side, long_side / survey.long_side


def choose_plan(survey: Survey, train: str, images: int, configs: Path, task: str | None = None, seed: int = 1) -> Plan:
    """Choose settings for a data set.

    Args:
        survey: of the data.
        train: its address.
        images: how many of them are to train on.
        configs: folder of the configs that come with this project.
        task: of :data:`TASKS`; None = by the data.
        seed: of the sample of augmented images that grids are fitted to.

    Raises:
        RamsesError: a task that the data does not allow.
    """
    task = choose_task(survey, task)
    short_side, long_side, zoom = input_size(survey)
    slim = long_side <= _SLIM_UP_TO
    base = configs / _BASES[task][0 if slim else 1]
    small, usual, large = (zoom * scale for scale in (survey.scale_5, survey.scale_50, survey.scale_95))
    # Half the pixels of a mask are lost at its rim when a particle has few of them
    fine = slim and small < 24
    mask_stride, upscale = (2, "output") if fine else (4, "") if slim else (8, "")
    grids, ranges = [], []
    if task != "mask_rcnn":
        grids, ranges = _fit_grids(base, train, short_side, long_side, mask_stride, upscale, survey, seed)
    levels = 3 if slim else 5
    batch = 2 if slim else max(1, min(8, int(2 * 2048 * 3072 / (short_side * long_side))))
    # The demo's 9000 looks at its 360 images; the published network's 100 passes
    looks = min(max(25 * images, 6000), 40000) if slim else min(max(100 * images, 8000), 360000)
    steps = _round_to(looks / batch, 100)
    return Plan(
        task=task,
        base=base,
        weighs=survey.weighed > 0,
        short_side=short_side,
        long_side=long_side,
        zoom=zoom,
        grid_sizes=grids,
        scale_ranges=ranges,
        mask_stride=mask_stride,
        upscale=upscale,
        anchors=[[size] for size in _anchors(small, usual, large, levels)],
        batch=batch,
        learning_rate=0.002 if slim else 0.0001 * batch / 8,
        steps=steps,
        warmup=min(500, max(steps * 6 // 100, 1)),
        period=max(steps // 10, 1),
        detections=max(100, _round_up(1.5 * survey.most_particles, 50)),
    )


def _fit_grids(
    base: Path, train: str, short: int, long: int, stride: int, upscale: str, survey: Survey, seed: int
) -> tuple[list[int], list[list[int]]]:
    """Grid sizes and scale ranges for augmented training images, as ``prepare_data.py preview --suggest``."""
    overrides = ["INPUT.MIN_SIZE_TRAIN", (short,), "INPUT.MAX_SIZE_TRAIN", long, "MODEL.DEVICE", "cpu"]
    overrides += ["MODEL.RAMSES.MASK_STRIDE", stride, "MODEL.RAMSES.MASK_HEAD.UPSCALE", upscale]
    overrides += ["MODEL.RAMSES.NUM_CLASSES", len(survey.classes), "DATASETS.TRAIN", (train,)]
    cfg = load_config(str(base), overrides)
    images = [mapped_image(item) for item in mapped_items(cfg, [train], 60, seed)]
    try:
        fitted = suggest_assignment(images, assignment_of(cfg))
    except ValueError as error:
        raise RamsesError(f"{train}: {error}") from error
    return list(fitted.grid_sizes), [[int(low), int(high)] for low, high in fitted.scale_ranges]


def _anchors(small: float, usual: float, large: float, levels: int) -> list[int]:
    """Sizes from the small to the large particles in even steps of their logarithm, the usual one among them."""
    if levels == 3:
        sizes = [small, usual, large]
    else:
        low, high = math.log(small), math.log(max(large, 2 * small))
        sizes = [math.exp(low + (high - low) * index / (levels - 1)) for index in range(levels)]
    rounded = [max(4, round(size)) for size in sizes]
    return [max(size, rounded[0] + index) for index, size in enumerate(rounded)]


def _round_up(value: float, multiple: int = _MULTIPLE) -> int:
    return max(multiple, math.ceil(value / multiple) * multiple)


def _round_to(value: float, multiple: int) -> int:
    return max(multiple, round(value / multiple) * multiple)
