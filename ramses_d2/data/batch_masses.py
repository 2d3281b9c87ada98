"""Batches were weighed together: share their grams among their particles by volume, and write them as a new CSV."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from ramses_d2.data.folder import (
    REQUIRED_COLUMNS,
    read_annotations,
    read_metadata,
    read_text_table,
    reject_duplicates,
)
from ramses_d2.data.images import read_label_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path, base_name, check_output

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = "annotations-masses.csv"
_WRITTEN_COLUMNS = (*REQUIRED_COLUMNS, "mass", "gt_mass", "F")
_THREADS = min(4, os.cpu_count() or 1)  # a label image of 25 million pixels takes 150 MB while it is measured
COIN_CLASS, COIN_MASS = "Coin", 3.92  # g; 5 euro cents, which lie on the belt as a check
MAX_RESIDUAL = 1e-6  # relative, of grams that were shared out
# Particles weighed one by one and all together: two weighings may differ by this share
WEIGHING_TOLERANCE = 0.01
# How the particles of one batch and class get their masses
SHARED, ONE_BY_ONE, COIN = "shared", "weighed one by one", "mass of a coin"
NOT_WEIGHED, NOT_IN_BATCH = "not weighed", "class not in the batch"


@dataclass(frozen=True)
class Batch:
    """Images whose particles were weighed together; numbers count from 1 in the order of metadata.json."""

    number: int
    images: tuple[str, ...]  # base names
    grams: Mapping[str, float]  # class -> g of all its particles, NaN = not weighed


def share_batch_masses(
    table: pd.DataFrame,
    batches: Sequence[Mapping[str, Any]],
    *,
    coin_class: str = COIN_CLASS,
    coin_mass: float = COIN_MASS,
    source: str | Path = "metadata.json",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share the grams of every batch among those of its particles that were not weighed one by one.

    Rows of no batch keep their mass. In a batch, a mass that was not weighed one by one (``gt_mass`` False, or no
    number) is replaced: by its share, by the coin's mass (any particle of ``coin_class`` still without a mass), or by
    NaN where its class was not weighed.

    Args:
        table: rows of annotations.csv: ``baseimg``, ``class``, ``res`` (px/mm), ``area`` (px2), ``radius`` (px), and
            if known ``mass`` (g) and ``gt_mass``. Its index names the rows in messages.
        batches: the ``batches`` of metadata.json: ``image_names`` (with extension) and ``mass`` (class -> g; null,
            NaN, "NaN" and 0 = not weighed); ``source`` names the file in messages.

    Returns:
        a copy of the table with new ``mass`` (g), ``gt_mass`` and ``F`` (g/mm3, NaN where nothing was shared), and a
        report, one row per batch and class: ``batch``, ``class``, ``how`` the particles got their masses, ``grams_in``,
        ``grams_weighed`` (one by one), ``grams_out`` (sum of the masses), ``F``, ``particles``, ``shared`` and
        ``weighed`` (numbers of particles), ``residual`` (out / in - 1).
    """
    if not 0 < coin_mass < np.inf:
        raise RamsesError(f"coin mass {coin_mass:g} g: give the grams of one coin, above 0")
    parsed = parse_batches(batches, source)
    index, table = table.index, table.reset_index(drop=True)
    mass = _numbers(table, "mass")
    is_true = table["gt_mass"].astype(str).str.lower().isin(("true", "1", "1.0")) if "gt_mass" in table else False
    table["mass"], table["F"] = mass, _numbers(table, "F")
    table["gt_mass"] = is_true & mass.notna()

    batch = table["baseimg"].map(base_name).map(batch_of_images(parsed, source)).astype(float)
    rows = table[["class", "gt_mass", "mass"]].assign(batch=batch)
    report = _plan(rows, parsed, coin_class, source)
    rows = rows.merge(report, on=["batch", "class"], how="left")

    is_shared = (rows["how"] == SHARED) & ~table["gt_mass"]
    volume = _volumes(table[is_shared], index[is_shared])
    left = (rows["grams_in"] - rows["grams_weighed"])[is_shared]
    factor = left / volume.groupby([batch[is_shared], table.loc[is_shared, "class"]]).transform("sum")
    table.loc[batch.notna(), "F"] = np.nan
    table.loc[batch.notna() & ~table["gt_mass"], "mass"] = np.nan
    table.loc[is_shared, "F"] = factor
    table.loc[is_shared, "mass"] = factor * volume
    table.loc[(table["class"] == coin_class) & table["mass"].isna(), "mass"] = coin_mass
    report = _balance(report, table, batch, source)
    return table.set_index(index), report


