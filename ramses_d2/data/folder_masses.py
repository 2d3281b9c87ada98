"""Share the batch masses of a RAMSES folder and write its annotations with masses as a new CSV."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from ramses_d2.atomic_file import atomic_path
from ramses_d2.errors import RamsesError

from .annotations_csv import REQUIRED_COLUMNS, read_annotations, read_text_table, reject_duplicates
from .batch_masses import COIN_CLASS, COIN_MASS, Batch, batch_of_images, parse_batches, share_batch_masses
from .image_names import base_name
from .json_file import read_json
from .label_map import read_label_image

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = "annotations-masses.csv"
_WRITTEN_COLUMNS = (*REQUIRED_COLUMNS, "mass", "gt_mass", "F")
_THREADS = min(4, os.cpu_count() or 1)  # a label image of 25 million pixels takes 150 MB while it is measured


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

    Areas and radii that are missing or impossible are measured in the label images.

    Args:
        folder: holds annotations.csv, labels/ and metadata.json.
        output: CSV to write; default: annotations-masses.csv in the folder.
        measure: measure the area and radius of all particles, also where the CSV has them.
        coin_class: every particle of this class that is still without a mass gets ``coin_mass``.
        coin_mass: g.
        force: replace an existing ``output`` that this function could have written.
        progress: show a progress bar while label images are measured.

    Returns:
        the file written, and the report of :func:`share_batch_masses`.

    Raises:
        RamsesError: anything missing or wrong; ``output`` exists.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; a RAMSES folder holds annotations.csv, labels/ and metadata.json")
    csv_path, json_path = folder / "annotations.csv", folder / "metadata.json"
    output = folder / DEFAULT_OUTPUT if output is None else Path(output)
    _check_output(output, csv_path, force)
    table = read_annotations(csv_path)
    reject_duplicates(table.assign(baseimg=table["baseimg"].map(base_name)), csv_path)
    metadata = read_json(json_path)
    batches = metadata.get("batches") if isinstance(metadata, dict) else None
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
    """Area and largest inscribed circle of particles.

    What lies beyond the image's border, and every other particle, is outside of a particle.

    Args:
        label_map: integer (H, W), 0 = background.
        labels: K values.

    Returns:
        float (K,) areas in px2 and float (K,) radii in px; NaN for a label without pixels.
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
    if output.is_dir() or not output.parent.is_dir():
        raise RamsesError(f"{output}: name a CSV file in an existing folder")
    if output.exists():
        if not force:
            raise RamsesError(f"{output} exists: choose another --output, or replace it with --force")
        if not set(_WRITTEN_COLUMNS) <= set(read_text_table(output).columns):
            raise RamsesError(
                f"{output} is no table of batch masses (columns {', '.join(_WRITTEN_COLUMNS)}): not replaced"
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
    # The original's radii are too large for particles that fill their box (reference section 6.2).
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
        bar = tqdm(measured, "measuring", len(groups), unit="picture", disable=None if progress else True)
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
