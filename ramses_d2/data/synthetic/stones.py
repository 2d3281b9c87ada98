"""One stone: the material it is made of, its outline seen from above, and a height field over it.

The outline is the unit level of a *gauge*: g(p) = 0 in the centre, 1 on the outline, linear along every ray. Edges that
are half-planes give flat facets where the height depends on g, a soft maximum over them gives pebbles. Albedos are
linear-light RGB in 0..1.
Shapes: A = outline directions, h w = the pixels of the stone's square window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

DIRECTIONS = 180
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
CALIPERS = np.cos(ANGLES - ANGLES[::3, None])  # of a caliper turned in steps of 6 degrees
GRAIN_MM = {"fine": 0.4, "medium": 1.1, "coarse": 3.5}
DENSITY_SPREAD = 0.02


@dataclass(frozen=True)
class Surface:
    """What a paint function sees of a stone, all (h, w) float32."""

    along: np.ndarray  # mm from the centre, along the stone's long axis
    across: np.ndarray  # mm from the centre, across it
    gauge: np.ndarray
    fine: np.ndarray  # unit-variance noises of GRAIN_MM
    medium: np.ndarray
    coarse: np.ndarray


@dataclass(frozen=True)
class Material:
    """How one class of particle looks, breaks and weighs; pairs are ranges."""

    name: str
    density: float  # g/cm3
    corners: tuple[int, int]  # edges of the outline
    sharpness: float  # exponent of the soft maximum over the edges: 2 = pebble, 30 = polygon
    elongation: tuple[float, float]  # length / width
    ruggedness: float  # outline noise / radius
    flank: tuple[float, float]  # width of the sloping rim / radius
    roundness: float  # of the flank: 0 = straight, 1 = elliptic
    facets: int  # oblique planes cut off the top
    bumpiness: float  # surface noise / height
    gloss: float  # 0 = matt, 1 = glass
    paint: Callable[[Surface, np.random.Generator], np.ndarray]  # albedo (h, w, 3)


@dataclass(frozen=True)
class Stone:
    """A stone's shape in mm, and its density."""

    material: Material
    radii: np.ndarray  # (A,) from the centre to the outline in the directions ANGLES
    axis: float  # direction of the long axis, rad
    width: float  # smallest caliper width seen from above, the sieve size
    thickness: float  # height over the belt before facets are cut
    flank: float
    facets: np.ndarray  # rows: direction, height at the centre / thickness, slope
    density: float  # g/cm3


@dataclass(frozen=True)
class StonePatch:
    """A stone on a pixel grid, in a window centred on it."""

    height: np.ndarray  # (h, w) float32 mm, 0 outside
    albedo: np.ndarray  # (h, w, 3) float32
    inside: np.ndarray  # (h, w) bool
    mass: float  # g


