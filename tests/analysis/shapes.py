"""Rasters of shapes whose measures are known."""

from __future__ import annotations

import math

import numpy as np

# Degrees: upright, diagonal, and some between
ROTATIONS = (0, 7, 22.5, 45, 71)
# Middle of the shapes, px: no symmetry to the raster
_OFF_RASTER = np.array([0.21, -0.13])


def polygon(sides: int, diameter: float, degrees: float = 0, stretch: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Regular polygon of the area of a disc, stretched along one axis at equal area, then turned.

    Returns:
        mask: a pixel is in where its centre is.
        corners: (sides, 2) true corners x, y, px.
    """
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    radius = diameter * math.sqrt(math.pi / (2 * sides * math.sin(2 * math.pi / sides)))
    corners = radius * np.column_stack([np.cos(angles), np.sin(angles)]) * [stretch**0.5, stretch**-0.5]
    corners = corners @ _rotation(degrees).T
    size = int(2 * np.abs(corners).max()) + 4
    corners = corners + size / 2 + _OFF_RASTER
    y, x = np.mgrid[:size, :size] + 0.5
    mask = np.ones((size, size), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        mask &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    return mask, corners


def ellipse(diameter: float, degrees: float = 0, stretch: float = 1) -> np.ndarray:
    """Ellipse of the area of a disc whose axes are ``stretch`` : 1."""
    size = int(diameter * stretch**0.5) + 6
    points = np.moveaxis(np.mgrid[:size, :size][::-1] + 0.5, 0, -1) - size / 2 - _OFF_RASTER
    along = points @ _rotation(degrees) / (diameter / 2) * [stretch**-0.5, stretch**0.5]
    return np.square(along).sum(axis=-1) <= 1


def blob(seed: int, size: int = 60) -> np.ndarray:
    """An irregular mask, perhaps with holes and in parts."""
    rng = np.random.default_rng(seed)
    wave = np.fft.ifft2(rng.standard_normal((size, size)) * np.exp(-0.02 * _squared_frequency(size))).real
    mask = wave > np.quantile(wave, 0.6)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _rotation(degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _squared_frequency(size: int) -> np.ndarray:
    frequency = np.fft.fftfreq(size, 1 / size)
    return frequency[:, None] ** 2 + frequency**2
