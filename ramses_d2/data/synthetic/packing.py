"""Where the stones lie: rays away from placed stones, walked until a new stone touches but does not overlap.

Pixel units throughout. Shapes: A = outline directions, P = sample points of a stone, R = rays tried at once,
T = steps along a ray, N = spots.
"""

from __future__ import annotations

import numpy as np

from ramses_d2.data.synthetic.stones import ANGLES

RAYS = 8
ROUNDS = 6
LONE_FRACTION = 0.10
GAP = 2  # pixels within which a neighbour counts as a contact


class Packer:
    """Finds every new stone a free place, mostly in contact with its neighbours.

    Args:
        labels: contiguous grid of the stones placed so far, 0 = free; the caller paints stones into it.
        rng: random generator.
        overhang: width of a frame round the image that the grid holds; a stone may reach into it as long as
            its centre does not, so it must be wider than any stone's radius. 0 keeps stones whole.
    """

    def __init__(self, labels: np.ndarray, rng: np.random.Generator, overhang: int = 0) -> None:
        self.labels = labels
        self.rng = rng
        self.overhang = overhang
        self.centres: list[np.ndarray] = []
        self.radii: list[tuple[float, float]] = []  # smallest and largest of every placed stone

    def place(self, radii: np.ndarray) -> tuple[int, int] | None:
        """Find a place for the outline ``radii`` (A,), or None where there is no room.

        Returns:
            (row, column) of the centre.
        """
        points, rim = _sample_points(radii), _ring(radii + GAP, 2)
        low = np.array([self.overhang] * 2)
        high = np.array(self.labels.shape) - 1 - self.overhang
        if not self.overhang:
            low = low - rim.min(axis=0)
            high = high - rim.max(axis=0)
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
                # The spot with most contacts wins: that fills gaps, as vibration does on a real belt.
                best = nearest[self._hits(rim, nearest).sum(axis=-1).argmax()]
                self.centres.append(best)
                self.radii.append((radii.min(), radii.max()))
                return int(best[0]), int(best[1])
        return None

    def _rays(self, radii: np.ndarray, beyond: float) -> np.ndarray:
        """Spots (R, T, 2) on rays away from random placed stones, nearest first.

        The rays end ``beyond`` the distance at which the anchor itself is cleared: the first free spot there
        touches whatever blocked the one before.
        """
        anchors = self.rng.integers(0, len(self.centres), RAYS)
        angles = self.rng.uniform(0, 2 * np.pi, RAYS)
        nearest, farthest = np.array(self.radii)[anchors].T
        steps = np.arange((farthest - nearest).max() + np.ptp(radii) + GAP + beyond)
        distances = (nearest + radii.min())[:, None] + steps
        away = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        starts = np.array(self.centres)[anchors]
        return np.rint(starts[:, None] + distances[..., None] * away[:, None]).astype(int)

    def _hits(self, points: np.ndarray, spots: np.ndarray) -> np.ndarray:
        """Which sample points (P, 2) of a stone at ``spots`` (N, 2) lie on other stones: (N, P) bool."""
        strides = np.array([self.labels.shape[1], 1])
        return self.labels.ravel()[(spots @ strides)[:, None] + points @ strides] > 0


def _sample_points(radii: np.ndarray) -> np.ndarray:
    """Points (P, 2) on the outline and on smaller copies of it, so that no stone hides inside."""
    return np.concatenate([_ring(s * radii, step) for s, step in ((1, 2), (0.75, 6), (0.45, 12), (0.15, 45))])


def _ring(radii: np.ndarray, step: int) -> np.ndarray:
    """Every ``step``-th outline point, (P, 2) integer (row, column) from the centre."""
    ring, angle = radii[::step], ANGLES[::step]
    return np.rint(np.stack([ring * np.sin(angle), ring * np.cos(angle)], axis=-1)).astype(int)
