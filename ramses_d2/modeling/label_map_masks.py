"""Ground-truth masks for Detectron2's mask heads out of a label map, instead of a stack of bit masks.

Shape letters: K objects, B boxes, M side of a mask target, H W network input.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes

# Samples along each side of a bin, and the sampled values held at a time
_SAMPLES = 2
_CHUNK = 2**24


class LabelMapMasks:
    """Masks of K objects that share one label map; takes the place of :class:`detectron2.structures.BitMasks`.

    Selecting objects, with repeats as Detectron2 does for proposals, copies their labels and nothing else.

    Args:
        label_map: integer (H, W), 0 = background.
        labels: (K,) values of the objects in it.
    """

    def __init__(self, label_map: torch.Tensor, labels: torch.Tensor) -> None:
        self.label_map = label_map
        self.labels = labels

    @property
    def device(self) -> torch.device:
        return self.label_map.device

    @property
    def image_size(self) -> tuple[int, int]:
        return self.label_map.shape[0], self.label_map.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def __getitem__(self, item: int | slice | torch.Tensor) -> LabelMapMasks:
        """The masks chosen by a number, a slice, or a bool or int tensor."""
        labels = self.labels[item]
        return LabelMapMasks(self.label_map, labels.reshape(-1))

    def to(self, *args: Any, **kwargs: Any) -> LabelMapMasks:
        """On another device; values stay integers."""
        label_map = self.label_map.to(*args, **kwargs)
        return LabelMapMasks(label_map, self.labels.to(label_map.device))

    def nonempty(self) -> torch.Tensor:
        """Bool (K,): the object has a pixel."""
        return torch.isin(self.labels, self.label_map)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes (K, 4) XYXY, end exclusive; zeros for an object without a pixel."""
        boxes = torch.zeros(len(self), 4)
        for box, label in zip(boxes, self.labels, strict=True):
            rows, columns = (self.label_map == label).nonzero(as_tuple=True)
            if len(rows):
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                box.copy_(torch.stack(ends))
        return Boxes(boxes)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """What of each object is in its box, as training targets of a mask head.

        A bin is set where at least half of it is object, by ``_SAMPLES`` x ``_SAMPLES`` bilinear samples, as ROIAlign
        takes them.

        Args:
            boxes: (K, 4) XYXY, network-input px, one for each mask.
            mask_size: M.

        Returns:
            bool (K, M, M).
        """
        boxes = boxes.to(self.device, torch.float32)
        at_once = max(1, _CHUNK // (mask_size * _SAMPLES) ** 2)
        parts = [
            self._crop(labels, chunk, mask_size)
            for labels, chunk in zip(self.labels.split(at_once), boxes.split(at_once), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, mask_size, mask_size, dtype=torch.bool, device=self.device)

    def _crop(self, labels: torch.Tensor, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        count = mask_size * _SAMPLES
        steps = (torch.arange(count, device=self.device) + 0.5) / count
        height, width = self.image_size
        x0, x1, across = _neighbours(boxes[:, 0], boxes[:, 2], steps, width)
        y0, y1, along = _neighbours(boxes[:, 1], boxes[:, 3], steps, height)

        def inside(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return (self.label_map[y[:, :, None], x[:, None, :]] == labels[:, None, None]).float()

        upper = torch.lerp(inside(y0, x0), inside(y0, x1), across[:, None, :])
        lower = torch.lerp(inside(y1, x0), inside(y1, x1), across[:, None, :])
        share = torch.lerp(upper, lower, along[:, :, None])
        bins = share.view(len(labels), mask_size, _SAMPLES, mask_size, _SAMPLES).mean(dim=(2, 4))
        return bins >= 0.5


def _neighbours(
    start: torch.Tensor, stop: torch.Tensor, steps: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two pixels beside each sample of each interval, (B, samples), and the weight of the second one."""
    position = (start[:, None] + (stop - start)[:, None] * steps - 0.5).clamp(0, size - 1)
    low = position.long()
    return low, (low + 1).clamp(max=size - 1), position - low
