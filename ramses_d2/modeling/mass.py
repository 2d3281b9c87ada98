"""Grams and the geometry map: the only place that knows how they relate (reference sections 0 and 2.7).

The geometry map times the class factor is an areal density in g/cm2. Summed over the pixels of a mask it gives the
*normalised mass*, in g/cm2 * px, and one square centimetre has ``mass_scale`` pixels of the mask grid.

Shape letters: K objects, P cells or instances, Hm Wm mask grid.
"""

from __future__ import annotations

import math

import torch


def known_resolution(*candidates: float | None) -> float | None:
    """The first resolution (px/mm) that is a number above 0; None when there is none."""
    return next((float(value) for value in candidates if value is not None and 0 < value < math.inf), None)


def mass_scale(resolution: float) -> float:
    """Pixels of the mask grid in a square centimetre: normalised mass = grams * mass_scale.

    A resize changes it, a crop or a flip does not.

    Args:
        resolution: px/mm *on the mask grid*; NaN when unknown, and then so is the scale.
    """
    return (10 * resolution) ** 2


def normalize_mass(grams: torch.Tensor, scale: float) -> torch.Tensor:
    """Grams to normalised masses, any shape; NaN stays NaN."""
    return grams * scale


def mass_in_grams(normalized: torch.Tensor, scale: float) -> torch.Tensor:
    """Normalised masses to grams, any shape; NaN everywhere when the scale is."""
    return normalized / scale


def geometry_sums(geometry: torch.Tensor, label_map: torch.Tensor, num_objects: int) -> torch.Tensor:
    """Sum of the geometry map over every object of a label map, differentiable in the map.

    Args:
        geometry: (Hm, Wm) geometry map.
        label_map: (Hm, Wm) int64, 0 = background, 1..K.
        num_objects: K.

    Returns:
        (K,) sums in label order.
    """
    sums = geometry.new_zeros(num_objects + 1).index_add(0, label_map.flatten(), geometry.flatten())
    return sums[1:]


def instance_masses(masks: torch.Tensor, geometry: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Normalised masses of predicted instances.

    Args:
        masks: (P, Hm, Wm) soft or binary masks.
        geometry: (Hm, Wm) geometry map.
        factors: (P,) class factors.

    Returns:
        (P,) normalised masses.
    """
    return factors * (masks.flatten(1).to(geometry.dtype) @ geometry.flatten())