def parse_batches(batches: Sequence[Mapping[str, Any]], source: str | Path = "metadata.json") -> list[Batch]:
    """Check the ``batches`` of a metadata.json."""
    if not isinstance(batches, (list, tuple)):
        raise RamsesError(f"{source}: batches must be a list, see datasets/README.md")
    parsed: list[Batch] = []
    for number, batch in enumerate(batches, start=1):
        where = f"{source}, batch {number}"
        names, grams = (batch.get(key) if isinstance(batch, Mapping) else None for key in ("image_names", "mass"))
        if not isinstance(names, (list, tuple)) or not isinstance(grams, Mapping):
            raise RamsesError(f"{where}: needs image_names (a list) and mass (class: grams), see datasets/README.md")
        images = tuple(dict.fromkeys(base_name(str(name)) for name in names))
        parsed.append(Batch(number, images, {name: _grams(value, where, name) for name, value in grams.items()}))
    batch_of_images(parsed, source)
    return parsed


def batch_of_images(batches: Sequence[Batch], source: str | Path = "metadata.json") -> dict[str, int]:
    """Base name -> number of the image's batch."""
    numbers: dict[str, int] = {}
    for batch in batches:
        for name in batch.images:
            if name in numbers:
                raise RamsesError(
                    f"{source}: image {name} is in batches {numbers[name]} and {batch.number}; its particles were "
                    f"weighed with one of them: remove it from the other"
                )
            numbers[name] = batch.number
    return numbers


def _grams(value: Any, where: str, class_name: str) -> float:
    """Grams of a class in a batch; NaN where it was not weighed."""
    if value is None:
        return np.nan
    try:
        grams = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        grams = np.inf
    if isinstance(value, bool) or np.isinf(grams) or grams < 0:
        raise RamsesError(f"{where}: mass of {class_name} is {value!r}; give grams, or null where it was not weighed")
    return grams if grams > 0 else np.nan


def _numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column as float, NaN where it is not a number, or is missing."""
    if name not in table:
        return pd.Series(np.nan, table.index)
    return pd.to_numeric(table[name], errors="coerce").astype(float)


def _plan(rows: pd.DataFrame, batches: Sequence[Batch], coin_class: str, source: str | Path) -> pd.DataFrame:
    """The report before anything is shared; stops where a batch does not agree with its particles."""
    keys = ["batch", "class"]
    counted = rows.assign(weighed=rows["gt_mass"], grams_weighed=rows["mass"].where(rows["gt_mass"], 0.0))
    counted = counted.groupby(keys).agg(
        particles=("weighed", "size"), weighed=("weighed", "sum"), grams_weighed=("grams_weighed", "sum")
    )
    listed = [(batch.number, name, grams) for batch in batches for name, grams in batch.grams.items()]
    given = (
        pd.DataFrame(listed, columns=[*keys, "grams_in"])
        .astype({"batch": float, "class": str, "grams_in": float})
        .assign(listed=True)
    )
    report = given.merge(counted.reset_index(), on=keys, how="outer").sort_values(keys, ignore_index=True)
    numbers = ["particles", "weighed", "grams_weighed"]
    report[numbers] = report[numbers].fillna(0).astype({"particles": int, "weighed": int})
    report = report[(report["particles"] > 0) | report["grams_in"].notna()].reset_index(drop=True)
    for group in report[report["grams_in"].notna()].itertuples():
        _reject_contradiction(group, report.at[group.Index, "class"], source)

    report["how"] = np.select(
        [
            (report["weighed"] == report["particles"]),
            report["grams_in"].notna(),
            report["class"] == coin_class,
            report["listed"].notna(),
        ],
        [ONE_BY_ONE, SHARED, COIN, NOT_WEIGHED],
        NOT_IN_BATCH,
    )
    report["shared"] = (report["particles"] - report["weighed"]).where(report["how"] == SHARED, 0)
    return report


def _reject_contradiction(group: Any, class_name: str, source: str | Path) -> None:
    """Stop where the grams of a batch contradict its particles."""
    where = f"{source}, batch {group.batch:.0f}: {group.grams_in:g} g of {class_name}"
    others = group.particles - group.weighed
    if group.particles == 0:
        raise RamsesError(f"{where}, but its images have no such particle; correct the classes, or write null")
    if others and group.grams_weighed >= group.grams_in:
        raise RamsesError(
            f"{where}, but its {group.weighed} particles weighed one by one are {group.grams_weighed:g} g, which "
            f"leaves nothing for {others} more; correct the batch or the masses in annotations.csv"
        )
    if not others and abs(group.grams_weighed / group.grams_in - 1) > WEIGHING_TOLERANCE:
        raise RamsesError(
            f"{where}, but all its {group.weighed} particles, weighed one by one, are {group.grams_weighed:g} g; "
            f"correct the batch or the masses in annotations.csv"
        )


def _volumes(table: pd.DataFrame, index: pd.Index) -> pd.Series:
    """Proxy of the particles' volumes in mm3; ``index`` names the rows."""
    sizes = {name: _numbers(table, name) for name in ("area", "radius", "res")}
    for name, values in sizes.items():
        wrong = ~(values > 0) | np.isinf(values)
        if wrong.any():
            position = int(np.flatnonzero(wrong)[0])
            raise RamsesError(
                f"annotations.csv, row {index[position]}: {name} is {values.iloc[position]:g}, so its share of the "
                f"batch is unknown; measure the particles in their label images (--measure)"
            )
    return sizes["area"] * 2 * sizes["radius"] / sizes["res"] ** 3


