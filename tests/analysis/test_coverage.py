"""How often 95 % intervals hold the truth: 90 - 99 % of 200 samples, drawn from heaps whose composition is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ramses_d2.analysis.composition import compose
from ramses_d2.analysis.grading import grade
from ramses_d2.analysis.intervals import IMAGES, PARTICLES, Resampling

RUNS = 200
ENOUGH, NOT_TOO_MANY = 0.90 * RUNS, 0.99 * RUNS
Draw = Callable[[np.random.Generator], pd.DataFrame]


def table(is_glass: np.ndarray, grams: Any = 1.0, images: Any = "a.jpg") -> pd.DataFrame:
    return pd.DataFrame({"class": np.where(is_glass, "Rg", "Rc"), "mass": grams, "baseimg": images})


def heap(number: int, share: float, spread: float, heavier: float = 1.0) -> tuple[Draw, float]:
    """``number`` particles, ``share`` of them glass, ``heavier`` times as heavy; lognormal grams."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        is_glass = rng.random(number) < share
        return table(is_glass, rng.lognormal(0, spread, number) * np.where(is_glass, heavier, 1))

    return draw, share * heavier / (share * heavier + 1 - share)


def shovels(images: int, with_glass: float, share: float) -> tuple[Draw, float]:
    """Images of 20 particles of 1 g; a share of the images has glass, and then a share of its particles is."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        of = np.repeat(np.arange(images), 20)
        return table(rng.random(20 * images) < share * (rng.random(images) < with_glass)[of], images=of.astype(str))

    return draw, with_glass * share


def mixed_shovels(images: int) -> tuple[Draw, float]:
    """Each image of 20 particles has its own share of glass, anything from 0 to 1."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        of = np.repeat(np.arange(images), 20)
        return table(rng.random(20 * images) < rng.random(images)[of], images=of.astype(str))

    return draw, 0.5


def composition_of(found: pd.DataFrame, over: str) -> tuple[float, float]:
    rows = compose(found, resampling=Resampling(over, replicates=300)).constituents.set_index("constituent")
    return rows.loc["Rg", "low"], rows.loc["Rg", "high"]


def count_held(draw: Draw, truth: float, over: str, seed: int = 0) -> int:
    rng, held = np.random.default_rng(seed), 0
    for _ in range(RUNS):
        low, high = composition_of(draw(rng), over)
        held += low <= truth <= high
    return held


@pytest.mark.parametrize(
    ("number", "share", "spread", "heavier"),
    [
        (120, 0.6, 0.5, 2.0),
        (30, 0.6, 0.6, 2.0),
        (50, 0.2, 0.5, 1.0),
        (100, 0.9, 0.5, 2.0),
        (100, 0.05, 0.5, 1.0),
        (100, 0.05, 0.5, 3.0),
        (100, 0.02, 0.5, 1.0),  # none seen in 13 % of the samples
        (100, 0.02, 1.0, 3.0),
        (300, 0.01, 0.7, 1.0),
        (100, 0.01, 0.5, 1.0),  # none seen in 37 %
    ],
)
def test_shares_over_particles(number, share, spread, heavier):
    draw, truth = heap(number, share, spread, heavier)
    assert ENOUGH <= count_held(draw, truth, PARTICLES) <= NOT_TOO_MANY


@pytest.mark.parametrize(
    ("draw", "truth"),
    [mixed_shovels(30), mixed_shovels(10), shovels(20, 0.2, 0.5), shovels(20, 0.1, 0.5), shovels(10, 0.3, 0.3)],
    ids=["mixed 30", "mixed 10", "1 in 5", "1 in 10", "3 in 10"],
)
def test_shares_over_images(draw, truth):
    assert ENOUGH <= count_held(draw, truth, IMAGES) <= NOT_TOO_MANY


def test_particles_that_lie_in_heaps_deceive_the_bootstrap_over_particles():
    draw, truth = mixed_shovels(30)
    assert count_held(draw, truth, PARTICLES) < 0.7 * RUNS  # far from the 95 % that it claims


def test_what_no_sample_can_know():
    """Rare pieces that are three times as heavy as all others: most misses are of samples that show none of them."""
    draw, truth = heap(100, 0.02, 0.5, 3.0)
    rng, held_where_seen, seen, held = np.random.default_rng(0), 0, 0, 0
    for _ in range(RUNS):
        sample = draw(rng)
        low, high = composition_of(sample, PARTICLES)
        is_held, has_glass = low <= truth <= high, (sample["class"] == "Rg").any()
        held += is_held
        seen += has_glass
        held_where_seen += is_held and has_glass
    assert 0.9 * seen <= held_where_seen <= seen
    assert held < ENOUGH


