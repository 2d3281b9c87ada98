"""One synthetic image: stones packed on a belt until they touch, lit by one sun with cast shadows, and photographed.

Everything is rendered at SUPERSAMPLE times the image's pixels; the camera reduces it.
Shapes: H W = the supersampled grid, A = outline directions, P = sample points of a stone, R = rays tried at once,
T = steps along a ray, N = spots.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ramses_d2.data.synthetic.stones import (
    ANGLES,
    MATERIALS,
    Stone,
    StonePatch,
    draw_stone,
    make_noise,
    render_stone,
    smooth_noise,
)
from ramses_d2.errors import RamsesError

SUPERSAMPLE = 2
LARGEST_STRETCH = 2.0  # length over sieve size that a stone may reach, corners included
PENUMBRA_MM = 0.45
SUN_AZIMUTH = np.radians(215)  # upper left
SUN_ELEVATION = np.radians(36)
ATTEMPTS = 5
RAYS = 8
ROUNDS = 6
LONE_FRACTION = 0.10
GAP = 2  # pixels within which a neighbour counts as a contact


@dataclass(frozen=True)
class SceneConfig:
    """What an image may look like; a pair is a range that is drawn from per image or per stone."""

    height: int = 128  # px of the image
    width: int = 192
    stones: tuple[int, int] = (8, 40)  # an image without room for all has fewer, never less than the first number
    classes: tuple[str, ...] = ("Ra", "Rb", "Rc", "Ru", "Rg")  # names of MATERIALS
    resolution: tuple[float, float] = (1.6, 2.8)  # px/mm of the image, log-uniform
    diameter_mm: tuple[float, float] = (6.5, 12.0)  # sieve size: smallest width seen from above
    thickness: tuple[float, float] = (0.4, 1.6)  # height / half sieve size, log-uniform, independent of all else
    border: bool = False  # the image's edge may cut stones; the mass of a cut stone is NaN

    def __post_init__(self) -> None:
        """Check the settings."""
        size = f"{self.height} x {self.width} pixels"
        if min(self.height, self.width) < 32:
            raise RamsesError(f"size {size}: at least 32 x 32")
        for name in ("stones", "resolution", "diameter_mm", "thickness"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf:
                raise RamsesError(f"{name} {low} {high}: give two positive numbers, the smaller one first")
        if self.stones[1] > np.iinfo(np.uint16).max:
            raise RamsesError(f"stones {self.stones[1]}: a uint16 label image holds at most 65535")
        if not 0 < len(set(self.classes) & set(MATERIALS)) == len(self.classes):
            raise RamsesError(f"classes {' '.join(self.classes)}: choose from {' '.join(MATERIALS)}, each once")
        longest = self.diameter_mm[1] * self.resolution[1] * LARGEST_STRETCH
        if longest > min(self.height, self.width) and not self.border:
            raise RamsesError(
                f"stones of {self.diameter_mm[1]} mm at {self.resolution[1]} px/mm can be {longest:.0f} px, too long "
                f"for {size}: lower the resolution or the diameter"
            )


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth: K stones, stone k has label k + 1."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H, W) uint16, 0 = belt
    classes: list[str]  # K names
    masses: np.ndarray  # (K,) g, NaN for a stone cut by the image's edge
    resolution: float  # px/mm
    height_mm: np.ndarray  # (H, W) float32, the height field
    widths_mm: np.ndarray  # (K,) sieve sizes
    thicknesses_mm: np.ndarray  # (K,) heights before facets


def render_scene(config: SceneConfig, rng: np.random.Generator) -> Scene:
    """Draw one image."""
    for _ in range(ATTEMPTS):
        scene = _try_scene(config, rng)
        if len(scene.classes) >= config.stones[0]:
            return scene
    raise RamsesError(
        f"no room for {config.stones[0]} stones in {config.height} x {config.width} pixels: lower stones, resolution "
        "or diameter_mm, or enlarge the image"
    )


def _try_scene(config: SceneConfig, rng: np.random.Generator) -> Scene:
    resolution = float(_log_uniform(config.resolution, rng))
    pixels_per_mm = resolution * SUPERSAMPLE
    stones = _draw_stones(config, rng)
    reach = max(stone.radii.max() for stone in stones) * pixels_per_mm
    # Stones may lie half outside: the scene is rendered wider than the image and cut
    pad = SUPERSAMPLE * int(np.ceil(reach / SUPERSAMPLE + 1)) if config.border else 0
    shape = (config.height * SUPERSAMPLE + 2 * pad, config.width * SUPERSAMPLE + 2 * pad)
    canvas = Canvas(shape, pixels_per_mm, rng)
    noise = make_noise(max(256, 4 * int(reach)), pixels_per_mm, rng)
    packer = Packer(canvas.labels, rng, overhang=pad)
    placed, masses = [], [0.0]
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
    relief = canvas.height * np.float32(pixels_per_mm)
    radiance = shade(canvas.albedo, canvas.gloss, relief, sun, PENUMBRA_MM * pixels_per_mm)
    frame = np.s_[pad : shape[0] - pad, pad : shape[1] - pad]
    # A stone that the edge cuts has no mass; it may even have no pixel left
    labels = majority_label(canvas.labels[frame])
    kept = np.unique(labels[labels > 0])
    renumber = np.zeros(len(placed) + 1, np.uint16)
    renumber[kept] = np.arange(1, len(kept) + 1)
    whole, within = (np.bincount(of.ravel(), minlength=len(renumber)) for of in (canvas.labels, canvas.labels[frame]))
    placed = [placed[label - 1] for label in kept]
    return Scene(
        image=photograph(radiance[frame], rng),
        labels=renumber[labels],
        classes=[stone.material.name for stone in placed],
        masses=np.where(within < whole, np.nan, masses)[kept],
        resolution=resolution,
        height_mm=cv2.resize(canvas.height[frame], labels.shape[::-1], interpolation=cv2.INTER_AREA),
        widths_mm=np.array([stone.width for stone in placed]),
        thicknesses_mm=np.array([stone.thickness for stone in placed]),
    )


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
    return [draw_stone(MATERIALS[name], *size, rng) for name, *size in zip(names, widths, factors, strict=True)]


class Packer:
    """Finds a free place for each new stone, mostly in contact with its neighbours.

    It walks along rays away from placed stones until the new stone touches but does not overlap. ``labels`` is the
    contiguous grid (H, W) of the stones placed so far, into which the caller paints. A stone may reach into a frame of
    ``overhang`` pixels round the image, wider than the largest radius, but its centre may not; 0 keeps stones whole.
    """

    def __init__(self, labels: np.ndarray, rng: np.random.Generator, overhang: int = 0) -> None:
        self.labels = labels
        self.rng = rng
        self.overhang = overhang
        self.centres: list[np.ndarray] = []
        self.radii: list[tuple[float, float]] = []  # smallest and largest of each placed stone

    def place(self, radii: np.ndarray) -> tuple[int, int] | None:
        """(row, column) of the centre for the outline ``radii`` (A,) in pixels, or None where there is no room."""
        # Points on the outline and on smaller copies of it, so that no stone hides inside
        rings = ((1, 2), (0.75, 6), (0.45, 12), (0.15, 45))
        points, rim = np.concatenate([_ring(share * radii, step) for share, step in rings]), _ring(radii + GAP, 2)
        low = np.array([self.overhang] * 2)
        high = np.array(self.labels.shape) - 1 - self.overhang
        if not self.overhang:
            low, high = low - rim.min(axis=0), high - rim.max(axis=0)
        if np.any(high < low):
            return None
        lone = not self.centres or self.rng.random() < LONE_FRACTION
        for attempt in range(ROUNDS):
            if lone:
                spots = self.rng.integers(low, high + 1, (RAYS, 1, 2))
            else:
                spots = self._rays(radii, beyond=attempt * 2 * radii.max())
            free = np.all((spots >= low) & (spots <= high), axis=-1)
            free[free] = ~self._hits(points, spots[free]).any(axis=-1)
            rays = np.flatnonzero(free.any(axis=1))
            if len(rays):
                nearest = spots[rays, free[rays].argmax(axis=1)]
                # The spot with most contacts wins: that fills gaps, as vibration does on a real belt
                best = nearest[self._hits(rim, nearest).sum(axis=-1).argmax()]
                self.centres.append(best)
                self.radii.append((radii.min(), radii.max()))
                return int(best[0]), int(best[1])
        return None

    def _rays(self, radii: np.ndarray, beyond: float) -> np.ndarray:
        """Spots (R, T, 2) on rays away from random placed stones, nearest first.

        The rays end ``beyond`` the distance at which the stone that they start from is cleared: the first free spot
        there touches whatever blocked the one before.
        """
        starts = self.rng.integers(0, len(self.centres), RAYS)
        angles = self.rng.uniform(0, 2 * np.pi, RAYS)
        nearest, farthest = np.array(self.radii)[starts].T
        steps = np.arange((farthest - nearest).max() + np.ptp(radii) + GAP + beyond)
        distances = (nearest + radii.min())[:, None] + steps
        away = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        return np.rint(np.array(self.centres)[starts][:, None] + distances[..., None] * away[:, None]).astype(int)

    def _hits(self, points: np.ndarray, spots: np.ndarray) -> np.ndarray:
        """Which sample points (P, 2) of a stone at ``spots`` (N, 2) lie on other stones: (N, P) bool."""
        strides = np.array([self.labels.shape[1], 1])
        return self.labels.ravel()[(spots @ strides)[:, None] + points @ strides] > 0


def _ring(radii: np.ndarray, step: int) -> np.ndarray:
    """Every ``step``-th outline point, (P, 2) integer (row, column) from the centre."""
    ring, angle = radii[::step], ANGLES[::step]
    return np.rint(np.stack([ring * np.sin(angle), ring * np.cos(angle)], axis=-1)).astype(int)


class Canvas:
    """The belt seen from above, with the stones put on it so far."""

    def __init__(self, shape: tuple[int, int], pixels_per_mm: float, rng: np.random.Generator) -> None:
        self.height = np.zeros(shape, np.float32)  # mm
        self.labels = np.zeros(shape, np.uint16)  # 0 = belt
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


def paint_belt(shape: tuple[int, int], pixels_per_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Linear albedo (H, W, 3) of dark worn rubber: grain, stripes along the travel, scratches, dust."""
    height, width = shape
    rubber = np.float32([0.130, 0.132, 0.135]) * np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.03, 3)).astype(np.float32)
    stripes = rng.standard_normal((height, 1), dtype=np.float32)
    stripes = cv2.GaussianBlur(stripes, (1, 0), 0, sigmaY=0.8 * pixels_per_mm)
    wear = smooth_noise(shape, 12 * pixels_per_mm, rng)
    grain = smooth_noise(shape, 0.35 * pixels_per_mm, rng)
    brightness = 1 + 0.13 * stripes + 0.10 * wear + 0.12 * grain
    scratches = np.zeros(shape, np.uint8)
    for _ in range(rng.poisson(height * width / (40 * pixels_per_mm) ** 2 * 3)):
        start = rng.uniform(0, [width, height])
        end = start + rng.normal(0, [20, 2.5]) * pixels_per_mm
        cv2.line(scratches, *(tuple(map(int, p)) for p in (start, end)), int(rng.integers(60, 200)), 1, cv2.LINE_AA)
    belt = rubber * np.maximum(brightness + scratches / np.float32(400), 0.3)[..., None]
    dust = np.clip(0.5 * wear + 0.6 * grain - rng.uniform(0.9, 2.2), 0, 1) * np.float32(0.5)
    return belt + dust[..., None] * (np.float32([0.27, 0.25, 0.21]) - belt)