def _balance(report: pd.DataFrame, table: pd.DataFrame, batch: pd.Series, source: str | Path) -> pd.DataFrame:
    """Complete the report with what came out, and check it."""
    groups = table.groupby([batch.rename("batch"), "class"])
    out = pd.DataFrame({"grams_out": groups["mass"].sum(min_count=1), "F": groups["F"].max()})
    report = report.merge(out.reset_index(), on=["batch", "class"], how="left")
    report["residual"] = report["grams_out"] / report["grams_in"] - 1
    lost = (report["how"] == SHARED) & ~(report["residual"].abs() < MAX_RESIDUAL)
    if lost.any():
        first = report[lost].iloc[0]
        raise RamsesError(
            f"{source}, batch {first['batch']:.0f}: {first['grams_in']:g} g of {first['class']} became "
            f"{first['grams_out']:g} g; the areas and radii of its particles differ too much to share them"
        )
    columns = ["batch", "class", "how", "grams_in", "grams_weighed", "grams_out", "F"]
    return report.astype({"batch": int})[[*columns, "particles", "shared", "weighed", "residual"]]


def write_batch_masses(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    measure: bool = False,
    coin_class: str = COIN_CLASS,
    coin_mass: float = COIN_MASS,
    force: bool = False,
    progress: bool = False,
) -> tuple[Path, pd.DataFrame]:
    """Write a folder's annotations with the masses of :func:`share_batch_masses`; annotations.csv stays as it is.

    Areas and radii that are missing or impossible are measured in the label images; with ``measure``, all of them.
    Returns the CSV (default: annotations-masses.csv in the folder) and the report. ``force`` replaces an existing
    ``output`` only if this function could have written it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; a RAMSES folder holds annotations.csv, labels/ and metadata.json")
    csv_path, json_path = folder / "annotations.csv", folder / "metadata.json"
    output = folder / DEFAULT_OUTPUT if output is None else Path(output)
    _check_output(output, csv_path, force)
    table = read_annotations(csv_path)
    reject_duplicates(table.assign(baseimg=table["baseimg"].map(base_name)), csv_path)
    batches = read_metadata(folder).get("batches")
    if not batches:
        raise RamsesError(f"{json_path}: no batches, so there are no grams to share; see datasets/README.md")
    parsed = parse_batches(batches, json_path)
    _check_images(folder, table, parsed, json_path)

    table["radius"] = pd.to_numeric(table["radius"], errors="coerce") if "radius" in table else np.nan
    measured = pd.Series(True, table.index) if measure else _needs_measuring(table, parsed, csv_path)
    if measured.any():
        table.loc[measured, ["area", "radius"]] = _measure_rows(folder, table[measured], csv_path, progress)
    shared, report = share_batch_masses(table, batches, coin_class=coin_class, coin_mass=coin_mass, source=json_path)
    _write_csv(output, csv_path, table, shared, measured)
    return output, report


def measure_particles(label_map: np.ndarray, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Areas (K,) in px2 and radii (K,) in px of the largest inscribed circle; NaN for a label without pixels.

    What lies beyond the image's border, and every other particle, is outside of a particle.
    """
    area, radius = np.full((2, len(labels)), np.nan)
    found = ndimage.find_objects(label_map)
    for index, label in enumerate(labels):
        if label <= len(found) and (box := found[label - 1]) is not None:
            mask = np.pad(label_map[box] == label, 1).astype(np.uint8)
            area[index] = cv2.countNonZero(mask)
            radius[index] = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    return area, radius


