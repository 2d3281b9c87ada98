"""The materials of recycled aggregates (classes as in EN 933-11): density, shape, colour, texture.

Albedos are linear-light RGB in 0..1. Shapes: h w = the pixels of one stone's square window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ramses_d2.errors import RamsesError


@dataclass(frozen=True)
class Surface:
    """What a paint function may look at: all (h, w) float32, one stone's window.

    ``along`` and ``across`` are mm from the centre, along the stone's long axis and across it; ``gauge`` is 0
    in the centre and 1 on the outline; ``fine``, ``medium``, ``coarse`` are unit-variance noises of 0.4, 1.1
    and 3.5 mm grain.
    """

    along: np.ndarray
    across: np.ndarray
    gauge: np.ndarray
    fine: np.ndarray
    medium: np.ndarray
    coarse: np.ndarray


Paint = Callable[[Surface, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Material:
    """How one class of particle looks, breaks and weighs.

    ``corners``: range of the number of outline edges; ``sharpness``: exponent of the soft maximum over the
    edges (2 = pebble, 30 = polygon); ``elongation``: length / width range; ``ruggedness``: outline noise as a
    fraction of the radius; ``flank``: range of the sloping rim's width as a fraction of the radius;
    ``roundness``: 0 = straight flank, 1 = elliptic; ``facets``: oblique planes cut off the top;
    ``bumpiness``: surface noise as a fraction of the height.
    """

    name: str
    density: float  # g/cm3
    corners: tuple[int, int]
    sharpness: float
    elongation: tuple[float, float]
    ruggedness: float
    flank: tuple[float, float]
    roundness: float
    facets: int
    bumpiness: float
    gloss: float
    paint: Paint


def _blend(albedo: np.ndarray, colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mix (h, w, 3) ``albedo`` with one ``colour`` (3,) where ``weight`` (h, w) in 0..1 says so."""
    return albedo + weight[..., None] * (colour - albedo)


def _above(noise: np.ndarray, threshold: float, softness: float = 0.35) -> np.ndarray:
    """0 below the threshold, 1 above it, with a soft edge so that specks do not alias."""
    return np.clip((noise - threshold) / softness, 0.0, 1.0)


def _colour(palette: list[tuple[float, float, float]], spread: float, rng: np.random.Generator) -> np.ndarray:
    """One palette entry, its brightness (common to the channels) and tint varied a little: (3,) float32."""
    base = np.asarray(palette[rng.integers(len(palette))])
    return (base * np.exp(rng.normal(0.0, spread) + rng.normal(0.0, 0.05, 3))).astype(np.float32)


