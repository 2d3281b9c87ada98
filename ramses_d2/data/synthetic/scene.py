"""One synthetic image: stones drawn, packed, lit and photographed.

Shapes: H W = the image, K = stones.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ramses_d2.data.synthetic.camera import SUPERSAMPLE, majority_label, paint_belt, photograph
from ramses_d2.data.synthetic.lighting import Sun, shade
from ramses_d2.data.synthetic.materials import get_material
from ramses_d2.data.synthetic.packing import Packer
from ramses_d2.data.synthetic.stones import Stone, StonePatch, draw_stone, make_noise, render_stone
from ramses_d2.errors import RamsesError

LARGEST_STRETCH = 2.0  # length over sieve size that a stone may reach, corners included
PENUMBRA_MM = 0.45
SUN_AZIMUTH = np.radians(215)  # upper left
SUN_ELEVATION = np.radians(36)
ATTEMPTS = 5


@dataclass(frozen=True)
class SceneConfig:
    """What an image may look like; every pair is a range that is drawn from per image or per stone.

    Attributes:
        height: image rows (px).
        width: image columns (px).
        stones: number of stones; an image without room for all has fewer, never less than the first number.
        classes: material names.
        resolution: px/mm of the image, log-uniform.
        diameter_mm: sieve size (smallest width seen from above), mm.
        thickness: height over half the sieve size, log-uniform, independent of everything else.
        border: let the image's edge cut stones; the mass of a cut stone is NaN.
    """

    height: int = 128
    width: int = 192
    stones: tuple[int, int] = (8, 40)
    classes: tuple[str, ...] = ("Ra", "Rb", "Rc", "Ru", "Rg")
    resolution: tuple[float, float] = (1.6, 2.8)
    diameter_mm: tuple[float, float] = (6.5, 12.0)
    thickness: tuple[float, float] = (0.4, 1.6)
    border: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if min(self.height, self.width) < 32:
            raise RamsesError(f"size {self.height} x {self.width} is too small: at least 32 x 32 pixels")
        for name in ("stones", "resolution", "diameter_mm", "thickness"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf:
                raise RamsesError(f"{name} {low} {high}: give two positive numbers, the smaller one first")
        if self.stones[1] > np.iinfo(np.uint16).max:
            raise RamsesError(f"stones {self.stones[1]}: a uint16 label image holds at most 65535")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise RamsesError(f"classes {' '.join(self.classes)}: name at least one material, each once")
        for name in self.classes:
            get_material(name)
        longest = self.diameter_mm[1] * self.resolution[1] * LARGEST_STRETCH
        if longest > min(self.height, self.width) and not self.border:
            raise RamsesError(
                f"stones of {self.diameter_mm[1]} mm at {self.resolution[1]} px/mm can be {longest:.0f} px, "
                f"too long for {self.height} x {self.width} pixels: lower the resolution or the diameter"
            )


@dataclass(frozen=True)
class Scene:
    """An image with its truth; stone k has label k + 1.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint16, 0 = belt.
        classes: K names.
        masses: (K,) g, NaN for a stone cut by the image's edge.
        resolution: px/mm.
        height_mm: (H, W) float32, the height field.
        widths_mm: (K,) sieve sizes.
        thicknesses_mm: (K,) heights before facets.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: list[str]
    masses: np.ndarray
    resolution: float
    height_mm: np.ndarray
    widths_mm: np.ndarray
    thicknesses_mm: np.ndarray


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    return np.exp(rng.uniform(*np.log(limits), size))


def _draw_stones(config: SceneConfig, rng: np.random.Generator) -> list[Stone]:
    """Draw the stones, largest first (they need the room); every class comes before any comes twice."""
    count = int(rng.integers(config.stones[0], config.stones[1] + 1))
    low, high = config.diameter_mm
    fineness = rng.uniform(0.8, 1.8)  # the image's grading: above 1 = more small stones
    widths = np.sort(low * (high / low) ** (rng.random(count) ** fineness))[::-1]
    factors = _log_uniform(config.thickness, rng, count)
    shares = rng.dirichlet(np.full(len(config.classes), 5.0))
    more = rng.choice(config.classes, count, p=shares)
    names = np.concatenate([rng.permutation(config.classes), more])[:count]
    return [
        draw_stone(get_material(str(name)), width, factor, rng)
        for name, width, factor in zip(names, widths, factors, strict=True)
    ]


