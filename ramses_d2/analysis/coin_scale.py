"""Scale from a coin: what resolution a coin of known diameter gives, against the one that was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from .json_values import json_values
from .sample import cut_by_edge

# 5 euro cents (Official Journal of the EU, Regulation (EU) No 729/2014: technical specifications of euro coins)
COIN_CLASS, COIN_DIAMETER_MM, COIN_MASS_G = "Coin", 21.25, 3.92
MAX_DEVIATION = 0.03
MAX_ASPECT_RATIO = 1.1
# Diameters from the area and from the axes agree on a whole disc; a bite or a hole drives them apart
MAX_DISAGREEMENT = 0.03
CUT, NOT_ROUND, NOT_WHOLE = "cut by the edge of the picture", "not round", "not a whole disc"


@dataclass(frozen=True)
class CoinScale:
    """What the coins of an image say about its resolution.

    Attributes:
        image: file name.
        coins: coins in the image.
        usable: coins that are whole and round.
        rejected: reason -> number of the others.
        given: resolution of the table in px/mm; NaN = unknown.
        from_area: px/mm from the diameter of the circle of the coin's area, median over the usable coins; NaN = none.
        from_axes: the same from the geometric mean of the axes of its ellipse.
        deviation: from_area / given - 1; NaN = unknown.
        mass_ratio: predicted over true grams, median over the usable coins; NaN = unknown.
        warning: the deviation is larger than allowed, or no resolution was given though a coin tells one.
        message: a sentence for a reader.
    """

    image: str
    coins: int
    usable: int
    rejected: Mapping[str, int]
    given: float
    from_area: float
    from_axes: float
    deviation: float
    mass_ratio: float
    warning: bool
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown figures are None."""
        return json_values(self)


def coin_scales(
    table: pd.DataFrame,
    *,
    class_name: str = COIN_CLASS,
    diameter_mm: float = COIN_DIAMETER_MM,
    mass_g: float = COIN_MASS_G,
    max_deviation: float = MAX_DEVIATION,
) -> list[CoinScale]:
    """Estimate the resolution of every image of a particle table from its coins.

    Images of several folders may have one file name; those of different resolution are told apart by it.

    Args:
        table: particle table; needs baseimg, class, res, area, axis_major_length, axis_minor_length; coins that the
            image cuts are told by edge, predicted grams by mass, where there are such columns.
        class_name: the class of the coins; all are of one kind.
        diameter_mm, mass_g: of one coin.
        max_deviation: from the given resolution, without a warning.

    Returns:
        one entry per image and resolution, in the order of the table, also for images without coins.

    Raises:
        RamsesError: a column is missing, or a diameter or mass is not above 0.
    """
    for name in ("baseimg", "class", "res", "area", "axis_major_length", "axis_minor_length"):
        if name not in table:
            raise RamsesError(f"scale from coins: the particle table has no column {name}")
    if not (diameter_mm > 0 and mass_g > 0):
        raise RamsesError(f"a coin of {diameter_mm} mm and {mass_g} g: give numbers above 0")
    resolutions = table["res"].to_numpy(float)
    given = np.where(np.isfinite(resolutions) & (resolutions > 0), resolutions, np.nan)
    return [
        _scale(str(image), float(resolution), rows[rows["class"] == class_name], diameter_mm, mass_g, max_deviation)
        for (image, resolution), rows in table.groupby(["baseimg", given], sort=False, dropna=False)
    ]


def _scale(
    image: str, given: float, coins: pd.DataFrame, diameter_mm: float, mass_g: float, max_deviation: float
) -> CoinScale:
    from_area = np.sqrt(4 * coins["area"].to_numpy(float) / np.pi) / diameter_mm
    major, minor = (coins[f"axis_{which}_length"].to_numpy(float) for which in ("major", "minor"))
    from_axes = np.sqrt(major * minor) / diameter_mm
    reasons = _reasons(coins, major, minor, from_area, from_axes)
    usable = reasons == ""
    area_estimate, axes_estimate = _median(from_area[usable]), _median(from_axes[usable])
    masses = coins["mass"].to_numpy(float)[usable] if "mass" in coins else np.empty(0)
    deviation = area_estimate / given - 1
    warning = bool(usable.any()) and not abs(deviation) <= max_deviation
    rejected = {reason: int((reasons == reason).sum()) for reason in (CUT, NOT_ROUND, NOT_WHOLE)}
    rejected = {reason: number for reason, number in rejected.items() if number}
    return CoinScale(
        image=image,
        coins=len(coins),
        usable=int(usable.sum()),
        rejected=rejected,
        given=given,
        from_area=area_estimate,
        from_axes=axes_estimate,
        deviation=deviation,
        mass_ratio=_median(masses / mass_g),
        warning=warning,
        message=_message(image, len(coins), rejected, given, area_estimate, warning),
    )


def _reasons(
    coins: pd.DataFrame, major: np.ndarray, minor: np.ndarray, from_area: np.ndarray, from_axes: np.ndarray
) -> np.ndarray:
    """(n,) why a coin cannot be used, the first that holds; empty = usable."""
    is_cut = cut_by_edge(coins)
    reasons = np.full(len(coins), "", object)
    reasons[~(np.abs(from_area / np.where(from_axes > 0, from_axes, np.nan) - 1) <= MAX_DISAGREEMENT)] = NOT_WHOLE
    reasons[~(major <= MAX_ASPECT_RATIO * minor)] = NOT_ROUND
    if is_cut is not None:
        reasons[is_cut.to_numpy(bool)] = CUT
    return reasons


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def _message(image: str, coins: int, rejected: Mapping[str, int], given: float, estimate: float, warning: bool) -> str:
    if not coins:
        return f"{image}: no coin"
    if np.isnan(estimate):
        why = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        return f"{image}: no usable coin ({why})"
    says = (
        f"{image}: {'the coin says' if coins == sum(rejected.values()) + 1 else 'the coins say'} {estimate:.2f} px/mm"
    )
    if np.isnan(given):
        return f"{says}; no resolution was given: predict again with it to get grams and millimetres"
    deviation = estimate / given - 1
    says += f", which differs by {deviation:+.1%} from the given {given:g}"
    if not warning:
        return says
    # Lengths in mm go with 1 / resolution, the network's grams with 1 / resolution^2
    return (
        f"{says}: if the coin is right, lengths are off by {deviation:+.1%} and grams by"
        f" {(1 + deviation) ** 2 - 1:+.1%}; check the resolution"
    )