def _blend(albedo: np.ndarray, color: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mix (h, w, 3) ``albedo`` with one ``color`` (3,) where ``weight`` (h, w) in 0..1 says so."""
    return albedo + weight[..., None] * (color - albedo)


def _above(noise: np.ndarray, threshold: float, softness: float = 0.35) -> np.ndarray:
    """0 below the threshold, 1 above it, with a soft edge so that small spots do not alias."""
    return np.clip((noise - threshold) / softness, 0.0, 1.0)


def _color(palette: list[tuple[float, float, float]], spread: float, rng: np.random.Generator) -> np.ndarray:
    """One palette entry, its brightness (common to the channels) and tint varied a little: (3,) float32."""
    base = np.asarray(palette[rng.integers(len(palette))])
    return (base * np.exp(rng.normal(0.0, spread) + rng.normal(0.0, 0.05, 3))).astype(np.float32)


def _flat(color: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    return color * np.maximum(brightness, 0.1)[..., None]


def paint_asphalt(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Black binder with small grey aggregate grains."""
    binder = _color([(0.026, 0.025, 0.026), (0.040, 0.037, 0.034)], 0.15, rng)
    grain = _color([(0.22, 0.21, 0.19), (0.30, 0.28, 0.25), (0.15, 0.15, 0.16)], 0.15, rng)
    albedo = _flat(binder, 1 + 0.3 * surface.medium)
    return _blend(albedo, grain, 0.9 * _above(surface.fine + 0.5 * surface.medium, rng.uniform(1.2, 1.7)))


def paint_brick(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Red to orange fired clay with dark pores and, on some stones, a smear of mortar."""
    clay = _color([(0.40, 0.105, 0.045), (0.46, 0.165, 0.065), (0.27, 0.065, 0.040)], 0.12, rng)
    albedo = _flat(clay, 1 + 0.12 * surface.coarse + 0.12 * surface.fine)
    albedo = _blend(albedo, clay * 0.3, 0.7 * _above(surface.fine, 1.5))
    mortar = np.float32([0.46, 0.42, 0.36])
    return _blend(albedo, mortar, 0.75 * _above(surface.coarse + 0.3 * surface.fine, rng.uniform(1.0, 2.5)))


def paint_concrete(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Light cement paste with aggregate inclusions of several greys and browns."""
    paste = _color([(0.44, 0.43, 0.39), (0.52, 0.50, 0.45), (0.37, 0.37, 0.35)], 0.10, rng)
    dark = _color([(0.15, 0.15, 0.16), (0.20, 0.15, 0.11), (0.12, 0.14, 0.16)], 0.15, rng)
    light = _color([(0.62, 0.58, 0.50), (0.50, 0.42, 0.31)], 0.10, rng)
    albedo = _flat(paste, 1 + 0.08 * surface.fine + 0.05 * surface.coarse)
    albedo = _blend(albedo, dark, 0.85 * _above(surface.medium + 0.2 * surface.fine, 0.85))
    return _blend(albedo, light, 0.8 * _above(-surface.medium, 1.05))


def paint_rock(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Grey, brown, beige or bluish rock with bands that the coarse noise bends."""
    greys = [(0.19, 0.20, 0.22), (0.25, 0.20, 0.15), (0.13, 0.15, 0.18), (0.33, 0.28, 0.21), (0.22, 0.16, 0.13)]
    rock = _color(greys, 0.15, rng)
    angle = rng.uniform(0.0, np.pi)
    depth = surface.along * np.cos(angle) + surface.across * np.sin(angle)
    wave = 2 * np.pi * depth / rng.uniform(1.5, 6.0) + rng.uniform(0, 6)
    wave = wave + rng.uniform(0.6, 1.8) * surface.coarse
    bands = np.sin(wave) * rng.uniform(0.05, 0.35)
    albedo = _flat(rock, 1 + bands + 0.07 * surface.fine)
    vein = _color([(0.60, 0.57, 0.52)], 0.1, rng)
    return _blend(albedo, vein, 0.7 * _above(np.cos(wave * 0.31), rng.uniform(0.93, 1.3), 0.05))


def paint_glass(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Bottle glass: clear, and lighter towards the edge, where the light is guided."""
    glass = _color([(0.035, 0.115, 0.045), (0.075, 0.17, 0.11), (0.055, 0.10, 0.025)], 0.15, rng)
    return _flat(glass, 0.75 + 0.9 * surface.gauge**4 + 0.06 * surface.coarse)


def paint_wood(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Brown fibres along the stone's long axis."""
    wood = _color([(0.36, 0.22, 0.10), (0.27, 0.15, 0.065), (0.43, 0.30, 0.16)], 0.12, rng)
    lines = rng.normal(size=64).astype(np.float32)
    fibre = np.interp(surface.across * 3.0 + 0.35 * surface.coarse + 0.04 * surface.along, np.arange(64) - 32.0, lines)
    return _flat(wood, 1 + 0.28 * fibre.astype(np.float32) + 0.05 * surface.fine)


# Classes as in EN 933-11
MATERIALS = {
    material.name: material
    for material in (
        Material("Ra", 2.30, (7, 10), 6.0, (1.0, 1.4), 0.050, (0.65, 0.85), 0.7, 0, 0.070, 0.03, paint_asphalt),
        Material("Rb", 1.80, (5, 7), 18.0, (1.0, 1.6), 0.025, (0.45, 0.65), 0.3, 2, 0.045, 0.00, paint_brick),
        Material("Rc", 2.25, (6, 8), 14.0, (1.0, 1.4), 0.030, (0.50, 0.70), 0.4, 1, 0.035, 0.00, paint_concrete),
        Material("Ru", 2.65, (8, 11), 3.0, (1.0, 1.5), 0.012, (0.85, 1.00), 1.0, 0, 0.015, 0.04, paint_rock),
        Material("Rg", 2.50, (5, 7), 30.0, (1.0, 1.6), 0.000, (0.45, 0.70), 0.1, 2, 0.000, 1.00, paint_glass),
        Material("X", 0.60, (4, 5), 12.0, (1.6, 2.4), 0.012, (0.45, 0.65), 0.5, 1, 0.020, 0.02, paint_wood),
    )
}


def smallest_width(radii: np.ndarray) -> float:
    """Smallest caliper width of the outline ``radii`` (A,), same unit."""
    support = (radii * CALIPERS).max(axis=1)
    return float((support + np.roll(support, len(support) // 2)).min())


def draw_stone(material: Material, width: float, thickness_factor: float, rng: np.random.Generator) -> Stone:
    """Draw a stone of sieve size ``width`` (mm) that is ``thickness_factor`` times half that width thick."""
    corners = rng.integers(material.corners[0], material.corners[1] + 1)
    axis, elongation = rng.uniform(0, 2 * np.pi), rng.uniform(*material.elongation)
    # Edges around the stone in uneven steps; along its axis they are farther from the centre
    edges = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * (2 * np.pi / corners)
    edges += rng.uniform(0, 2 * np.pi)
    distances = rng.uniform(0.82, 1.15, corners)
    along, across = np.cos(ANGLES - axis) / elongation, np.sin(ANGLES - axis)
    towards = (along[:, None] * np.cos(edges) + across[:, None] * np.sin(edges)) / distances
    # The gauge of a direction is the soft maximum over the edges
    gauge = (np.maximum(towards, 0) ** material.sharpness).sum(axis=1) ** (1 / material.sharpness)
    radii = (1 + material.ruggedness * _periodic_noise(rng)) / gauge
    radii *= width / smallest_width(radii)
    facets = [rng.uniform(low, high, material.facets) for low, high in ((0, 2 * np.pi), (0.80, 1.0), (0.2, 0.6))]
    return Stone(
        material,
        radii,
        axis,
        width,
        thickness=thickness_factor * width / 2,
        flank=rng.uniform(*material.flank),
        facets=np.column_stack(facets),
        density=material.density * float(np.exp(rng.normal(0, DENSITY_SPREAD))),
    )


def _periodic_noise(rng: np.random.Generator) -> np.ndarray:
    """Unit-variance noise (A,) round the outline, in waves of 3 to 14 per turn."""
    waves = np.arange(3, 15)
    amplitudes = rng.normal(size=len(waves)) / np.sqrt(waves)
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    noise = (amplitudes * np.cos(ANGLES[:, None] * waves + phases)).sum(axis=1)
    return noise / np.sqrt((1 / waves).sum() / 2)


def profile(gauge: np.ndarray, flank: float, roundness: float) -> np.ndarray:
    """Height / thickness, 0 outside the outline: a flat top, and a flank between chamfer and ellipse."""
    rise = np.clip((1 - gauge) / flank, 0, 1)
    return (1 - roundness) * rise + roundness * np.sqrt(rise * (2 - rise))


def make_noise(side: int, pixels_per_mm: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Unit-variance noises (side, side) float32 of ``GRAIN_MM``, from which stones cut windows."""
    return {name: smooth_noise((side, side), grain * pixels_per_mm, rng) for name, grain in GRAIN_MM.items()}


def smooth_noise(shape: tuple[int, int], grain: float, rng: np.random.Generator) -> np.ndarray:
    """Zero-mean unit-variance noise of ``shape`` with blobs of about ``grain`` pixels, float32."""
    height, width = shape
    grain = max(grain, 1.0)
    coarse = rng.standard_normal((int(height / grain) + 4, int(width / grain) + 4), dtype=np.float32)
    noise = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return (noise - noise.mean()) / noise.std()


def render_stone(
    stone: Stone, pixels_per_mm: float, noise: dict[str, np.ndarray], rng: np.random.Generator
) -> StonePatch:
    """Sample a stone on the pixel grid; ``noise`` of :func:`make_noise` is larger than the stone.

    The mass is density times the integral of the height field.
    """
    half = int(np.ceil(stone.radii.max() * pixels_per_mm)) + 1
    axis_mm = np.arange(-half, half + 1, dtype=np.float32) / np.float32(pixels_per_mm)
    x, y = np.meshgrid(axis_mm, axis_mm)
    # The radius in the direction of every pixel, linear between the directions of the outline
    distance, angle = cv2.cartToPolar(x, y)
    table = np.append(stone.radii, stone.radii[0]).astype(np.float32)
    position = angle * np.float32(DIRECTIONS / (2 * np.pi))
    lower = np.minimum(position.astype(np.intp), DIRECTIONS - 1)
    radius = table[lower] + (position - lower) * (table[lower + 1] - table[lower])
    gauge = distance / radius
    inside = gauge < 1

    side = len(axis_mm)
    windows = {}
    for name, field in noise.items():
        row, column = rng.integers(0, field.shape[0] - side + 1, 2)
        windows[name] = field[row : row + side, column : column + side]
    cos, sin = np.float32(np.cos(stone.axis)), np.float32(np.sin(stone.axis))
    surface = Surface(along=x * cos + y * sin, across=y * cos - x * sin, gauge=gauge, **windows)

    material = stone.material
    relative = profile(gauge, stone.flank, material.roundness)
    for direction, centre, slope in stone.facets.astype(np.float32):
        offset = (x * np.cos(direction) + y * np.sin(direction)) * np.float32(2 / stone.width)
        oblique = centre - slope * offset
        relative = np.clip(relative, 0, np.maximum(oblique, 0.15 * relative))
    bumps = material.bumpiness * (windows["medium"] + 0.5 * windows["coarse"])
    relative = relative * np.maximum(1 + bumps, 0.3)
    height = np.where(inside, np.float32(stone.thickness) * relative, 0).astype(np.float32)
    volume = float(height.sum(dtype=np.float64)) / pixels_per_mm**2
    albedo = material.paint(surface, rng).astype(np.float32)
    return StonePatch(height, albedo, inside, mass=stone.density * volume / 1000)