def render_scene(config: SceneConfig, rng: np.random.Generator) -> Scene:
    """Draw one image."""
    for _ in range(ATTEMPTS):
        scene = _try_scene(config, rng)
        if len(scene.classes) >= config.stones[0]:
            return scene
    raise RamsesError(
        f"no room for {config.stones[0]} stones in {config.height} x {config.width} pixels: lower stones, "
        "resolution or diameter_mm, or enlarge the picture"
    )


def _try_scene(config: SceneConfig, rng: np.random.Generator) -> Scene:
    resolution = float(_log_uniform(config.resolution, rng))
    pixels_per_mm = resolution * SUPERSAMPLE
    stones = _draw_stones(config, rng)
    reach = max(stone.radii.max() for stone in stones) * pixels_per_mm
    # Stones may lie half outside: the scene is rendered wider than the image and cut.
    pad = SUPERSAMPLE * int(np.ceil(reach / SUPERSAMPLE + 1)) if config.border else 0
    shape = (config.height * SUPERSAMPLE + 2 * pad, config.width * SUPERSAMPLE + 2 * pad)
    canvas = Canvas(shape, pixels_per_mm, rng)
    noise = make_noise(max(256, 4 * int(reach)), pixels_per_mm, rng)
    packer = Packer(canvas.labels, rng, overhang=pad)
    placed, masses = [], []
    for stone in stones:
        centre = packer.place(stone.radii * pixels_per_mm)
        if centre is not None:
            patch = render_stone(stone, pixels_per_mm, noise, rng)
            placed.append(stone)
            masses.append(patch.mass)
            canvas.add(patch, centre, len(placed), stone.material.gloss)

    sun = Sun(
        azimuth=SUN_AZIMUTH + rng.normal(0, 0.08),
        elevation=SUN_ELEVATION + rng.normal(0, 0.03),
        strength=rng.uniform(0.78, 0.88),
        ambient=rng.uniform(0.20, 0.27),
    )
    frame = np.s_[pad : shape[0] - pad, pad : shape[1] - pad]
    relief, penumbra = canvas.height * np.float32(pixels_per_mm), PENUMBRA_MM * pixels_per_mm
    radiance = shade(canvas.albedo, canvas.gloss, relief, sun, penumbra)
    labels = majority_label(canvas.labels[frame])
    kept = np.unique(labels[labels > 0])  # a stone that the edge cuts may have no pixel left
    renumber = np.zeros(len(placed) + 1, np.uint16)
    renumber[kept] = np.arange(1, len(kept) + 1)
    whole = np.bincount(canvas.labels.ravel(), minlength=len(renumber))
    within = np.bincount(canvas.labels[frame].ravel(), minlength=len(renumber))
    masses = np.where(within < whole, np.nan, [0.0, *masses])[kept]
    placed = [placed[label - 1] for label in kept]
    return Scene(
        image=photograph(radiance[frame], rng),
        labels=renumber[labels],
        classes=[stone.material.name for stone in placed],
        masses=masses,
        resolution=resolution,
        height_mm=cv2.resize(canvas.height[frame], labels.shape[::-1], interpolation=cv2.INTER_AREA),
        widths_mm=np.array([stone.width for stone in placed]),
        thicknesses_mm=np.array([stone.thickness for stone in placed]),
    )


class Canvas:
    """The belt seen from above, supersampled, with the stones put on it so far.

    Attributes:
        height: (H, W) float32, mm.
        labels: (H, W) uint16, 0 = belt.
        gloss: (H, W) float32.
        albedo: (H, W, 3) float32, linear.
    """

    def __init__(self, shape: tuple[int, int], pixels_per_mm: float, rng: np.random.Generator) -> None:
        self.height = np.zeros(shape, np.float32)
        self.labels = np.zeros(shape, np.uint16)
        self.gloss = np.zeros(shape, np.float32)
        self.albedo = paint_belt(shape, pixels_per_mm, rng)

    def add(self, patch: StonePatch, centre: tuple[int, int], label: int, gloss: float) -> None:
        """Put a stone down; where it meets another by a pixel, that pixel belongs to the higher one."""
        half = patch.height.shape[0] // 2
        top, left = centre[0] - half, centre[1] - half
        rows = slice(max(top, 0), min(top + 2 * half + 1, self.height.shape[0]))
        columns = slice(max(left, 0), min(left + 2 * half + 1, self.height.shape[1]))
        window = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        seen = patch.inside[window] & (patch.height[window] >= self.height[rows, columns])
        self.height[rows, columns][seen] = patch.height[window][seen]
        self.labels[rows, columns][seen] = label
        self.gloss[rows, columns][seen] = gloss
        self.albedo[rows, columns][seen] = patch.albedo[window][seen]
