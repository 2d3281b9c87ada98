"""Divide images between training and validation, and choose which ones are used how often.

Plain functions on counts. Letters: P images, C classes, G groups, S sides. ``counts`` is an integer (P, C) array: how
many particles of every class an image has. The same generator state always gives the same result.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError


def group_numbers(keys: Sequence[Hashable | None]) -> np.ndarray:
    """Number the groups of images that must stay on one side.

    Args:
        keys: P group names; None = the image is a group of its own.

    Returns:
        int (P,), the groups 0 ... G - 1 in the order in which they come.
    """
    alone = [(False, key) if key is not None else (True, index) for index, key in enumerate(keys)]
    return pd.factorize(pd.Series(alone, dtype=object))[0]


def assign_sides(
    counts: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    *,
    stratify: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Deal whole groups out to sides, so that every side gets its share of the images and, stratified, of each class.

    Groups are dealt in random order, each to the side that lacks most of what it has; then single groups change sides
    as long as that brings the shares nearer to what they should be. A side is never empty, and stratified, a class
    that S groups or more have is missing on no side if that can be reached one move at a time.

    Args:
        counts: int (P, C).
        groups: int (P,), see :func:`group_numbers`.
        shares: S shares of all images, which add up to 1.
        stratify: balance the classes too, not only the number of images.
        rng: source of the random order.

    Returns:
        int (P,), the side of every image.

    Raises:
        RamsesError: fewer groups than sides.
    """
    shares = np.asarray(shares, dtype=float)[:, None]
    sides = len(shares)
    number = int(groups.max(initial=-1)) + 1
    if number < sides:
        raise RamsesError(
            f"{len(counts)} images in {number} groups cannot be divided into {sides} sides; "
            f"add images, or group them otherwise"
        )
    amounts = np.column_stack([np.ones(len(counts)), counts]) if stratify else np.ones((len(counts), 1))
    load = np.zeros((number, amounts.shape[1]))
    np.add.at(load, groups, amounts)
    total = load.sum(axis=0)
    load = load[:, total > 0] / total[total > 0]

    excess = np.repeat(-shares, load.shape[1], axis=1)  # share that a side has minus what it should have
    side = np.empty(number, dtype=np.int64)
    for group in rng.permutation(number):
        side[group] = np.argmin(excess @ load[group])
        excess[side[group]] += load[group]
    _improve(side, load, excess)
    return side[groups]


def _improve(side: np.ndarray, load: np.ndarray, excess: np.ndarray) -> None:
    """Move the group that helps most to another side, until none helps; changes ``side`` and ``excess``.

    What is made smaller: the squared excess of every side and column of ``load`` (the images, then the classes), plus
    1 for every class that a side lacks although enough groups have it, and more for a side without images.
    """
    sides, has = len(excess), load > 0
    weight = np.where(has.sum(axis=0) >= sides, 1.0, 0.0)
    weight[0] = 1 + len(weight)
    holders = np.stack([has[side == index].sum(axis=0) for index in range(sides)])
    rows, square = np.arange(len(side)), (load**2).sum(axis=1)
    while True:
        pull = load @ excess.T - (has @ (weight * (holders == 0)).T) / 2
        cost = pull - pull[rows, side][:, None] + square[:, None]
        cost += (has * (weight * (holders == 1))[side]).sum(axis=1)[:, None] / 2
        cost[rows, side] = np.inf
        group, target = np.unravel_index(np.argmin(cost), cost.shape)
        if cost[group, target] > -1e-12:
            return
        for index, sign in ((side[group], -1), (target, 1)):
            excess[index] += sign * load[group]
            holders[index] += sign * has[group]
        side[group] = target


def draw_capped(
    counts: np.ndarray,
    caps: np.ndarray,
    *,
    max_reuse: int = 1,
    not_counting: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Choose images so that no class gets more particles than its cap, repeating images where classes are rare.

    The images are gone through in random order, and each that would push none of its classes above the cap is taken.
    This is repeated as long as an image can be used again and a class is below its cap. An image is used as a whole,
    so this is capping and oversampling, not balancing.

    Args:
        counts: int (P, C).
        caps: (C,) most particles of each class, repeats counted.
        max_reuse: most uses of an image; 0 means 1, as in the original. An image without particles is used once.
        not_counting: bool (C,), classes for whose sake no image is repeated; their cap holds all the same.
        rng: source of the random order; None = in the order given.

    Returns:
        indices of the images in the order in which they were taken, with repeats.
    """
    counted = np.ones(counts.shape[1], dtype=bool) if not_counting is None else ~np.asarray(not_counting, dtype=bool)
    most = np.where(counts.any(axis=1), max(1, max_reuse), 1)
    uses = np.zeros(len(counts), dtype=np.int64)
    total = np.zeros(counts.shape[1], dtype=np.int64)
    drawn: list[int] = []
    while True:
        before = len(drawn)
        for index in np.arange(len(counts)) if rng is None else rng.permutation(len(counts)):
            if uses[index] < most[index] and (total + counts[index] <= caps).all():
                drawn.append(int(index))
                uses[index] += 1
                total += counts[index]
        usable_again = any(uses[index] < most[index] for index in drawn[before:])
        if not usable_again or not (total < caps)[counted].any():
            return drawn
