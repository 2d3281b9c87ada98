"""Particles in several parts."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label as connected_parts

from ramses_d2.analysis.particles import handle_fragments
from ramses_d2.errors import RamsesError


@pytest.fixture
def labels() -> np.ndarray:
    """1: 60 + 20 + 12 px and a speck of 2, 2: a square that touches parts of 1, 3: no pixel, 4: two pixels."""
    image = np.zeros((30, 40), np.uint16)
    image[0:6, 0:10] = 1
    image[6:16, 0:10] = 2
    image[16:20, 0:5] = 1
    image[16:19, 10:14] = 1  # touches 2 at a corner only
    image[25, 20:22] = 1
    image[2, 30:32] = 4
    return image


def counts(labels: np.ndarray) -> dict[int, int]:
    return {int(value): int(number) for value, number in zip(*np.unique(labels, return_counts=True), strict=True)}


def test_the_largest_part_is_the_particle(labels: np.ndarray) -> None:
    before = labels.copy()
    found, parents, shares = handle_fragments(labels)
    np.testing.assert_array_equal(labels, before)
    assert found.dtype == labels.dtype
    assert counts(found) == {0: 1038, 1: 60, 2: 100, 4: 2}
    assert (found[:6, :10] == 1).all()
    assert parents.tolist() == [1, 2, 3, 4] and shares.tolist() == [1, 1, 1, 1]


def test_all_parts_are_kept_but_specks(labels: np.ndarray) -> None:
    found, parents, shares = handle_fragments(labels, "keep")
    np.testing.assert_array_equal(found, labels)
    found, parents, shares = handle_fragments(labels, "keep", min_area_px=3)
    assert counts(found) == {0: 1038 - 30, 1: 92, 2: 100}  # 4 is nothing but a speck
    assert parents.tolist() == [1, 2, 3, 4] and shares.tolist() == [1, 1, 1, 1]


def test_parts_become_particles_that_share_the_mass(labels: np.ndarray) -> None:
    found, parents, shares = handle_fragments(labels, "split")
    assert counts(found) == {0: 1006, 1: 60, 2: 100, 4: 2, 5: 20, 6: 12}
    assert (found[16:20, :5] == 5).all() and (found[16:19, 10:14] == 6).all()
    assert parents.tolist() == [1, 2, 3, 4, 1, 1]
    np.testing.assert_allclose(shares, [60 / 92, 1, 1, 1, 20 / 92, 12 / 92])
    found, parents, shares = handle_fragments(labels, "split", min_area_px=20)
    assert counts(found) == {0: 1020, 1: 60, 2: 100, 5: 20}
    np.testing.assert_allclose(shares, [0.75, 1, 1, 1, 0.25])


def test_a_minimum_in_square_millimetres(labels: np.ndarray) -> None:
    found, *_ = handle_fragments(labels, "keep", min_area_mm2=4, resolution=2)  # 16 px
    assert counts(found) == {0: 1020, 1: 80, 2: 100}


@pytest.mark.parametrize("seed", range(5))
def test_touching_labels_stay_apart_in_any_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (12, 15)), np.ones((4, 6))).astype(np.int32)
    found, parents, shares = handle_fragments(labels, "split", min_area_px=1)
    parts = connected_parts(labels, connectivity=2)
    values = np.unique(found)[1:]
    assert len(values) == len(parents) == parts.max()  # none is small enough for a speck
    for value in values:
        covered = found == value
        assert len(np.unique(parts[covered])) == 1 and covered.sum() == (parts == parts[covered][0]).sum()
        assert set(labels[covered]) == {parents[value - 1]}
    np.testing.assert_allclose(np.bincount(parents, weights=shares)[1:], 1)


@pytest.mark.parametrize("mode", ["drop", "keep", "split"])
def test_an_empty_image(mode: str) -> None:
    found, parents, shares = handle_fragments(np.zeros((4, 5), np.uint16), mode, min_area_px=10)
    assert not found.any() and found.shape == (4, 5) and len(parents) == len(shares) == 0


def test_more_parts_than_the_image_can_number() -> None:
    labels = np.zeros((1, 1100), np.uint8)
    labels[0, ::4] = 1
    with pytest.raises(RamsesError, match="275 parts, but the label image can number 255"):
        handle_fragments(labels, "split")
    assert handle_fragments(labels.astype(np.uint16), "split").parents.tolist() == [1] * 275


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "merge"}, "give one of drop, keep, split"),
        ({"min_area_px": -1}, "give 0 or more"),
        ({"min_area_mm2": float("nan")}, "give 0 or more"),
        ({"min_area_px": 3, "min_area_mm2": 1, "resolution": 2}, "give one of them"),
        ({"min_area_mm2": 1}, "needs the image's resolution"),
    ],
)
def test_wrong_options(labels: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(RamsesError, match=message):
        handle_fragments(labels, **options)
