"""Grams, the geometry map, and how both react to a change of scale."""

from __future__ import annotations

import math

import pytest
import torch

from ramses_d2.modeling.mass import geometry_sums, instance_masses, mass_in_grams, mass_scale, normalize_mass


def test_scale_counts_the_pixels_of_a_square_centimetre() -> None:
    assert mass_scale(2.0) == 400.0
    assert math.isnan(mass_scale(math.nan))


def test_reference_identity() -> None:
    """Reference section 0: m_norm = 100 r^2 m with r the resolution of the mask grid."""
    grams, resolution = torch.tensor([3.92, math.nan]), 28.7 * 256 / 4096
    normalized = normalize_mass(grams, mass_scale(resolution))
    assert normalized[0].item() == pytest.approx(100 * resolution**2 * 3.92, rel=1e-6)
    back = mass_in_grams(normalized, mass_scale(resolution))
    assert back[0].item() == pytest.approx(3.92, rel=1e-6) and back[1].isnan()


def test_half_the_size_is_a_quarter_of_the_normalized_mass() -> None:
    full, half = (normalize_mass(torch.tensor(5.0), mass_scale(r)).item() for r in (3.0, 1.5))
    assert full == pytest.approx(4 * half)


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