# Shares of the weight that pass, for lognormal sizes (median 7.4 mm) and weights that do not depend on size
OPENINGS = [1, 2, 4, 8, 16, 31.5, 63]
INDEPENDENT = norm.cdf((np.log(OPENINGS) - 2) / 0.8)
SIZES = np.exp(2 + 0.8 * norm.ppf([0.1, 0.3, 0.5, 0.6, 0.9]))


def held_by_grading(draw: Draw, openings: Sequence[float], shares: np.ndarray, d_values: np.ndarray) -> np.ndarray:
    """(S + 5,) how many intervals of passing ``shares`` (S,) and of D10, D30, D50, D60, D90 (5,) hold them; last, how
    many gradings say that a few heavy particles carry the weight."""
    rng, held = np.random.default_rng(0), np.zeros(len(openings) + 6, int)
    for _ in range(RUNS):
        found = grade(draw(rng), openings, resampling=Resampling(replicates=300))
        sizes = found.sizes.iloc[:5]
        held[:-6] += ((found.sieves["low"] <= shares) & (found.sieves["high"] >= shares)).to_numpy()
        held[-6:-1] += ((sizes["low"] <= d_values) & (sizes["high"] >= d_values)).to_numpy()
        held[-1] += any("heavy" in note for note in found.notes)
    return held


def sized(sizes: np.ndarray, grams: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"class": "Rc", "feret_min_mm": sizes, "mass": grams, "baseimg": "a.jpg"})


def test_passing_shares_and_sizes():
    """From 0.6 % that pass 1 mm to 0.4 % that stay on 63 mm, of which most samples of 100 show none."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        return sized(rng.lognormal(2, 0.8, 100), rng.lognormal(0, 0.5, 100))

    *held, notes = held_by_grading(draw, OPENINGS, INDEPENDENT, SIZES)
    assert ENOUGH <= min(held) and max(held) <= NOT_TOO_MANY, held
    assert notes == 0


def test_passing_shares_where_large_particles_carry_the_weight():
    """Weight grows with the cube of the size: 5 % of it stays on 16 mm, in 1 particle of 200."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        sizes = rng.lognormal(2, 0.3, 200)
        return sized(sizes, sizes**3 * rng.lognormal(0, 0.2, 200))

    openings = [6.3, 8, 12.5, 16]
    *held, _ = held_by_grading(draw, openings, norm.cdf((np.log(openings) - 2) / 0.3 - 3 * 0.3), SIZES)[
        [0, 1, 2, 3, -1]
    ]
    assert ENOUGH <= min(held) and max(held) <= NOT_TOO_MANY, held


def held_by_wide_grading(smallest: float, largest: float, number: int, openings: Sequence[float]) -> np.ndarray:
    """:func:`held_by_grading` of sizes with as much weight in each octave between ``smallest`` and ``largest``."""

    def draw(rng: np.random.Generator) -> pd.DataFrame:
        # Equal weight per octave and weight as the cube: the number of particles falls with the fourth power of size
        few = smallest**-3 - rng.random(number) * (smallest**-3 - largest**-3)
        sizes = few ** (-1 / 3)
        return sized(sizes, sizes**3 * rng.lognormal(0, 0.2, number))

    octaves = np.log(largest / smallest)
    levels = np.array([0.1, 0.3, 0.5, 0.6, 0.9])
    return held_by_grading(
        draw, openings, np.log(np.array(openings) / smallest) / octaves, smallest * np.exp(levels * octaves)
    )


def test_sizes_where_large_particles_carry_the_weight():
    """1000 particles of 4 to 31.5 mm: many samples hold none as large as D90, 25.6 mm, or one."""
    held = held_by_wide_grading(4, 31.5, 1000, [8])[1:-1]
    assert ENOUGH <= held.min() and held.max() <= NOT_TOO_MANY, held


def test_few_large_particles_are_said():
    """1000 particles of 1 to 31.5 mm say as much as some 20 of equal weight: too few, and all the gradings say so."""
    *held, notes = held_by_wide_grading(1, 31.5, 1000, [8, 11.2, 16])
    assert min(held) < ENOUGH
    assert notes == RUNS
