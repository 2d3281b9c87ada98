"""Measures of particles: shapes of known size, scikit-image, and the smallest particles there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.measure import regionprops

from ramses_d2.analysis.particles import angularity, hull_pixels, measure_particle, pixel_hull
from tests.analysis.shapes import ROTATIONS, blob, ellipse, polygon

UPRIGHT_AND_NOT = pytest.mark.parametrize("degrees", ROTATIONS)


def angularities(sides: int, diameter: float, stretch: float = 1) -> list[float]:
    return [measure_particle(polygon(sides, diameter, degrees, stretch)[0]).angularity for degrees in ROTATIONS]


@pytest.mark.parametrize("seed", range(8))
def test_ellipse_axes_are_those_of_scikit_image(seed: int) -> None:
    mask = blob(seed)
    measured, (expected,) = measure_particle(mask), regionprops(mask.astype(np.uint8))
    assert measured.area == expected.area
    assert measured.axis_major_length == pytest.approx(expected.axis_major_length, rel=1e-6)
    assert measured.axis_minor_length == pytest.approx(expected.axis_minor_length, rel=1e-6)


def test_axes_of_a_large_particle_are_exact() -> None:
    mask = np.zeros((3000, 2500), bool)
    mask[1000:2900, 200:2300] = True
    measured = measure_particle(mask)
    assert measured.axis_major_length == pytest.approx(4 * math.sqrt((2100**2 - 1) / 12), rel=1e-9)
    assert measured.axis_minor_length == pytest.approx(4 * math.sqrt((1900**2 - 1) / 12), rel=1e-9)


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [15, 30, 60, 300])
def test_ellipses_of_known_axes(diameter: float, degrees: float) -> None:
    measured = measure_particle(ellipse(diameter, degrees, 2.25))
    assert measured.area == pytest.approx(math.pi / 4 * diameter**2, abs=math.pi * diameter / 4)
    assert measured.axis_major_length == pytest.approx(1.5 * diameter, abs=0.5)
    assert measured.axis_minor_length == pytest.approx(diameter / 1.5, abs=0.5)
    assert measured.aspect_ratio == pytest.approx(2.25, abs=2 / diameter + 0.01)
    assert measured.max_inscribed_radius == pytest.approx(diameter / 3, abs=0.8)


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [15, 30, 60, 300])
@pytest.mark.parametrize("sides", [3, 4, 6])
def test_inscribed_circles_of_polygons(sides: int, diameter: float, degrees: float) -> None:
    mask, corners = polygon(sides, diameter, degrees)
    inradius = np.hypot(*(corners[0] + corners[1]).T / 2 - corners.mean(axis=0))
    assert measure_particle(mask).max_inscribed_radius == pytest.approx(inradius, abs=0.8)


@pytest.mark.parametrize("side", [32, 33])
def test_inscribed_circle_of_an_upright_square(side: int) -> None:
    assert measure_particle(np.ones((side, side), bool)).max_inscribed_radius == side / 2


@pytest.mark.parametrize("radius", [10, 10.5, 12, 17, 25, 40, 75, 150, 400])
def test_discs_are_circular_convex_and_not_angular_at_every_size(radius: float) -> None:
    measured = measure_particle(ellipse(2 * radius))
    assert 0.95 <= measured.circularity <= 1
    assert measured.convexity == 1
    assert 0 <= measured.angularity < 0.5 / radius
    assert measured.aspect_ratio == pytest.approx(1, abs=0.2 / radius)


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [30, 60, 300])
@pytest.mark.parametrize(("sides", "stretch"), [(3, 1), (4, 1), (4, 3), (6, 1)])
def test_circularity_of_polygons(sides: int, stretch: float, diameter: float, degrees: float) -> None:
    mask, corners = polygon(sides, diameter, degrees, stretch)
    perimeter = np.hypot(*(corners - np.roll(corners, -1, axis=0)).T).sum()
    expected = math.pi**2 * diameter**2 / perimeter**2
    assert measure_particle(mask).circularity == pytest.approx(expected, rel=0.09 if diameter < 60 else 0.06)


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [5, 15, 60, 200])
def test_convex_particles_are_convex_at_every_size(diameter: float, degrees: float) -> None:
    for mask in (ellipse(diameter, degrees, 2), *(polygon(sides, diameter, degrees)[0] for sides in (3, 4, 6))):
        assert measure_particle(mask).convexity == 1


@UPRIGHT_AND_NOT
def test_convexity_of_an_angle(degrees: float) -> None:
    mask, corners = polygon(4, 100, degrees)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    points = np.stack([x, y], axis=-1) - corners.mean(axis=0)
    is_right, is_below = points @ (corners[1] - corners[0]) > 0, points @ (corners[2] - corners[1]) > 0
    # A quarter of the square is missing, and half of that from its hull
    assert measure_particle(mask & ~(is_right & is_below)).convexity == pytest.approx(6 / 7, abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_hull_pixels_by_counting(seed: int) -> None:
    hull = pixel_hull(blob(seed, 30)).astype(int)
    y, x = np.mgrid[:30, :30]
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True)
    ]
    inside = np.all(np.array(sides) >= 0, axis=0) | np.all(np.array(sides) <= 0, axis=0)
    assert hull_pixels(hull) == inside.sum()


@pytest.mark.parametrize("stretch", [1, 2, 4])
def test_angularity_in_the_plane(stretch: float) -> None:
    for sides in (3, 4, 6, 12):
        _, corners = polygon(sides, 100, 20, stretch)
        expected = sides * math.tan(math.pi / sides) / math.pi - 1
        assert angularity(corners) == pytest.approx(expected, rel=1e-9)
        assert angularity(corners[::-1] * 0.01) == pytest.approx(expected, rel=1e-9)


def test_angularity_is_about_the_middle_of_the_area() -> None:
    square = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [10, 0], [10, 10], [0, 10], [0, 1]])
    assert angularity(square) == pytest.approx(4 / math.pi - 1, rel=1e-9)


@pytest.mark.parametrize("diameter", [20, 30, 60, 300])
def test_angularity_tells_corners_at_every_size_and_rotation(diameter: float) -> None:
    round_ones = [
        measure_particle(ellipse(diameter, degrees, stretch)).angularity for degrees in ROTATIONS for stretch in (1, 2)
    ]
    kinds = [round_ones, *(angularities(sides, diameter) for sides in (6, 4, 3))]
    assert max(round_ones) < 0.04
    for rounder, sharper in zip(kinds, kinds[1:], strict=False):
        assert max(rounder) < min(sharper)
    # Elongation is another thing than angularity
    assert np.mean(angularities(4, diameter, 2)) == pytest.approx(np.mean(angularities(4, diameter)), abs=0.03)


@pytest.mark.parametrize(
    "mask",
    [np.ones((1, 1)), np.ones((1, 2)), np.ones((1, 7)), np.ones((7, 1)), np.eye(2), np.eye(6)[::-1], np.ones((2, 2))],
    ids=str,
)
def test_the_smallest_particles_have_sensible_measures(mask: np.ndarray) -> None:
    measured = measure_particle(mask.astype(bool))
    assert np.isfinite(measured).all()
    assert measured.fragments == 1 and measured.area == mask.sum()
    assert 1 <= measured.min_feret_diameter <= measured.max_feret_diameter
    assert 0.5 <= measured.max_inscribed_radius <= measured.min_feret_diameter / 2
    assert 0 < measured.axis_minor_length <= measured.axis_major_length
    assert 0 < measured.circularity <= 1 and measured.convexity == 1 and 0 <= measured.angularity < 1


def test_one_pixel() -> None:
    measured = measure_particle(np.ones((1, 1), bool))
    assert measured.min_feret_diameter == 1 and measured.max_inscribed_radius == 0.5 and measured.aspect_ratio == 1


@pytest.mark.parametrize("seed", range(4))
def test_turned_mirrored_and_padded_particles_measure_the_same(seed: int) -> None:
    mask = blob(seed)
    expected = measure_particle(mask)
    for other in (mask.T, mask[::-1], mask[:, ::-1], np.pad(mask, ((3, 0), (0, 5)))):
        assert measure_particle(other) == pytest.approx(expected, rel=1e-6)


def test_holes_are_no_outline_and_parts_are_counted() -> None:
    disc = ellipse(60)
    holed = disc.copy()
    holed[25:35, 25:35] = False
    assert measure_particle(holed).circularity == pytest.approx(
        measure_particle(disc).circularity * holed.sum() / disc.sum()
    )
    holed[29:31, 29:31] = True  # a part inside another one's hole
    holed = np.pad(holed, 4)
    holed[0, 0] = True
    assert measure_particle(holed).fragments == 3


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        measure_particle(np.zeros((3, 3), bool))
