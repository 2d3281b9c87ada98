"""Dealing images out to sides, and drawing capped and repeated ones: properties that must hold for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramses_d2.data.splits import assign_sides, draw_capped, group_numbers
from ramses_d2.errors import RamsesError

COUNTS = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=40).map(np.array)


def skewed(images: int, classes: int = 12) -> np.ndarray:
    """Counts like those of real data: most images hold a few classes."""
    rng = np.random.default_rng(3)
    return rng.poisson(40 * rng.dirichlet(np.full(classes, 0.2), size=images))


def test_group_numbers() -> None:
    assert group_numbers(["b", None, "a", "b", None, 3]).tolist() == [0, 1, 2, 0, 3, 4]
    assert group_numbers([]).tolist() == []
    assert len(set(group_numbers([1, None, ("x", 1), 0]))) == 4  # a key cannot meet the number of a lonely image


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.2,) * 5])
def test_stratified_sides_have_their_share_of_every_class(shares: tuple[float, ...]) -> None:
    counts = skewed(400)
    side = assign_sides(counts, np.arange(400), shares, stratify=True, rng=np.random.default_rng(0))
    for index, share in enumerate(shares):
        assert (side == index).mean() == pytest.approx(share, abs=0.01)
        assert counts[side == index].sum(axis=0) / counts.sum(axis=0) == pytest.approx(share, abs=0.015)
    # ... which drawing images alone does not give
    side = assign_sides(counts, np.arange(400), shares, stratify=False, rng=np.random.default_rng(0))
    assert (side == 0).mean() == pytest.approx(shares[0], abs=0.003)
    off = counts[side == 0].sum(axis=0) / counts.sum(axis=0) - shares[0]
    assert np.abs(off).max() > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_on_both_sides_where_two_groups_have_it(seed: int) -> None:
    counts = np.zeros((30, 3), int)
    counts[:, 0] = 20
    counts[[4, 5], 1] = 1
    counts[8, 2] = 1
    side = assign_sides(counts, np.arange(30), (0.9, 0.1), stratify=True, rng=np.random.default_rng(seed))
    assert set(side[[4, 5]]) == {0, 1} and side[8] == 0
    assert (side == 1).sum() in (2, 3, 4)


def test_the_seed_matters() -> None:
    counts = skewed(60)
    for stratify in (True, False):
        sides = {
            assign_sides(
                counts, np.arange(60), (0.8, 0.2), stratify=stratify, rng=np.random.default_rng(seed)
            ).tobytes()
            for seed in range(5)
        }
        assert len(sides) == 5


def test_fewer_groups_than_sides() -> None:
    with pytest.raises(RamsesError, match="5 images in 1 groups cannot be divided into 2 sides"):
        assign_sides(np.ones((5, 1), int), np.zeros(5, int), (0.5, 0.5), stratify=True, rng=np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 12), min_size=40, max_size=40), st.integers(2, 4), st.booleans(), st.integers(0))
def test_groups_stay_whole_and_no_side_is_empty(
    counts: np.ndarray, keys: list[int], sides: int, stratify: bool, seed: int
) -> None:
    groups = group_numbers(keys[: len(counts)])
    shares = np.r_[np.full(sides - 1, 0.05), 1 - 0.05 * (sides - 1)]
    if groups.max() + 1 < sides:
        return
    side = assign_sides(counts, groups, shares, stratify=stratify, rng=np.random.default_rng(seed))
    assert sorted(set(side)) == list(range(sides))
    for group in set(groups):
        assert len(set(side[groups == group])) == 1
    again = assign_sides(counts, groups, shares, stratify=stratify, rng=np.random.default_rng(seed))
    assert side.tolist() == again.tolist()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.lists(st.integers(0, 60), min_size=3, max_size=3), st.integers(0, 4), st.none() | st.integers(0, 9))
def test_caps_are_never_exceeded_nor_is_the_reuse(
    counts: np.ndarray, caps: list[int], max_reuse: int, seed: int | None
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    drawn = draw_capped(counts, np.array(caps), max_reuse=max_reuse, rng=rng)
    assert (counts[drawn].sum(axis=0) <= caps).all()
    uses = np.bincount(drawn, minlength=len(counts))
    assert (uses <= max(1, max_reuse)).all() and (uses[~counts.any(axis=1)] == 1).all()
    # Nothing is left out that still fits, unless every class is full
    total = counts[drawn].sum(axis=0)
    for index in np.flatnonzero(uses == 0):
        assert (total + counts[index] > caps).any()
    if (total < caps).any():
        for index in np.flatnonzero(uses < max(1, max_reuse)):
            assert (total + counts[index] > caps).any() or not counts[index].any()


def test_repeats_are_for_classes_below_their_cap() -> None:
    counts = np.array([[5, 0], [5, 0], [0, 2]])
    assert sorted(draw_capped(counts, np.array([10, 10]), max_reuse=3)) == [0, 1, 2, 2, 2]
    assert draw_capped(counts, np.array([10, 2]), max_reuse=3) == [0, 1, 2]
    # a class that does not count asks for no repeats, but its cap holds
    ignored = np.array([False, True])
    assert draw_capped(counts, np.array([10, 10]), max_reuse=3, not_counting=ignored) == [0, 1, 2]
    assert draw_capped(counts, np.array([10, 1]), max_reuse=3, not_counting=ignored) == [0, 1]


@pytest.mark.parametrize(("max_reuse", "uses"), [(0, 1), (1, 1), (2, 2)])
def test_as_in_the_original_0_and_1_both_mean_once(max_reuse: int, uses: int) -> None:
    assert draw_capped(np.array([[1]]), np.array([100]), max_reuse=max_reuse) == [0] * uses
