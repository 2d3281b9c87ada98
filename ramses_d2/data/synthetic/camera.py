"""The belt under the stones and the camera above them.

Shapes: H W = the supersampled image; it leaves the camera reduced by ``SUPERSAMPLE``.
"""

from __future__ import annotations

import cv2
import numpy as np

from ramses_d2.data.synthetic.stones import smooth_noise

SUPERSAMPLE = 2


def paint_belt(shape: tuple[int, int], pixels_per_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Linear albedo (H, W, 3) of dark worn rubber: grain, stripes along the travel, scratches, dust."""
    height, width = shape
    rubber = np.float32([0.130, 0.132, 0.135]) * np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.03, 3)).astype(np.float32)
    stripes = cv2.GaussianBlur(
        rng.standard_normal((height, 1), dtype=np.float32), (1, 0), 0, sigmaY=0.8 * pixels_per_mm
    )
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
