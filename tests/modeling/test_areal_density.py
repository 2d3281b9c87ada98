"""Grams from areas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from ramses_d2.config import load_config
from ramses_d2.masks import RLEMasks, encode_in_box
from ramses_d2.modeling.mass import ArealDensity, mask_areas
from tests.tools.command_line import ROOT


def instances(*, run_lengths: bool) -> Instances:
    """Three rectangles of 20, 6 and 0 px."""
    masks = torch.zeros(3, 30, 40, dtype=torch.bool)
    masks[0, 5:9, 10:15] = masks[1, 20:22, 30:33] = True
    rles = RLEMasks(encode_in_box(mask.numpy(), 0, 0, 30, 40) for mask in masks)
    return Instances((30, 40), pred_classes=torch.tensor([2, 0, 1]), pred_masks=rles if run_lengths else masks)


@pytest.mark.parametrize("run_lengths", [False, True])
def test_grams(run_lengths: bool) -> None:
    density = ArealDensity(3)
    density.set_densities([0.5, 0.25, 0.1])
    found = instances(run_lengths=run_lengths)
    density.add_masses(found, 2.0)  # 4 px are a square millimetre
    assert found.pred_masses.tolist() == pytest.approx([0.1 * 20 / 4, 0.5 * 6 / 4, 0.0])
    assert mask_areas(found.pred_masks).tolist() == [20, 6, 0]
    density.add_masses(found, float("nan"))
    assert found.pred_masses.isnan().all()


def test_unknown_densities_weigh_nothing() -> None:
    density, found = ArealDensity(3), instances(run_lengths=True)
    density.add_masses(found, 2.0)
    assert not density.is_known and not found.has("pred_masses")
    density.set_densities(np.array([1.0, 2.0, 3.0]))
    other = ArealDensity(3)
    other.load_state_dict(density.state_dict())
    assert other.is_known and other.grams_per_mm2.tolist() == [1, 2, 3]


def test_many_run_lengths() -> None:
    """More than pycocotools 2.0.11 measures in one call."""
    assert mask_areas(RLEMasks(list(instances(run_lengths=True).pred_masks) * 200)).sum() == 26 * 200


@pytest.mark.parametrize(
    ("path", "overrides", "weighs"),
    [
        ("tests/ramses_tiny.yaml", [], False),
        ("tests/ramses_tiny.yaml", ["MODEL.RAMSES.MASS.DENSITY", "True"], False),  # it has a mass branch
        ("tests/solov2_tiny.yaml", [], False),
        ("tests/solov2_tiny.yaml", ["MODEL.RAMSES.MASS.DENSITY", "True"], True),
        ("tests/mask_rcnn_tiny.yaml", [], True),
        ("tests/mask_rcnn_tiny.yaml", ["MODEL.RAMSES.MASS.DENSITY", "False"], False),
    ],
)
def test_which_networks_weigh_by_area(path: str, overrides: list[str], weighs: bool) -> None:
    assert (ArealDensity.from_config(load_config(str(ROOT / path), overrides)) is not None) == weighs