def _check_output(output: Path, csv_path: Path, force: bool) -> None:
    """The input, and what this command could not have written, is never replaced."""
    if output.resolve() == csv_path.resolve() or (output.name == csv_path.name and (output.parent / "labels").is_dir()):
        raise RamsesError(f"{output}: a data set's own annotations are not replaced; give --output another name")
    check_output(output, force)
    if not output.parent.is_dir():
        raise RamsesError(f"{output}: name a CSV file in an existing folder")
    if output.exists() and not set(_WRITTEN_COLUMNS) <= set(read_text_table(output).columns):
        raise RamsesError(
            f"{output} is not a table of batch masses (columns {', '.join(_WRITTEN_COLUMNS)}): not replaced"
        )


def _check_images(folder: Path, table: pd.DataFrame, batches: Sequence[Batch], json_path: Path) -> None:
    """Stop where a weighed batch has an image whose particles are unknown: the others would get their grams."""
    annotated = set(table["baseimg"].map(base_name))
    for batch in batches:
        if any(grams > 0 for grams in batch.grams.values()):
            for name in batch.images:
                if name not in annotated and not (folder / "labels" / f"{name}.png").is_file():
                    raise RamsesError(
                        f"{json_path}, batch {batch.number}: image {name} has neither rows nor a label image, so "
                        f"its particles' grams would go to others; add it, or take it and its grams out of the batch"
                    )


def _needs_measuring(table: pd.DataFrame, batches: Sequence[Batch], csv_path: Path) -> pd.Series:
    """Rows whose share is asked for, but whose area or radius is missing or impossible."""
    grams = {(batch.number, name): grams for batch in batches for name, grams in batch.grams.items()}
    number = table["baseimg"].map(base_name).map(batch_of_images(batches, csv_path))
    keys = zip(number, table["class"], strict=True)
    is_shared = pd.Series([grams.get(key, np.nan) > 0 for key in keys], table.index)
    is_shared &= ~(table["gt_mass"] & table["mass"].notna())
    # A circle inside the particle is no larger than it; the distance to the next pixel's centre adds up to 1 px.
    # RAMSES2 writes radii that are too large for particles that fill their box.
    impossible = table["radius"] > np.sqrt(table["area"] / np.pi) + 1
    if (is_shared & impossible).any():
        rows = table.index[is_shared & impossible]
        logger.warning(
            "%s: %d particles have a radius beyond that of a circle of their area (row %d first); "
            "they are measured in the label images",
            csv_path, len(rows), rows[0],
        )  # fmt: skip
    return is_shared & (impossible | ~(table["radius"] > 0) | ~(table["area"] > 0))


def _measure_rows(folder: Path, rows: pd.DataFrame, csv_path: Path, progress: bool) -> pd.DataFrame:
    """Columns area and radius of the rows, from the label images."""
    groups = list(rows.groupby(rows["baseimg"].map(base_name)))

    def measure(group: tuple[str, pd.DataFrame]) -> pd.DataFrame:
        base, particles = group
        path = folder / "labels" / f"{base}.png"
        area, radius = measure_particles(read_label_image(path), particles["label"].to_numpy())
        if np.isnan(area).any():
            row = particles.index[np.isnan(area)][0]
            raise RamsesError(
                f"{csv_path}, row {row}: label {particles.at[row, 'label']} has no pixel in {path}, so its "
                f"share of the batch is unknown; correct the label image or remove the row"
            )
        return pd.DataFrame({"area": area, "radius": radius}, particles.index)

    with ThreadPoolExecutor(_THREADS) as pool:
        measured = pool.map(measure, groups)
        bar = tqdm(measured, "measuring", len(groups), unit="image", disable=None if progress else True)
        return pd.concat(list(bar))


def _write_csv(output: Path, csv_path: Path, before: pd.DataFrame, after: pd.DataFrame, measured: pd.Series) -> None:
    """Write the input's cells, as they are, with the new ones."""
    text = read_text_table(csv_path)
    factor = pd.to_numeric(before["F"], errors="coerce") if "F" in before else pd.Series(np.nan, before.index)
    changed = {
        "area": measured,
        "radius": measured,
        "mass": (before["mass"] != after["mass"]) & (before["mass"].notna() | after["mass"].notna()),
        "gt_mass": before["gt_mass"] != after["gt_mass"],
        "F": (factor != after["F"]) & (factor.notna() | after["F"].notna()),
    }
    for name, rows in changed.items():
        if name not in text and (rows.any() or name in _WRITTEN_COLUMNS):
            text[name] = "False" if name == "gt_mass" else "NaN"
        if rows.any():
            text.loc[rows, name] = after.loc[rows, name].map(_cell)
    with atomic_path(output) as unfinished:
        text.to_csv(unfinished, index=False)


def _cell(value: float | bool) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(value)
    return "NaN" if np.isnan(value) else f"{value:.9g}"
