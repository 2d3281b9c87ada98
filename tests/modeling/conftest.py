"""A tiny network and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from ramses_d2.config import add_ramses_config
from ramses_d2.modeling.meta_arch import RAMSES

TINY_YAML = Path(__file__).parents[1] / "ramses_tiny.yaml"


@pytest.fixture
def tiny_cfg() -> CfgNode:
    cfg = get_cfg()
    add_ramses_config(cfg)
    cfg.merge_from_file(str(TINY_YAML))
    return cfg


@pytest.fixture
def build_tiny(tiny_cfg: CfgNode) -> Callable[..., RAMSES]:
    """Factory of tiny networks; takes KEY, VALUE overrides."""

    def build(*overrides: Any) -> RAMSES:
        tiny_cfg.merge_from_list(list(overrides))
        torch.manual_seed(0)
        return build_model(tiny_cfg)

    return build


def training_item(
    label_map: np.ndarray, *, stride: int = 8, masses: list[float] | None = None, seed: int = 0
) -> dict[str, Any]:
    """A training example whose image shows the label map; label k has class (k - 1) % 3 and, unless told, k grams."""
    num = int(label_map.max())
    height, width = (side * stride for side in label_map.shape)
    truth = Instances((height, width))
    truth.gt_classes = torch.arange(num) % 3
    truth.gt_masses = torch.tensor(masses if masses is not None else range(1, num + 1), dtype=torch.float32)
    truth.gt_boxes = Boxes(torch.zeros(num, 4))
    grey = np.kron(label_map, np.ones((stride, stride))) * 40 % 200
    noise = np.random.default_rng(seed).integers(0, 20, (3, height, width))
    image = torch.from_numpy((grey + noise).astype(np.uint8))
    return {
        "image": image,
        "instances": truth,
        "label_map": torch.from_numpy(label_map.astype(np.int64)),
        "mass_scale": 25.0,
        "resolution": 4.0,
        "height": height,
        "width": width,
    }


def blocks(rows: int, cols: int, count: int, size: int = 3) -> np.ndarray:
    """Label map with ``count`` squares of side ``size`` in a regular pattern."""
    label_map = np.zeros((rows, cols), np.int64)
    per_row = cols // (size + 1)
    for index in range(count):
        r, c = divmod(index, per_row)
        label_map[r * (size + 1) : r * (size + 1) + size, c * (size + 1) : c * (size + 1) + size] = index + 1
    return label_map
