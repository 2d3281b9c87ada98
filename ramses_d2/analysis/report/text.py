"""The sentences of a report: its head, its summary, and how it was made."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

import numpy as np

from ramses_d2 import __version__
from ramses_d2.analysis.intervals import effective_number
from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.report.table import NOTHING
from ramses_d2.analysis.report.words import SPACE, many, percent_text
from ramses_d2.draw import plain_number

_MEASURES = {
    "feret_min": "minimum Feret diameter (smallest caliper width)",
    "inscribed": "diameter of the largest circle inside",
    "ellipse_minor": "minor axis of the ellipse of equal moments",
}
# What a page shows in the letters of a program
CODE_FACTS = ("Report command", "Prediction command", "Weights", "SHA-256 of the weights")


class KeyFigure(NamedTuple):
    """A figure of the summary at the top."""

    name: str
    value: str
    note: str = ""
    wide: bool = False


def head_facts(report: Report) -> list[tuple[str, str]]:
    """Name and value of what the head of the report lists."""
    options = report.options
    images = report.run.images
    cameras = sorted({image.camera for image in images if image.camera})
    facts = [
        ("Sample", options.sample),
        ("Operator", options.operator),
        ("Date", options.day),
        ("Camera", ", ".join(cameras)),
        ("Resolution", _resolutions(report)),
        ("Run", str(report.run.folder)),
    ]
    return [(name, value) for name, value in facts if value]


def key_figures(report: Report) -> list[KeyFigure]:
    """The summary at the top."""
    table, composition = report.table, report.composition
    place = f"in {many(len(report.run.images), 'picture')}"
    if len(table) < len(report.run.table):
        place += ", without coins"
    figures = [
        KeyFigure("Particles", f"{len(table):,}".replace(",", "\u202f"), place),
        KeyFigure("Mass", _grams(report.mass_g) if table["mass"].notna().any() else "unknown", "without coins"),
    ]
    shares = composition.constituents.dropna(subset="fraction").sort_values("fraction", ascending=False)
    seen = shares[shares["fraction"] > 0]
    listed = " · ".join(
        f"{name}{SPACE}{percent_text(fraction, 1)}"
        for name, fraction in zip(seen["constituent"], seen["fraction"], strict=True)
    )
    figures.append(KeyFigure("Composition", listed or "unknown", "shares of the mass", wide=True))
    if report.grading:
        d50 = report.grading.sizes.set_index("name").loc["D50"]
        ends = f"{d50['low']:.2f} {NOTHING} {d50['high']:.2f} mm".replace("inf", "\u221e")
        note = ends if np.isfinite(d50["low"]) else "no interval"
        figures.append(KeyFigure("D50", f"{d50['value']:.2f} mm", note))
    if report.comparison is not None:
        error = percent_text(report.comparison.error, 1, sign=True)
        figures.append(KeyFigure("Error", error, "predicted against weighed"))
    return figures


def interval_note(report: Report) -> str:
    """What the chart of the composition shows beside the bars."""
    resampling = report.composition.resampling
    return f", with its {percent_text(resampling.confidence)} interval" if resampling else ""


def composition_notes(report: Report) -> list[str]:
    """What a reader of the composition must know."""
    return [note for note in (report.size_note, *report.composition.notes) if note]


def grading_caption(report: Report) -> str:
    """Under the grading curve."""
    if report.grading is None:
        return ""
    band = f", with the {percent_text(report.grading.resampling.confidence)} band" if report.grading.resampling else ""
    return f"Cumulative passing over sieve size on a logarithmic axis{band}; dashed: D10, D50 and D90 in mm."


def comparison_text(report: Report) -> str:
    """Total of the comparison with weighed batches."""
    comparison = report.comparison
    if comparison is None:
        return ""
    return (
        f"{many(len(comparison.totals), 'batch', 'batches')} of {report.batches_file}:"
        f" {plain_number(comparison.predicted_g, 4)} g predicted against {plain_number(comparison.weighed_g, 4)} g"
        f" weighed, which is"
        f" {percent_text(comparison.error, 1, sign=True)}."
    )


def comparison_notes(report: Report) -> list[str]:
    """What a reader of the comparison must know."""
    if report.comparison is None:
        return []
    notes = []
    unweighed = {name: grams for name, grams in report.comparison.not_weighed.items() if grams > 0}
    if unweighed:
        listed = ", ".join(f"{name} {plain_number(grams, 3)} g" for name, grams in unweighed.items())
        notes.append(f"Predicted in these batches, but not weighed: {listed}.")
    unknown = int(report.comparison.classes["unknown_mass"].sum())
    if unknown:
        notes.append(f"{many(unknown, 'particle')} of unknown mass counted as 0 g.")
    return notes


def factors_text(report: Report) -> str:
    """Where the correction factors come from."""
    if report.factors is None:
        return ""
    origin = report.factors.origin
    listed = [
        f"{name.replace('_', ' ')} {origin[name]}" for name in ("created", "run", "batches_file") if origin.get(name)
    ]
    return f"Grams = factor * predicted grams, by {report.factors.name or 'a calibration'} ({', '.join(listed)})."


def image_facts(report: Report) -> list[tuple[str, str]]:
    """Name and value of what is known of the images."""
    images = report.run.images
    sizes = {image.size for image in images if image.size}
    empty = len(images) - report.table["baseimg"].nunique()
    facts = [
        ("Pictures", str(len(images))),
        ("without particles", str(max(0, empty))),
        ("Size", ", ".join(f"{width} × {height} px" for height, width in sorted(sizes)[:5])),
        ("not predicted", str(len(report.run.failed)) if report.run.failed else ""),
    ]
    return [(name, value) for name, value in facts if value]


def method_notes(report: Report) -> list[str]:
    """How the figures were computed."""
    options, composition = report.options, report.composition
    sentences = []
    if composition.resampling:
        r = composition.resampling
        sentences.append(
            f"Intervals: {percent_text(r.confidence)}, Bayesian bootstrap over {r.over}, {r.replicates} replicates,"
            f" seed {r.seed}. They say how much the figures depend on which particles were photographed, not how wrong"
            f" the network is."
        )
        if len(composition.unit_grams):
            effective = effective_number(composition.unit_grams.sum(axis=1))
            sentences.append(
                f"What was not seen may still be there: intervals of shares and certainties allow for one more"
                f" {r.over.removesuffix('s')} of each kind, as heavy as the heaviest seen of it, and not lighter than"
                f" that of the others in which an average gram lies. The {r.over} say as much as"
                f" {plain_number(effective, 3)} of equal mass."
            )
    else:
        asked = options.resampling is not None
        sentences.append("No intervals, see the notes there." if asked else "No intervals were asked for.")
    portion = f", particles of {options.size_range[0]:g} to {options.size_range[1]:g} mm" if options.size_range else ""
    sentences.append(f"Composition: predicted grams, constituent map {composition.map_source}{portion}.")
    if report.grading:
        factor = "" if options.size.factor == 1 else f", times {options.size.factor:g}"
        sentences.append(
            f"Sieve size: {_MEASURES[options.size.measure]}{factor}; weighted by {report.grading.weight}. A particle as"
            f" large as an opening passes it."
        )
    return sentences


def provenance(report: Report) -> list[tuple[str, str]]:
    """Name and value of what made the figures."""
    run, record = report.run, report.run.record
    command = record.get("command")
    versions = record.get("versions")
    settings = record.get("settings") if isinstance(record.get("settings"), dict) else {}
    thresholds = record.get("thresholds") or settings.get("options")
    facts = [
        ("Software", f"ramses_d2 {__version__}"),
        ("Report command", report.options.command),
        ("Prediction command", shlex.join(command) if isinstance(command, list) else command or ""),
        ("Predicted", record.get("created") or ""),
        ("Predicted with", _listed(versions)),
        ("Settings", _listed(thresholds)),
        ("Config", record["config"] if isinstance(record.get("config"), str) else ""),
        ("Weights", run.weights.get("file", "")),
        ("SHA-256 of the weights", run.weights.get("sha256", "unknown: the run has no run.json that tells it")),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _resolutions(report: Report) -> str:
    values = np.array([image.resolution for image in report.run.images])
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown"
    low, high = known.min(), known.max()
    return f"{low:.4g} px/mm" if low == high else f"{low:.4g} to {high:.4g} px/mm, median {np.median(known):.4g}"


def _grams(grams: float) -> str:
    is_heavy = float(f"{grams:.3g}") >= 1000
    return f"{plain_number(grams / 1000, 3)} kg" if is_heavy else f"{plain_number(grams, 3)} g"


def _listed(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else ""
