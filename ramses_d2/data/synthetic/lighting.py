"""Light on a height field: Lambert shading, cast shadows, ambient occlusion, highlights.

Shapes: H W = the supersampled image. Heights are in pixels of that grid, so slopes are true.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


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


def shadow_depth(height: np.ndarray, sun: Sun) -> np.ndarray:
    """How far (pixels of height) every point lies below the shadow line, 0 where the sun reaches it: (H, W).

    The shadow surface is max over k of height(p + k d) - k tan(elevation). Doubling the offset each round
    covers 2^n steps of the march in n rounds.
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
        here, towards = _shifted(surface, down, right)
        here[...] = np.maximum(here, towards - drop)
        offset *= 2
    return surface - height


def _shifted(image: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """A view of ``image`` and a copy of what lies (down, right) of each of its pixels."""
    height, width = image.shape
    here = image[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    there = image[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return here, there.copy()


def ambient_occlusion(height: np.ndarray, scale: float) -> np.ndarray:
    """About the share of sky a point sees, (H, W): less beside what rises within ``scale`` pixels."""
    sky = np.ones_like(height)
    for sigma, weight in ((scale, 0.55), (scale / 3, 0.45)):
        around = cv2.GaussianBlur(height, (0, 0), sigma)
        sky -= np.float32(weight) * np.clip((around - height) / np.float32(1.2 * sigma), 0, 1)
    return np.maximum(sky, 0.15)


def shade(albedo: np.ndarray, gloss: np.ndarray, height: np.ndarray, sun: Sun, penumbra: float) -> np.ndarray:
    """Radiance of the scene, linear light.

    Args:
        albedo: (H, W, 3) linear.
        gloss: (H, W), 0 = matt, 1 = glass.
        height: (H, W) pixels.
        sun: the light.
        penumbra: depth (pixels) over which a shadow's edge fades.

    Returns:
        (H, W, 3) float32.
    """
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    to_sun = sun.direction
    facing = np.maximum(to_sun[2] - to_sun[0] * slope_x - to_sun[1] * slope_y, 0) / length
    lit = 1 - np.clip(cv2.GaussianBlur(shadow_depth(height, sun), (3, 3), 0) / penumbra, 0, 1)
    sky = ambient_occlusion(height, 6 * penumbra)
    # Radiance in units of a flat, sunlit white surface.
    light = sun.ambient * sky * (0.6 + 0.4 / length) + sun.strength * lit * facing / to_sun[2]
    half = to_sun + np.float32([0, 0, 1])
    half /= np.linalg.norm(half)
    glint = np.maximum(half[2] - half[0] * slope_x - half[1] * slope_y, 0) / length
    # Glass also mirrors the sky on its flanks (Fresnel).
    highlight = gloss * (1.6 * lit * glint**60 + 0.10 * sky * (1 - 1 / length))
    return albedo * light[..., None] + highlight[..., None]
