"""What TensorBoard shows beside the numbers that Detectron2 writes for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.engine import HookBase
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..data.preview import contact_sheet

# Annotated images of an evaluation
EVALUATION_IMAGES = 4


def has_tensorboard() -> bool:
    """Whether images and numbers can be written for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


class TrainingImages(HookBase):
    """Stores what the network is fed, augmentation and outlines included, every few steps as "train/picture".

    Networks of Detectron2 do so by themselves, with boxes; their training items have no label map.

    Args:
        model: the network, or its DistributedDataParallel.
        period: steps (VIS_PERIOD), above 0.
        class_names: of the class ids.
        image_format: "RGB" or "BGR", INPUT.FORMAT.
    """

    def __init__(self, model: nn.Module, period: int, class_names: Sequence[str], image_format: str) -> None:
        self._model, self._period = model, period
        self._class_names, self._format = class_names, image_format
        self._handle: RemovableHandle | None = None

    def before_train(self) -> None:
        self._handle = self._model.register_forward_pre_hook(self._store)

    def after_train(self) -> None:
        if self._handle is not None:  # None where the training failed before its first step
            self._handle.remove()

    def _store(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not model.training or self.trainer.iter % self._period:
            return
        items = [item for item in arguments[0][:1] if "label_map" in item]
        if items:
            image = contact_sheet(items, self._class_names, self._format)
            self.trainer.storage.put_image("train/picture", np.ascontiguousarray(image.transpose(2, 0, 1)))
