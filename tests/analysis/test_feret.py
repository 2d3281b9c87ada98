"""Caliper diameters of shapes of known size."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from ramses_d2.analysis.particles import corner_hull, feret_diameters, pixel_hull
from tests.analysis.shapes import ROTATIONS, blob, ellipse, polygon


def feret(mask: np.ndarray) -> tuple[float, float]:
    return feret_diameters(corner_hull(pixel_hull(mask)))


def widths(corners: np.ndarray, directions: int = 3600) -> np.ndarray:
    """Distance of the calipers in every direction."""
    angles = np.linspace(0, np.pi, directions, endpoint=False)
    return np.ptp(corners @ np.array([np.cos(angles), np.sin(angles)]), axis=0)


@pytest.mark.parametrize("side", [1, 2, 3, 32, 33])
def test_an_upright_square_measures_its_side(side: int) -> None:
    mask = np.zeros((40, 50), bool)
    mask[3 : 3 + side, 7 : 7 + side] = True
    assert feret(mask) == pytest.approx((side * math.sqrt(2), side), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_a_line_of_pixels_is_one_pixel_wide(shape: tuple[int, int]) -> None:
    assert feret(np.ones(shape, bool)) == pytest.approx((math.hypot(1, 9), 1))


def test_a_diagonal_of_pixels() -> None:
    longest, shortest = feret(np.eye(10, dtype=bool))
    assert longest == pytest.approx(10 * math.sqrt(2)) and shortest == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("degrees", ROTATIONS)
@pytest.mark.parametrize("diameter", [15, 60, 200])
@pytest.mark.parametrize(("sides", "stretch"), [(4, 1), (4, 2.5), (3, 1), (6, 1)])
def test_polygons_of_known_size(sides: int, stretch: float, diameter: float, degrees: float) -> None:
    mask, corners = polygon(sides, diameter, degrees, stretch)
    known = widths(corners)
    longest, shortest = feret(mask)
    # Corners of pixels stick out of an oblique edge by up to 0.7 px on either side; sharp tips are lost
    assert known.max() - 1 <= longest <= known.max() + math.sqrt(2)
    assert known.min() - 1 <= shortest <= known.min() + math.sqrt(2)


@pytest.mark.parametrize("degrees", ROTATIONS)
@pytest.mark.parametrize("diameter", [15, 60, 200])
def test_ellipses_of_known_size(diameter: float, degrees: float) -> None:
    longest, shortest = feret(ellipse(diameter, degrees, 2.25))
    assert -0.5 <= longest - 1.5 * diameter <= math.sqrt(2)
    assert -0.5 <= shortest - diameter / 1.5 <= math.sqrt(2)


@pytest.mark.parametrize("seed", range(10))
def test_irregular_particles_as_by_trying_all_directions(seed: int) -> None:
    mask = blob(seed)
    y, x = np.nonzero(mask)
    corners = np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)])
    known = widths(corners)
    longest, shortest = feret(mask)
    assert known.max() <= longest + 1e-9 and longest == pytest.approx(known.max(), abs=1e-3)
    assert shortest <= known.min() + 1e-9 and shortest == pytest.approx(known.min(), abs=0.1)
    hull = corner_hull(pixel_hull(mask)).astype(float)
    assert cv2.contourArea(hull.astype(np.float32)) == pytest.approx(ConvexHull(corners).volume)
    vertices = ConvexHull(corners).vertices
    assert set(map(tuple, hull)) >= set(map(tuple, corners[vertices].astype(float)))


def test_the_minimum_is_not_the_short_side_of_the_smallest_rectangle() -> None:
    corners = np.array([[55, 35], [20, 55], [0, 20], [20, 25]], np.int32)
    assert min(cv2.minAreaRect(corners)[1]) == pytest.approx(40.31, abs=0.01)
    assert (
        feret_diameters(corners)[1] == pytest.approx(widths(corners).min(), abs=0.01) == pytest.approx(28.85, abs=0.01)
    )