def _flat(colour: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    return colour * np.maximum(brightness, 0.1)[..., None]


def paint_asphalt(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Black binder with small grey aggregate specks."""
    binder = _colour([(0.026, 0.025, 0.026), (0.040, 0.037, 0.034)], 0.15, rng)
    speck = _colour([(0.22, 0.21, 0.19), (0.30, 0.28, 0.25), (0.15, 0.15, 0.16)], 0.15, rng)
    albedo = _flat(binder, 1 + 0.3 * surface.medium)
    return _blend(albedo, speck, 0.9 * _above(surface.fine + 0.5 * surface.medium, rng.uniform(1.2, 1.7)))


def paint_brick(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Red to orange fired clay with dark pores and, on some stones, a smear of mortar."""
    clay = _colour([(0.40, 0.105, 0.045), (0.46, 0.165, 0.065), (0.27, 0.065, 0.040)], 0.12, rng)
    albedo = _flat(clay, 1 + 0.12 * surface.coarse + 0.12 * surface.fine)
    albedo = _blend(albedo, clay * 0.3, 0.7 * _above(surface.fine, 1.5))
    mortar = np.float32([0.46, 0.42, 0.36])
    return _blend(albedo, mortar, 0.75 * _above(surface.coarse + 0.3 * surface.fine, rng.uniform(1.0, 2.5)))


def paint_concrete(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Light cement paste with aggregate inclusions of several greys and browns."""
    paste = _colour([(0.44, 0.43, 0.39), (0.52, 0.50, 0.45), (0.37, 0.37, 0.35)], 0.10, rng)
    dark = _colour([(0.15, 0.15, 0.16), (0.20, 0.15, 0.11), (0.12, 0.14, 0.16)], 0.15, rng)
    light = _colour([(0.62, 0.58, 0.50), (0.50, 0.42, 0.31)], 0.10, rng)
    albedo = _flat(paste, 1 + 0.08 * surface.fine + 0.05 * surface.coarse)
    albedo = _blend(albedo, dark, 0.85 * _above(surface.medium + 0.2 * surface.fine, 0.85))
    return _blend(albedo, light, 0.8 * _above(-surface.medium, 1.05))


def paint_natural_stone(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Grey, brown, beige or bluish rock with bands that the coarse noise bends."""
    rock = _colour(
        [(0.19, 0.20, 0.22), (0.25, 0.20, 0.15), (0.13, 0.15, 0.18), (0.33, 0.28, 0.21), (0.22, 0.16, 0.13)],
        0.15,
        rng,
    )
    angle = rng.uniform(0.0, np.pi)
    depth = surface.along * np.cos(angle) + surface.across * np.sin(angle)
    wave = 2 * np.pi * depth / rng.uniform(1.5, 6.0) + rng.uniform(0, 6)
    wave = wave + rng.uniform(0.6, 1.8) * surface.coarse
    bands = np.sin(wave) * rng.uniform(0.05, 0.35)
    albedo = _flat(rock, 1 + bands + 0.07 * surface.fine)
    vein = _colour([(0.60, 0.57, 0.52)], 0.1, rng)
    return _blend(albedo, vein, 0.7 * _above(np.cos(wave * 0.31), rng.uniform(0.93, 1.3), 0.05))


def paint_glass(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Bottle glass: clear colour, lighter towards the edge where the light is guided."""
    glass = _colour([(0.035, 0.115, 0.045), (0.075, 0.17, 0.11), (0.055, 0.10, 0.025)], 0.15, rng)
    return _flat(glass, 0.75 + 0.9 * surface.gauge**4 + 0.06 * surface.coarse)


def paint_wood(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Brown fibres along the stone's long axis."""
    wood = _colour([(0.36, 0.22, 0.10), (0.27, 0.15, 0.065), (0.43, 0.30, 0.16)], 0.12, rng)
    lines = rng.normal(size=64).astype(np.float32)
    fibre = np.interp(surface.across * 3.0 + 0.35 * surface.coarse + 0.04 * surface.along, np.arange(64) - 32.0, lines)
    return _flat(wood, 1 + 0.28 * fibre.astype(np.float32) + 0.05 * surface.fine)


MATERIALS = {
    material.name: material
    for material in (
        Material("Ra", 2.30, (7, 10), 6.0, (1.0, 1.4), 0.050, (0.65, 0.85), 0.7, 0, 0.070, 0.03, paint_asphalt),
        Material("Rb", 1.80, (5, 7), 18.0, (1.0, 1.6), 0.025, (0.45, 0.65), 0.3, 2, 0.045, 0.00, paint_brick),
        Material("Rc", 2.25, (6, 8), 14.0, (1.0, 1.4), 0.030, (0.50, 0.70), 0.4, 1, 0.035, 0.00, paint_concrete),
        Material(
            "Ru",
            2.65,
            (8, 11),
            3.0,
            (1.0, 1.5),
            0.012,
            (0.85, 1.00),
            1.0,
            0,
            0.015,
            0.04,
            paint_natural_stone,
        ),
        Material("Rg", 2.50, (5, 7), 30.0, (1.0, 1.6), 0.000, (0.45, 0.70), 0.1, 2, 0.000, 1.00, paint_glass),
        Material("X", 0.60, (4, 5), 12.0, (1.6, 2.4), 0.012, (0.45, 0.65), 0.5, 1, 0.020, 0.02, paint_wood),
    )
}


def get_material(name: str) -> Material:
    """Look a class up by its name."""
    if name not in MATERIALS:
        raise RamsesError(f"unknown material '{name}': choose from {' '.join(MATERIALS)}")
    return MATERIALS[name]