@dataclass(frozen=True)
class Sun:
    """A directional light; angles in rad, ``azimuth`` from the column axis towards the row axis."""

    azimuth: float
    elevation: float
    strength: float
    ambient: float

    @property
    def direction(self) -> np.ndarray:
        """Unit vector (column, row, up) towards the sun."""
        flat = np.cos(self.elevation)
        return np.array([flat * np.cos(self.azimuth), flat * np.sin(self.azimuth), np.sin(self.elevation)], np.float32)


def shade(albedo: np.ndarray, gloss: np.ndarray, height: np.ndarray, sun: Sun, penumbra: float) -> np.ndarray:
    """Radiance (H, W, 3) float32, linear light: Lambert shading, cast shadows, ambient occlusion, highlights.

    Heights (H, W) are in pixels of the grid, so slopes are true; ``penumbra`` is the depth in pixels over which a
    shadow's edge fades.
    """
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    to_sun = sun.direction
    facing = np.maximum(to_sun[2] - to_sun[0] * slope_x - to_sun[1] * slope_y, 0) / length
    lit = 1 - np.clip(cv2.GaussianBlur(shadow_depth(height, sun), (3, 3), 0) / penumbra, 0, 1)
    sky = ambient_occlusion(height, 6 * penumbra)
    # Radiance in units of a flat, sunlit white surface
    light = sun.ambient * sky * (0.6 + 0.4 / length) + sun.strength * lit * facing / to_sun[2]
    half = to_sun + np.float32([0, 0, 1])
    half /= np.linalg.norm(half)
    glint = np.maximum(half[2] - half[0] * slope_x - half[1] * slope_y, 0) / length
    # Glass also mirrors the sky on its flanks (Fresnel)
    highlight = gloss * (1.6 * lit * glint**60 + 0.10 * sky * (1 - 1 / length))
    return albedo * light[..., None] + highlight[..., None]


