"""One stone: an outline seen from above and a height field over it.

The outline is the unit level of a *gauge*: g(p) = 0 in the centre, 1 on the outline, linear along every ray.
Edges that are half-planes give flat facets where the height depends on g, a soft maximum over them gives
pebbles.
Shapes: A = outline directions, h w = the pixels of the stone's square window, P = sample points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ramses_d2.data.synthetic.materials import Material, Surface

DIRECTIONS = 180
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
GRAIN_MM = {"fine": 0.4, "medium": 1.1, "coarse": 3.5}
DENSITY_SPREAD = 0.02
CALIPERS = np.cos(ANGLES - ANGLES[::3, None])  # of a caliper turned in steps of 6 degrees


@dataclass(frozen=True)
class Stone:
    """A stone's shape in mm, and its density.

    ``radii`` (A,): distance of the outline from the centre in direction ``ANGLES``; ``axis``: direction of
    the long axis (rad); ``width``: smallest caliper width seen from above, the sieve size; ``thickness``:
    height over the belt before facets are cut; ``facets`` rows: (direction, height at the centre / thickness,
    slope).
    """

    material: Material
    radii: np.ndarray
    axis: float
    width: float
    thickness: float
    flank: float
    facets: np.ndarray
    density: float  # g/cm3


@dataclass(frozen=True)
class StonePatch:
    """A stone on a pixel grid: height in mm (0 outside) and linear albedo, window centred on the stone."""

    height: np.ndarray  # (h, w) float32
    albedo: np.ndarray  # (h, w, 3) float32
    inside: np.ndarray  # (h, w) bool
    mass: float  # g


def smallest_width(radii: np.ndarray) -> float:
    """Smallest caliper width of the outline ``radii`` (A,), same unit."""
    support = (radii * CALIPERS).max(axis=1)
    return float((support + np.roll(support, len(support) // 2)).min())


def draw_stone(material: Material, width: float, thickness_factor: float, rng: np.random.Generator) -> Stone:
    """Draw a stone of sieve size ``width`` (mm) that is ``thickness_factor`` times half that width thick."""
    corners = rng.integers(material.corners[0], material.corners[1] + 1)
    axis, elongation = rng.uniform(0, 2 * np.pi), rng.uniform(*material.elongation)
    edges = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * (2 * np.pi / corners)
    edges += rng.uniform(0, 2 * np.pi)
    distances = rng.uniform(0.82, 1.15, corners)
    along, across = np.cos(ANGLES - axis) / elongation, np.sin(ANGLES - axis)
    towards = (along[:, None] * np.cos(edges) + across[:, None] * np.sin(edges)) / distances
    gauge = (np.maximum(towards, 0) ** material.sharpness).sum(axis=1) ** (1 / material.sharpness)
    radii = (1 + material.ruggedness * _periodic_noise(rng)) / gauge
    radii *= width / smallest_width(radii)
    facets = np.column_stack(
        [
            rng.uniform(0, 2 * np.pi, material.facets),
            rng.uniform(0.80, 1.0, material.facets),
            rng.uniform(0.2, 0.6, material.facets),
        ]
    )
    return Stone(
        material=material,
        radii=radii,
        axis=axis,
        width=width,
        thickness=thickness_factor * width / 2,
        flank=rng.uniform(*material.flank),
        facets=facets,
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
    """Height over thickness: a flat top, and a flank (fraction of the radius) between chamfer and ellipse.

    Returns:
        array like ``gauge`` in 0..1, 0 outside the outline.
    """
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
    """Sample a stone on the pixel grid; its mass is density times the integral of the height field.

    Args:
        stone: what to render.
        pixels_per_mm: of the grid.
        noise: squares from :func:`make_noise`, larger than the stone.
        rng: for texture and colour.
    """
    half = int(np.ceil(stone.radii.max() * pixels_per_mm)) + 1
    axis_mm = np.arange(-half, half + 1, dtype=np.float32) / np.float32(pixels_per_mm)
    x, y = np.meshgrid(axis_mm, axis_mm)
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
