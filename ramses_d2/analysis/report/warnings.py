"""What a reader must know before reading a figure of a report, in sentences that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ramses_d2.analysis.calibration import is_same_file
from ramses_d2.analysis.report.words import many, sentence
from ramses_d2.analysis.sample import cut_by_edge

if TYPE_CHECKING:
    from ramses_d2.analysis.report.build import Report

# Resolutions that differ by less are the same number, rounded
_SAME_RESOLUTION = 0.005


def find_warnings(report: Report) -> list[str]:
    """All warnings, the most serious first."""
    found = [
        *_run(report),
        *_resolutions(report),
        *_coins(report),
        *_unknown_masses(report),
        *_edge_cut(report),
        *_factors(report),
    ]
    if report.comparison is not None:
        found += [f"Not compared with its weighing: {reason}." for reason in report.comparison.left_out]
    return [sentence(warning) for warning in found]


def _run(report: Report) -> list[str]:
    run, found = report.run, []
    if run.record.get("complete") is False:
        found.append("The prediction had not finished when this report was made: run tools/predict.py again.")
    if run.failed:
        found.append(f"{many(len(run.failed), 'picture')} could not be predicted: {'; '.join(run.failed[:3])}")
    found += [str(note) for note in run.record.get("notes") or []]
    unused = [name for name in report.options.mapping.own if name not in set(run.table["class"])]
    if unused:
        found.append(
            f"The constituent map names {many(len(unused), 'class', 'classes')} that nothing here has: "
            f"{', '.join(unused[:5])}; classes it does not name count as usual."
        )
    if report.table.empty:
        found.append("No particle was found: there are no figures.")
    return found


def _resolutions(report: Report) -> list[str]:
    found = []
    differing = [
        image for image in report.run.images if abs(image.resolution / image.listed_resolution - 1) > _SAME_RESOLUTION
    ]
    if differing:
        first = differing[0]
        found.append(
            f"{many(len(differing), 'picture')} predicted with another resolution than metadata.json lists, such as"
            f" {first.file_name} with {first.resolution:g} instead of {first.listed_resolution:g} px/mm: grams and"
            f" millimetres are wrong if metadata.json is right."
        )
    table = report.run.table
    unknown = table.loc[table["res"].isna(), "baseimg"].nunique()
    if unknown:
        found.append(
            f"{many(unknown, 'picture')} of unknown resolution, so without grams and millimetres: predict again with"
            f" --resolution"
        )
    return found


def _coins(report: Report) -> list[str]:
    doubtful = [coin for coin in report.coins if coin.warning]
    if len(doubtful) < 2:
        return [f"Coin: {coin.message}" for coin in doubtful]
    usable = sum(coin.usable > 0 for coin in report.coins)
    deviations = [100 * coin.deviation for coin in doubtful if np.isfinite(coin.deviation)]
    by = f" (median {np.median(deviations):+.1f} %)" if deviations else ""
    return [
        f"Coins tell another resolution than the one given in {len(doubtful)} of {usable} images with a usable"
        f" coin{by}: check the resolution, because lengths go with it and grams with its square."
    ]


def _unknown_masses(report: Report) -> list[str]:
    table = report.table
    unknown = int(table["mass"].isna().sum())
    if not unknown:
        return []
    share = f"{unknown / len(table):.1%} of all"
    return [f"{many(unknown, 'particle')} of unknown mass ({share}), listed apart and in no share of the mass."]


def _edge_cut(report: Report) -> list[str]:
    table = report.table
    is_cut = cut_by_edge(table)
    if is_cut is None or not is_cut.any():
        return []
    cut = table[is_cut]
    total = table["mass"].sum()
    grams = f" and {cut['mass'].sum() / total:.1%} of the grams" if total > 0 else ""
    return [
        f"{many(len(cut), 'particle')} cut by the edge of the image ({len(cut) / len(table):.1%} of the number"
        f"{grams}): what lies outside is neither weighed nor measured."
    ]


def _factors(report: Report) -> list[str]:
    factors = report.factors
    if factors is None:
        return []
    without = [name for name in sorted(set(report.table["class"])) if name not in factors.classes]
    found = [
        f"Predicted grams were multiplied by the correction factors of {factors.name or 'a calibration'};"
        " intervals do not include how uncertain the factors are."
    ]
    if without:
        found.append(f"No correction factor for {', '.join(without)}: their grams are as predicted.")
    own, theirs = (
        str(weights.get("sha256") or "") for weights in (report.run.weights, factors.origin.get("weights") or {})
    )
    if own and theirs and own != theirs:
        found.append("The correction factors come from other weights of the network: calibrate again with these.")
    if report.comparison is not None and is_same_file(factors, report.batches_file):
        found.append(
            "The correction factors were computed from the very batches they are compared with: the errors below do"
            " not tell how large they are on other batches."
        )
    return found
