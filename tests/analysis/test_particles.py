"""Particles: measures of known shapes, calipers by brute force, the table, stray parts, and soft masks."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import ConvexHull
from skimage.measure import label as connected_parts
from skimage.measure import regionprops

from ramses_d2.analysis import particles
from ramses_d2.analysis.particles import (
    COLUMNS,
    angularity,
    corner_hull,
    decode_predictions,
    feret_diameters,
    handle_fragments,
    hull_pixels,
    measure_particle,
    particle_row,
    particle_table,
    pixel_hull,
    table_of,
)
from ramses_d2.errors import RamsesError
from ramses_d2.masks import RLEMasks, encode_label_map
from tests.analysis.shapes import ROTATIONS, blob, ellipse, polygon

UPRIGHT_AND_NOT = pytest.mark.parametrize("degrees", ROTATIONS)


# ---- measures


@pytest.mark.parametrize("seed", range(8))
def test_axes_are_those_of_scikit_image_and_of_any_view_of_a_particle(seed):
    mask = blob(seed)
    measured, (expected,) = measure_particle(mask), regionprops(mask.astype(np.uint8))
    assert measured.area == expected.area
    assert measured.axis_major_length == pytest.approx(expected.axis_major_length, rel=1e-6)
    assert measured.axis_minor_length == pytest.approx(expected.axis_minor_length, rel=1e-6)
    for other in (mask.T, mask[::-1], mask[:, ::-1], np.pad(mask, ((3, 0), (0, 5)))):
        assert measure_particle(other) == pytest.approx(measured, rel=1e-6)


def test_axes_of_a_large_particle_are_exact():
    mask = np.zeros((3000, 2500), bool)
    mask[1000:2900, 200:2300] = True
    measured = measure_particle(mask)
    assert measured.axis_major_length == pytest.approx(4 * math.sqrt((2100**2 - 1) / 12), rel=1e-9)
    assert measured.axis_minor_length == pytest.approx(4 * math.sqrt((1900**2 - 1) / 12), rel=1e-9)


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [15, 60, 300])
def test_ellipses_of_known_axes(diameter, degrees):
    measured = measure_particle(ellipse(diameter, degrees, 2.25))
    assert measured.area == pytest.approx(math.pi / 4 * diameter**2, abs=math.pi * diameter / 4)
    assert measured.axis_major_length == pytest.approx(1.5 * diameter, abs=0.5)
    assert measured.axis_minor_length == pytest.approx(diameter / 1.5, abs=0.5)
    assert measured.aspect_ratio == pytest.approx(2.25, abs=2 / diameter + 0.01)
    assert measured.max_inscribed_radius == pytest.approx(diameter / 3, abs=0.8)
    assert -0.5 <= measured.max_feret_diameter - 1.5 * diameter <= math.sqrt(2)
    assert -0.5 <= measured.min_feret_diameter - diameter / 1.5 <= math.sqrt(2)
    assert measured.convexity == 1


@UPRIGHT_AND_NOT
@pytest.mark.parametrize("diameter", [5, 15, 30, 60, 200])
@pytest.mark.parametrize(("sides", "stretch"), [(3, 1), (4, 1), (4, 2.5), (6, 1)])
def test_polygons_of_known_size(sides, stretch, diameter, degrees):
    mask, corners = polygon(sides, diameter, degrees, stretch)
    measured, known = measure_particle(mask), widths(corners)
    assert measured.convexity == 1
    if diameter >= 15:
        # Corners of pixels stick out of an oblique edge by up to 0.7 px on either side; sharp tips are lost
        assert known.max() - 1 <= measured.max_feret_diameter <= known.max() + math.sqrt(2)
        assert known.min() - 1 <= measured.min_feret_diameter <= known.min() + math.sqrt(2)
        if stretch == 1:
            inradius = np.hypot(*(corners[0] + corners[1]).T / 2 - corners.mean(axis=0))
            assert measured.max_inscribed_radius == pytest.approx(inradius, abs=0.8)
    if diameter >= 30:
        perimeter = np.hypot(*(corners - np.roll(corners, -1, axis=0)).T).sum()
        expected = math.pi**2 * diameter**2 / perimeter**2
        assert measured.circularity == pytest.approx(expected, rel=0.09 if diameter < 60 else 0.06)


@pytest.mark.parametrize("radius", [10, 10.5, 17, 40, 150, 400])
def test_discs_are_circular_convex_and_not_angular_at_every_size(radius):
    measured = measure_particle(ellipse(2 * radius))
    assert 0.95 <= measured.circularity <= 1 and measured.convexity == 1
    assert 0 <= measured.angularity < 0.5 / radius
    assert measured.aspect_ratio == pytest.approx(1, abs=0.2 / radius)


@pytest.mark.parametrize("side", [1, 2, 3, 32, 33])
def test_an_upright_square_measures_its_side(side):
    mask = np.zeros((40, 50), bool)
    mask[3 : 3 + side, 7 : 7 + side] = True
    measured = measure_particle(mask)
    assert measured.max_feret_diameter == pytest.approx(side * math.sqrt(2), abs=1e-9)
    assert measured.min_feret_diameter == pytest.approx(side, abs=1e-9)
    assert measured.max_inscribed_radius == side / 2


@UPRIGHT_AND_NOT
def test_convexity_of_an_angle(degrees):
    mask, corners = polygon(4, 100, degrees)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    points = np.stack([x, y], axis=-1) - corners.mean(axis=0)
    is_right, is_below = points @ (corners[1] - corners[0]) > 0, points @ (corners[2] - corners[1]) > 0
    # A quarter of the square is missing, and half of that from its hull
    assert measure_particle(mask & ~(is_right & is_below)).convexity == pytest.approx(6 / 7, abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_hull_pixels_by_counting(seed):
    hull = pixel_hull(blob(seed, 30)).astype(int)
    y, x = np.mgrid[:30, :30]
    sides = np.array(
        [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            for a, b in zip(hull, np.roll(hull, -1, 0), strict=True)
        ]
    )
    assert hull_pixels(hull) == (np.all(sides >= 0, axis=0) | np.all(sides <= 0, axis=0)).sum()


@pytest.mark.parametrize("stretch", [1, 2, 4])
def test_angularity_in_the_plane(stretch):
    for sides in (3, 4, 6, 12):
        _, corners = polygon(sides, 100, 20, stretch)
        expected = sides * math.tan(math.pi / sides) / math.pi - 1
        assert angularity(corners) == pytest.approx(expected, rel=1e-9)
        assert angularity(corners[::-1] * 0.01) == pytest.approx(expected, rel=1e-9)
    # About the middle of the area, not of the corners
    square = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [10, 0], [10, 10], [0, 10], [0, 1]])
    assert angularity(square) == pytest.approx(4 / math.pi - 1, rel=1e-9)


@pytest.mark.parametrize("diameter", [20, 30, 60, 300])
def test_angularity_tells_corners_at_every_size_and_rotation(diameter):
    def of(sides, stretch=1):
        return [measure_particle(polygon(sides, diameter, degrees, stretch)[0]).angularity for degrees in ROTATIONS]

    ellipses = [ellipse(diameter, degrees, stretch) for degrees in ROTATIONS for stretch in (1, 2)]
    kinds = [[measure_particle(mask).angularity for mask in ellipses], of(6), of(4), of(3)]
    assert max(kinds[0]) < 0.04
    for rounder, sharper in zip(kinds, kinds[1:], strict=False):
        assert max(rounder) < min(sharper)
    assert np.mean(of(4, 2)) == pytest.approx(np.mean(of(4)), abs=0.03)  # elongation is another thing


@pytest.mark.parametrize("mask", [(1, 1), (1, 2), (1, 7), (7, 1), (2, 2), np.eye(2), np.eye(6)[::-1]], ids=str)
def test_the_smallest_particles_have_sensible_measures(mask):
    mask = np.ones(mask, bool) if isinstance(mask, tuple) else mask.astype(bool)
    measured = measure_particle(mask)
    assert np.isfinite(measured).all() and measured.fragments == 1 and measured.area == mask.sum()
    assert 1 <= measured.min_feret_diameter <= measured.max_feret_diameter
    assert 0.5 <= measured.max_inscribed_radius <= measured.min_feret_diameter / 2
    assert 0 < measured.axis_minor_length <= measured.axis_major_length
    assert 0 < measured.circularity <= 1 and measured.convexity == 1 and 0 <= measured.angularity < 1
    if mask.size == 1:
        assert measured.min_feret_diameter == 1 and measured.max_inscribed_radius == 0.5 and measured.aspect_ratio == 1


def test_holes_are_not_in_the_outline_and_parts_are_counted():
    disc = ellipse(60)
    holed = disc.copy()
    holed[25:35, 25:35] = False
    expected = measure_particle(disc).circularity * holed.sum() / disc.sum()
    assert measure_particle(holed).circularity == pytest.approx(expected)
    holed[29:31, 29:31] = True  # a part inside another one's hole
    holed = np.pad(holed, 4)
    holed[0, 0] = True
    assert measure_particle(holed).fragments == 3
    with pytest.raises(ValueError, match="without pixels"):
        measure_particle(np.zeros((3, 3), bool))


# ---- calipers


def feret(mask):
    return feret_diameters(corner_hull(pixel_hull(mask)))


def widths(corners, directions=3600):
    """Distance of the calipers in every direction."""
    angles = np.linspace(0, np.pi, directions, endpoint=False)
    return np.ptp(corners @ np.array([np.cos(angles), np.sin(angles)]), axis=0)


def test_calipers_of_lines_and_of_a_polygon_whose_smallest_rectangle_lies_elsewhere():
    assert feret(np.ones((1, 9))) == feret(np.ones((9, 1))) == pytest.approx((math.hypot(1, 9), 1))
    assert feret(np.eye(10, dtype=bool)) == pytest.approx((10 * math.sqrt(2), math.sqrt(2)))
    corners = np.array([[55, 35], [20, 55], [0, 20], [20, 25]], np.int32)
    assert min(cv2.minAreaRect(corners)[1]) == pytest.approx(40.31, abs=0.01)
    assert feret_diameters(corners)[1] == pytest.approx(widths(corners).min(), abs=0.01)
    assert feret_diameters(corners)[1] == pytest.approx(28.85, abs=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_irregular_particles_as_by_trying_all_directions(seed):
    mask = blob(seed)
    y, x = np.nonzero(mask)
    corners = np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)])
    known = widths(corners)
    longest, shortest = feret(mask)
    assert known.max() <= longest + 1e-9 and longest == pytest.approx(known.max(), abs=1e-3)
    assert shortest <= known.min() + 1e-9 and shortest == pytest.approx(known.min(), abs=0.1)
    hull, expected = corner_hull(pixel_hull(mask)).astype(float), ConvexHull(corners)
    assert cv2.contourArea(hull.astype(np.float32)) == pytest.approx(expected.volume)
    assert set(map(tuple, hull)) >= set(map(tuple, corners[expected.vertices].astype(float)))


# ---- the table

MM = ["length_mm", "width_mm", "feret_max_mm", "feret_min_mm"]
MM += ["inscribed_diameter_mm", "equivalent_diameter_mm", "area_mm2"]


@pytest.fixture
def labels():
    """1: ellipse, 2: square beside it that reaches into its box, 3: no pixel, 4: a pixel in the last corner."""
    image = np.zeros((80, 120), np.uint16)
    shape = ellipse(40, 30, 2)
    image[10 : 10 + shape.shape[0], 5 : 5 + shape.shape[1]][shape] = 1
    image[10:30, 45:65][image[10:30, 45:65] == 0] = 2
    image[79, 119] = 4
    return image


def table(labels, resolution=4.0):
    count = int(labels.max())
    names, grams = [f"c{i}" for i in range(count)], np.arange(count, dtype=np.float32)
    return particle_table("a.jpg", labels, names, grams, grams / 10, resolution)


def test_table_of_a_label_image(labels):
    assert (
        " ".join(COLUMNS) == "baseimg label res class x0 x1 y0 y1 area mass axis_major_length axis_minor_length "
        "max_feret_diameter min_feret_diameter max_inscribed_radius score length_mm width_mm feret_max_mm feret_min_mm "
        "inscribed_diameter_mm equivalent_diameter_mm area_mm2 aspect_ratio circularity convexity angularity edge "
        "fragments"
    )
    found = table(labels)
    assert list(found) == COLUMNS
    assert found["label"].tolist() == [1, 2, 4]  # a hidden one has no row
    assert found["class"].tolist() == ["c0", "c1", "c3"] and found["mass"].tolist() == [0, 1, 3]
    assert (found["baseimg"] == "a.jpg").all() and (found["res"] == 4).all()
    for row in found.to_dict("records"):
        rows, columns = np.nonzero(labels == row["label"])
        box = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
        assert (row["x0"], row["x1"], row["y0"], row["y1"]) == box  # x are rows
        measured = measure_particle(labels == row["label"])  # not disturbed by the neighbour in its box
        assert {name: row[name] for name in measured._fields} == pytest.approx(measured._asdict(), rel=1e-9)


def test_millimetres(labels):
    found = table(labels, 4.0).iloc[0]
    lengths = ["axis_major_length", "axis_minor_length", "max_feret_diameter", "min_feret_diameter"]
    assert found[MM[:4]].tolist() == pytest.approx((found[lengths] / 4).tolist())
    # An ellipse of 2 : 1 with the area of a disc of 40 px, so of 10 mm
    assert found["equivalent_diameter_mm"] == pytest.approx(10, abs=0.1)
    assert found["area_mm2"] == pytest.approx(25 * math.pi, rel=0.02)
    assert found["length_mm"] == pytest.approx(10 * math.sqrt(2), abs=0.15)
    assert found["width_mm"] == pytest.approx(10 / math.sqrt(2), abs=0.15)
    assert found["inscribed_diameter_mm"] == pytest.approx(10 / math.sqrt(2), abs=0.3)
    assert found["aspect_ratio"] == pytest.approx(2, abs=0.05)
    rest = [name for name in COLUMNS if name not in (*MM, "res")]
    for resolution in (math.nan, 0.0):
        assert table(labels, resolution)[MM].isna().all(axis=None)
        pd.testing.assert_frame_equal(table(labels, resolution)[rest], table(labels)[rest])


def test_edges():
    labels = np.zeros((20, 30), np.uint16)
    labels[0, 5], labels[5:20, 0:2], labels[10, 10:30], labels[2:4, 2:4] = 1, 2, 3, 4
    assert table(labels)["edge"].tolist() == ["top", "bottom left", "right", ""]
    assert table(np.ones((3, 3), np.uint16))["edge"].tolist() == ["top bottom left right"]


def test_empty_tables_are_like_others(labels):
    empty, full = particle_table("a.jpg", np.zeros((4, 5), np.uint16), [], [], [], 2.0), table(labels)
    assert len(empty) == 0 and list(empty) == COLUMNS
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    pd.testing.assert_frame_equal(pd.concat([empty, full], ignore_index=True), full)
    assert len(particle_table("a.jpg", np.zeros((4, 5), np.uint16), ["Rc"], [1.0], [0.9], 2.0)) == 0  # hidden
    for names, masses in ((3, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"{names} class names, {masses} masses .* labels up to 4"):
            particle_table("a.jpg", labels, ["a"] * names, [1] * masses, [1] * names, 2.0)


def test_a_belt_particle_by_its_mask():
    mask = ellipse(20)[2:-2, 2:-2]
    values = {"baseimg": "b.png", "label": 7, "class_name": "Rb", "mass": math.nan, "score": 0.5, "resolution": 10.0}
    row = particle_row(mask, **values, origin=(90, 4), edges=["left", "top"])
    found = table_of([row | {"belt_x0": 1090, "belt_x1": 1090 + len(mask)}])
    assert list(found) == [*COLUMNS, "belt_x0", "belt_x1"]
    (row,) = found.to_dict("records")
    assert (row["x0"], row["x1"], row["y0"], row["y1"]) == (90, 90 + len(mask), 4, 4 + mask.shape[1])
    assert row["edge"] == "top left" and row["label"] == 7 and math.isnan(row["mass"])
    assert row["equivalent_diameter_mm"] == pytest.approx(2, abs=0.02)


# ---- fragments


@pytest.fixture
def parts():
    """1: 60 + 20 + 12 px and a small one of 2, 2: a square that touches parts of 1, 3: no pixel, 4: two pixels."""
    image = np.zeros((30, 40), np.uint16)
    image[0:6, 0:10] = image[16:20, 0:5] = image[25, 20:22] = 1
    image[16:19, 10:14] = 1  # touches 2 at a corner only
    image[6:16, 0:10] = 2
    image[2, 30:32] = 4
    return image


@pytest.mark.parametrize(
    ("options", "counts", "parents", "shares"),
    [
        ({}, {0: 1038, 1: 60, 2: 100, 4: 2}, [1, 2, 3, 4], [1] * 4),
        ({"mode": "keep"}, {0: 1004, 1: 94, 2: 100, 4: 2}, [1, 2, 3, 4], [1] * 4),
        ({"mode": "keep", "min_area_px": 3}, {0: 1008, 1: 92, 2: 100}, [1, 2, 3, 4], [1] * 4),
        ({"mode": "keep", "min_area_mm2": 4, "resolution": 2}, {0: 1020, 1: 80, 2: 100}, [1, 2, 3, 4], [1] * 4),
        ({"mode": "split"}, {0: 1006, 1: 60, 2: 100, 4: 2, 5: 20, 6: 12}, [1, 2, 3, 4, 1, 1],
         [60 / 92, 1, 1, 1, 20 / 92, 12 / 92]),
        ({"mode": "split", "min_area_px": 20}, {0: 1020, 1: 60, 2: 100, 5: 20}, [1, 2, 3, 4, 1], [0.75, 1, 1, 1, 0.25]),
    ],
)  # fmt: skip
def test_parts_are_dropped_kept_or_share_the_mass(parts, options, counts, parents, shares):
    before = parts.copy()
    found = handle_fragments(parts, **options)
    np.testing.assert_array_equal(parts, before)
    assert found.labels.dtype == parts.dtype
    assert dict(zip(*np.unique(found.labels, return_counts=True), strict=True)) == counts
    assert found.parents.tolist() == parents
    np.testing.assert_allclose(found.shares, shares)
    assert (found.labels[:6, :10] == 1).all()
    if 6 in counts:
        assert (found.labels[16:20, :5] == 5).all() and (found.labels[16:19, 10:14] == 6).all()


@pytest.mark.parametrize("seed", range(5))
def test_touching_labels_stay_apart_in_any_image(seed):
    labels = np.kron(np.random.default_rng(seed).integers(0, 4, (12, 15)), np.ones((4, 6))).astype(np.int32)
    found, parents, shares = handle_fragments(labels, "split", min_area_px=1)
    expected = connected_parts(labels, connectivity=2)
    values = np.unique(found)[1:]
    assert len(values) == len(parents) == expected.max()  # all are large enough
    for value in values:
        covered = found == value
        assert len(np.unique(expected[covered])) == 1 and covered.sum() == (expected == expected[covered][0]).sum()
        assert set(labels[covered]) == {parents[value - 1]}
    np.testing.assert_allclose(np.bincount(parents, weights=shares)[1:], 1)


def test_no_parts_and_more_than_the_image_can_number():
    for mode in ("drop", "keep", "split"):
        found, parents, shares = handle_fragments(np.zeros((4, 5), np.uint16), mode, min_area_px=10)
        assert not found.any() and found.shape == (4, 5) and len(parents) == len(shares) == 0
    labels = np.zeros((1, 1100), np.uint8)
    labels[0, ::4] = 1
    with pytest.raises(RamsesError, match="275 parts, but the label image can number 255"):
        handle_fragments(labels, "split")
    assert handle_fragments(labels.astype(np.uint16), "split").parents.tolist() == [1] * 275


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "merge"}, "drop, keep, split"),
        ({"min_area_px": -1}, "-1"),
        ({"min_area_mm2": math.nan}, "nan"),
        ({"min_area_px": 3, "min_area_mm2": 1, "resolution": 2}, "one of them"),
        ({"min_area_mm2": 1}, "resolution"),
        ({"min_area_mm2": 1, "resolution": math.inf}, "resolution"),
    ],
)
def test_wrong_options(parts, options, message):
    with pytest.raises(RamsesError, match=message):
        handle_fragments(parts, **options)


# ---- soft masks


def decode_slowly(masks, scores, threshold, by_scores):
    labels = np.zeros(masks.shape[1:], np.uint16)
    for pixel in np.ndindex(labels.shape):
        here = masks[(slice(None), *pixel)]
        covering = [index for index in range(len(masks)) if here[index] >= threshold]
        if covering:
            labels[pixel] = 1 + max(covering, key=lambda index: (scores if by_scores else here)[index])
    return labels


def test_golden_values_and_inclusive_threshold():
    masks, scores = np.array([[[0.6, 0.9]], [[0.8, 0.7]]], np.float32), np.array([0.5, 0.9], np.float32)
    # By score the original answers [[1, 1]], the rank of the second mask; ours is its place in the input
    assert decode_predictions(masks, scores).tolist() == [[2, 2]]
    assert decode_predictions(masks, scores, by_scores=False).tolist() == [[2, 1]]
    masks = np.array([[[0.5, 0.49, 0.75]]], np.float32)
    for by_scores in (True, False):
        assert decode_predictions(masks, np.ones(1), 0.5, by_scores).tolist() == [[1, 0, 1]]
        assert decode_predictions(masks, np.ones(1), 0.75, by_scores).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("by_scores", [True, False])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_equals_a_loop_over_pixels(by_scores, block, monkeypatch):
    monkeypatch.setattr(particles, "BLOCK", block)
    masks = np.random.random((7, 9, 5)).astype(np.float32) ** 2
    masks[3] = masks[1]  # ties
    scores = np.array([0.3, 0.8, 0.5, 0.8, 0.1, 0.9, 0.2])
    expected = decode_slowly(masks, scores, 0.4, by_scores)
    assert len(np.unique(expected)) > 4
    for kind in (np.asarray, torch.from_numpy):
        labels = decode_predictions(kind(masks), kind(scores), 0.4, by_scores)
        assert isinstance(labels, np.ndarray) and labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, expected)
    order = np.random.permutation(7)  # labels keep pointing to the input
    flipped = decode_predictions(masks[order][:, :, ::-1], scores[order], 0.4, by_scores)
    is_tied = np.isin(expected, (2, 4))
    np.testing.assert_array_equal(np.r_[0, order + 1][flipped[:, ::-1]][~is_tied], expected[~is_tied])


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("by_scores", [True, False])
def test_other_types_and_no_masks(dtype, by_scores):
    masks = torch.tensor([[[1, 0, 0]], [[1, 1, 0]]]).to(dtype).requires_grad_(dtype == torch.float64)
    labels = decode_predictions(masks, torch.tensor([0.2, 0.9]), by_scores=by_scores)
    assert labels.tolist() == [[2 if by_scores else 1, 2, 0]]
    labels = decode_predictions(torch.zeros(0, 4, 5), torch.zeros(0), by_scores=by_scores)
    assert labels.shape == (4, 5) and labels.dtype == np.uint16 and not labels.any()


def test_work_is_done_in_blocks(monkeypatch):
    sizes, from_numpy = [], torch.from_numpy

    def recorded(array):
        sizes.append(array.size)
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", recorded)
    monkeypatch.setattr(particles, "BLOCK", 768 * 96 * 10)
    decode_predictions(np.zeros((768, 64, 96), bool), torch.ones(768))
    assert sizes == [768 * 96 * 10] * 6 + [768 * 96 * 4]


def test_masks_and_scores_that_do_not_fit():
    rles = RLEMasks(encode_label_map(np.ones((4, 5), np.uint16), [1]))
    shapes = ((4, 5), 4), ((2, 4, 5), 3), ((2, 4, 5), (2, 1)), ((2, 1, 4, 5), 2)
    for masks, scores in ((rles, np.ones(1)), *((np.zeros(masks), np.zeros(scores)) for masks, scores in shapes)):
        with pytest.raises(ValueError, match=r"\(K, H, W\) and \(K,\)"):
            decode_predictions(masks, scores)
    with pytest.raises(ValueError, match="16-bit"):
        decode_predictions(np.zeros((70000, 1, 1), bool), np.zeros(70000))
