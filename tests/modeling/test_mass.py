"""Grams: from the geometry map and its reaction to a change of scale, and from areas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from ramses_d2.config import load_config
from ramses_d2.masks import RLEMasks, encode_in_box
from ramses_d2.modeling.mass import (
    ArealDensity,
    geometry_sums,
    instance_masses,
    known_resolution,
    mask_areas,
    mass_in_grams,
    mass_scale,
    normalize_mass,
)
from tests.tools.command_line import ROOT

NAN = math.nan


def test_scale_counts_the_pixels_of_a_square_centimetre() -> None:
    assert mass_scale(2.0) == 400.0 and math.isnan(mass_scale(NAN))
    grams, resolution = torch.tensor([3.92, NAN]), 28.7 * 256 / 4096
    normalized = normalize_mass(grams, mass_scale(resolution))
    assert normalized[0].item() == pytest.approx(100 * resolution**2 * 3.92, rel=1e-6)
    back = mass_in_grams(normalized, mass_scale(resolution))
    assert back[0].item() == pytest.approx(3.92, rel=1e-6) and back[1].isnan()
    full, half = (normalize_mass(torch.tensor(5.0), mass_scale(r)).item() for r in (3.0, 1.5))
    assert full == pytest.approx(4 * half)


@pytest.mark.parametrize(
    ("candidates", "known"),
    [((2.5, 3.0), 2.5), ((None, 3), 3.0), ((0.0, NAN, -1, math.inf, 4.0), 4.0), ((None, 0.0), None), ((), None)],
)
def test_the_first_known_resolution(candidates: tuple[float | None, ...], known: float | None) -> None:
    assert known_resolution(*candidates) == known


def test_geometry_sums_and_their_gradient() -> None:
    geometry = torch.arange(12.0).view(3, 4).requires_grad_()
    label_map = torch.tensor([[0, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 2]])
    sums = geometry_sums(geometry, label_map, 2)
    assert sums.tolist() == [3.0, 20.0]
    sums[1].backward()
    assert torch.equal(geometry.grad, (label_map == 2).float())


def test_instance_mass_is_factor_times_sum() -> None:
    masks = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [1, 0]]], dtype=torch.bool)
    masses = instance_masses(masks, torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([2.0, 0.5]))
    assert masses.tolist() == [6.0, 2.0]


def test_no_instances() -> None:
    assert instance_masses(torch.zeros(0, 2, 2), torch.ones(2, 2), torch.zeros(0)).shape == (0,)
    assert geometry_sums(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int64), 0).shape == (0,)


def instances(is_rle: bool) -> Instances:
    """Three rectangles of 20, 6 and 0 px."""
    masks = torch.zeros(3, 30, 40, dtype=torch.bool)
    masks[0, 5:9, 10:15] = masks[1, 20:22, 30:33] = True
    rles = RLEMasks(encode_in_box(mask.numpy(), 0, 0, 30, 40) for mask in masks)
    return Instances((30, 40), pred_classes=torch.tensor([2, 0, 1]), pred_masks=rles if is_rle else masks)


@pytest.mark.parametrize("is_rle", [False, True])
def test_areas_times_density(is_rle: bool) -> None:
    density = ArealDensity(3)
    density.set_densities([0.5, 0.25, 0.1])
    found = instances(is_rle)
    density.add_masses(found, 2.0)  # 4 px are a square millimetre
    assert found.pred_masses.tolist() == pytest.approx([0.1 * 20 / 4, 0.5 * 6 / 4, 0.0])
    assert mask_areas(found.pred_masks).tolist() == [20, 6, 0]
    density.add_masses(found, NAN)
    assert found.pred_masses.isnan().all()


def test_unknown_densities_give_no_masses() -> None:
    density, found = ArealDensity(3), instances(is_rle=True)
    density.add_masses(found, 2.0)
    assert not density.is_known and not found.has("pred_masses")
    density.set_densities([1.0, 0.0, 3.0])
    assert not density.is_known
    density.set_densities(np.array([1.0, 2.0, 3.0]))
    other = ArealDensity(3)
    other.load_state_dict(density.state_dict())
    assert other.is_known and other.grams_per_mm2.tolist() == [1, 2, 3]


def test_many_rles() -> None:
    """More than pycocotools 2.0.11 measures in one call."""
    assert mask_areas(RLEMasks(list(instances(is_rle=True).pred_masks) * 200)).sum() == 26 * 200


@pytest.mark.parametrize(
    ("name", "setting", "has_density"),
    [
        ("ramses", None, False),
        ("ramses", "True", False),  # it has a mass branch
        ("solov2", None, False),
        ("solov2", "True", True),
        ("mask_rcnn", None, True),
        ("mask_rcnn", "False", False),
    ],
)
def test_which_networks_have_masses_by_area(name: str, setting: str | None, has_density: bool) -> None:
    overrides = [] if setting is None else ["MODEL.RAMSES.MASS.DENSITY", setting]
    cfg = load_config(str(ROOT / f"tests/{name}_tiny.yaml"), overrides)
    assert (ArealDensity.from_config(cfg) is not None) == has_density


@pytest.mark.parametrize("name", ["solov2", "mask_rcnn"])
def test_networks_use_densities_once_they_are_known(name: str, caplog: pytest.LogCaptureFixture) -> None:
    overrides = ["MODEL.RAMSES.MASS.DENSITY", "True", "MODEL.RAMSES.TEST.SCORE_THRESH", "0.0"]
    overrides += ["MODEL.RAMSES.TEST.MASK_THRESH", "0.0", "MODEL.RAMSES.TEST.NMS", "none"]
    overrides += ["TEST.DETECTIONS_PER_IMAGE", "5"]
    model = build_model(load_config(str(ROOT / f"tests/{name}_tiny.yaml"), overrides)).eval()
    item = {"image": torch.randint(0, 255, (3, 64, 128), dtype=torch.uint8)}
    with torch.no_grad():
        assert not model([item])[0]["instances"].has("pred_masses") and not caplog.messages
        model.areal_density.set_densities([0.1, 0.1, 0.1])
        (found,) = (output["instances"] for output in model([item | {"resolution": 2.0}]))
        assert model([item])[0]["instances"].pred_masses.isnan().all() and "INPUT.RESOLUTION" in caplog.text
    assert len(found) and found.pred_masses.tolist() == pytest.approx((mask_areas(found.pred_masks) / 40).tolist())