def shadow_depth(height: np.ndarray, sun: Sun) -> np.ndarray:
    """How far (pixels of height) every point lies below the shadow line, 0 where the sun reaches it: (H, W).

    The shadow surface is max over k of height(p + k d) - k tan(elevation). Doubling the offset each round covers 2^n
    steps of the march in n rounds.
    """
    column, row, _ = sun.direction
    step = np.array([row, column]) / max(abs(row), abs(column))
    farthest = float(height.max()) / np.tan(sun.elevation)
    surface, offset = height.copy(), 1
    while offset <= farthest + 1:
        down, right = np.rint(offset * step).astype(int)
        if abs(down) >= height.shape[0] or abs(right) >= height.shape[1]:
            break
        drop = np.float32(np.hypot(down, right) * np.tan(sun.elevation))
        here, towards = (surface[_overlap(d), _overlap(r)] for d, r in ((-down, -right), (down, right)))
        here[...] = np.maximum(here, towards - drop)
        offset *= 2
    return surface - height


def _overlap(shift: int) -> slice:
    """What stays of an axis that is moved by ``shift``."""
    return slice(max(0, shift), min(0, shift) or None)


def ambient_occlusion(height: np.ndarray, scale: float) -> np.ndarray:
    """About the share of sky a point sees, (H, W): less beside what rises within ``scale`` pixels."""
    sky = np.ones_like(height)
    for sigma, weight in ((scale, 0.55), (scale / 3, 0.45)):
        around = cv2.GaussianBlur(height, (0, 0), sigma)
        sky -= np.float32(weight) * np.clip((around - height) / np.float32(1.2 * sigma), 0, 1)
    return np.maximum(sky, 0.15)


def photograph(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduce, blur, expose and add sensor noise: (H, W, 3) linear -> (H / 2, W / 2, 3) uint8, gamma 2.2."""
    height, width = (side // SUPERSAMPLE for side in radiance.shape[:2])
    image = cv2.resize(radiance, (width, height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.55))
    row, column = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    tilt_row, tilt_column = rng.normal(0, 0.05, 2).astype(np.float32)
    illumination = (1 + tilt_row * row)[:, None] * (1 + tilt_column * column)
    exposure = np.float32(np.exp(rng.normal(0, 0.06))) * np.exp(rng.normal(0, 0.015, 3)).astype(np.float32)
    image = np.clip(image * illumination[..., None] * exposure, 0, 1) ** np.float32(1 / 2.2)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1.0, 2.5))
    return np.clip(np.rint(image * 255 + noise), 0, 255).astype(np.uint8)


def majority_label(labels: np.ndarray) -> np.ndarray:
    """Reduce a label map (H, W) by 2: the commonest value of each 2 x 2 block (the first at a tie)."""
    height, width = (side // SUPERSAMPLE for side in labels.shape)
    blocks = labels.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE).swapaxes(1, 2).reshape(height, width, -1)
    votes = (blocks[..., :, None] == blocks[..., None, :]).sum(axis=-1)
    return np.take_along_axis(blocks, votes.argmax(axis=-1)[..., None], axis=-1)[..., 0]
