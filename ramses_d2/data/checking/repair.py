"""Write a repaired copy of a checked folder, with a log of every change.

What the pixels say wins: boxes, areas and sizes are recomputed, rows without pixels and pixels without rows go. What
they do not say (a missing image, an unknown class, a mass) stays as it is.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from ramses_d2.data.checking.check import check_rows, convention
from ramses_d2.data.checking.contents import CSV, UINT16_MODES, Folder, read_any_labels
from ramses_d2.data.folder import BOX_COLUMNS, CONVENTIONS
from ramses_d2.data.images import save_upright, turn_upright
from ramses_d2.errors import RamsesError
from ramses_d2.files import OwnFolder, folder_swap, write_json
from ramses_d2.masks import PARTICLE_COLUMNS, find_parts, measure_particles, without_small_components

REPAIRED_COPY = OwnFolder("repaired copy", "fixes.json", "ramses-mended-copy")
# What of a row is recomputed; boxes are written as the original does: rows in x0, x1, columns in y0, y1
MEASURED = (("box", list(BOX_COLUMNS)), ("area", ["area"]), ("size", ["height", "width"]))
SOURCES = dict(zip((*BOX_COLUMNS, "area"), ("top", "left", "bottom", "right", "pixel_area"), strict=True))


class Change(NamedTuple):
    """One change of a repaired copy: a line of fixes.csv; `row` is that of the checked folder."""

    file: str
    row: int | None
    label: int | None
    what: str
    old: str = ""
    new: str = ""


def repair_folder(
    folder: Folder, output: str | Path, *, overwrite: bool = False, workers: int = 4, progress: bool = False
) -> list[Change]:
    """Write a repaired copy of a folder of a CheckReport, with fixes.csv and fixes.json; returns the changes.

    Copied are annotations.csv, images/, labels/ and the other files of the folder, not other folders in it.
    """
    source, output = folder.path, Path(output)
    check_output(source, output, overwrite)
    with folder_swap(output) as copy:
        for name in ("images", "labels"):
            if (source / name).is_dir():
                (copy / name).mkdir()
        known = {*folder.image_files.values(), *folder.label_files.values()}
        for path in {*source.iterdir(), *source.glob("images/*"), *source.glob("labels/*"), *known}:
            if path.is_file() or (path in known and not path.is_dir()):  # a folder x.png is no image
                shutil.copy2(path, copy / path.relative_to(source))
        bases = folder.images.index.tolist()
        with ThreadPoolExecutor(workers) as pool:
            made = pool.map(partial(_repair_image, folder, copy), bases)
            bar = tqdm(made, total=len(bases), desc="repairing", unit="image", disable=None if progress else True)
            results = dict(zip(bases, bar, strict=True))
        changes = [change for made, _ in results.values() for change in made]
        if folder.text is not None:
            particles = {base: found for base, (_, found) in results.items() if found is not None}
            changes += _repair_rows(folder, particles, copy / CSV)
        changes += _repair_split(source, output, copy)
        with (copy / "fixes.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("file", "row", "label", "what", "from", "to"), *changes])
        write_json(copy / REPAIRED_COPY.marker, REPAIRED_COPY.entries(), indent=1)
    return changes


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Stop where a repaired copy must not be written; to be called before long work, too."""
    if output.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(output.resolve()):
        raise RamsesError(f"{output}: choose a folder outside {source}, whose repaired copy it is to hold")
    REPAIRED_COPY.check_replaceable(output, overwrite)


def _repair_image(folder: Folder, copy: Path, base: str) -> tuple[list[Change], np.ndarray | None]:
    """Replace an image and its label image in the copy; returns the changes, and the particles of a new label image."""
    stats = folder.images.loc[base]
    changes: list[Change] = []
    now = (f"orientation {stats['orientation']}", "orientation 1")
    if isinstance(stats["size"], tuple) and stats["orientation"] != 1:
        save_upright(folder.image_files[base], copy / "images" / stats["name"])
        changes.append(Change(f"images/{stats['name']}", None, None, "turned upright, as its EXIF tag says", *now))
    particles = stats["particles"]
    if not isinstance(particles, np.ndarray):
        return changes, None

    file = f"labels/{base}.png"
    particles = pd.DataFrame(particles, columns=PARTICLE_COLUMNS)
    extra = [] if base in folder.misnamed else folder.extra.get(base, [])
    is_extra = particles["label"].isin(extra)
    stray = particles[~is_extra & (particles["small"] > 0) & stats["compared"]]
    if stats["mode"] in UINT16_MODES and not stats["turned"] and not len(extra) and stray.empty:
        return changes, None
    label_map, mode, _ = read_any_labels(folder.label_files[base])
    if mode not in UINT16_MODES:
        changes.append(Change(file, None, None, "saved as 16-bit grey", f"mode {mode}", "mode I;16"))
    if stats["turned"]:
        label_map = turn_upright(label_map, stats["orientation"])
        changes.append(Change(file, None, None, "turned as the image's EXIF tag says", *now))
    for what, found, column in (("pixels without row", particles[is_extra], "area"), ("specks", stray, "small_pixels")):
        for label, pixels in zip(found["label"].tolist(), found[column].tolist(), strict=True):
            changes.append(Change(file, None, label, what, f"{pixels} px", "background"))
    label_map = np.where(np.isin(label_map, extra), 0, label_map)
    if len(stray):
        label_map = without_small_components(label_map)
    Image.fromarray(label_map.astype(np.uint16)).save(copy / file)
    return changes, measure_particles(find_parts(label_map))


def _repair_rows(folder: Folder, particles: dict[str, np.ndarray], path: Path) -> list[Change]:
    """Write the repaired annotations.csv. Cells and columns that are not repaired stay as they were written."""
    reasons = {"duplicate-row": "second row of the particle", "row-without-pixels": "row without pixels"}
    text, rows, changes = folder.text, folder.rows, []
    for each in check_rows(folder):
        if each.kind in reasons:
            cells = ", ".join(f"{name} {value}" for name, value in text.loc[each.row].items() if value)
            changes.append(Change(CSV, each.row, each.label, reasons[each.kind], cells, "removed"))
    dropped = [change.row for change in changes]
    text, rows = text.drop(index=dropped), rows.drop(index=dropped)
    wanted = _wanted_cells(folder, rows, particles)
    changes += _log_cells(rows, wanted, text.columns)
    for name, values in wanted.items():
        cells = text[name] if name in text.columns else pd.Series("", index=text.index)
        differs = values.notna() & ~(values == rows.get(name, pd.Series(np.nan, index=rows.index)))
        text[name] = cells.where(~differs.reindex(text.index, fill_value=False), values.map(_number))
    lines = dict(zip(text.index.tolist(), text.to_numpy().tolist(), strict=True)) | folder.surplus
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([text.columns, *(lines[row] for row in sorted(lines))])
    return changes


def _wanted_cells(folder: Folder, rows: pd.DataFrame, particles: dict[str, np.ndarray]) -> pd.DataFrame:
    """What the cells of the repaired columns should be, NaN where that is not known; index as `rows`."""
    measured = rows[list(SOURCES.values())].astype(float)
    for base, found in particles.items():
        new = pd.DataFrame(found, columns=PARTICLE_COLUMNS).rename(columns={"area": "pixel_area"}).set_index("label")
        own = rows.loc[rows["baseimg"] == base, "label"]
        measured.update(new.reindex(own)[measured.columns].set_axis(own.index))
    wanted = measured.set_axis(list(SOURCES), axis=1)
    if CONVENTIONS.get(convention(folder)) == list(BOX_COLUMNS):
        # Columns in x: the rows without pixels to compare must change with the others
        wanted = wanted.fillna(rows[["y0", "x0", "y1", "x1"]].set_axis(list(BOX_COLUMNS), axis=1))
    for axis, name in enumerate(("height", "width")):
        wanted[name] = rows["baseimg"].map(folder.images["true_size"].dropna().str[axis])
    return wanted.astype(float)


def _log_cells(rows: pd.DataFrame, wanted: pd.DataFrame, columns: pd.Index) -> Iterator[Change]:
    """One change per row and thing: the box, the area, the size; one for the columns that the file does not have."""
    for what, names in MEASURED:
        added = [name for name in names if name not in columns]
        if added:
            yield Change(CSV, None, None, f"column {', '.join(added)} added", "", "from the label images")
        names = [name for name in names if name not in added]
        old, new = rows[names], wanted[names]
        differs = (new.notna() & ~(new == old)).any(axis=1)
        for row, label in rows["label"][differs].items():
            cells = (", ".join(map(_number, values.loc[row].astype(float))) for values in (old, new))
            yield Change(CSV, row, label, f"{what} ({', '.join(names)})", *cells)


def _number(value: float) -> str:
    return f"{value:.10g}"


def _repair_split(source: Path, output: Path, copy: Path) -> list[Change]:
    """Name the folders of a split.json as seen from the copy; its own folder is the copy."""
    path = copy / "split.json"
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
        folders = {key: Path(root) for key, root in split["folders"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # there is none, the original's has none, or it is broken
    changes = []
    for key, root in folders.items():
        target = (source / root).resolve()
        seen = "." if target == source.resolve() else os.path.relpath(target, output.resolve())
        if seen != os.path.normpath(root):
            split["folders"][key] = seen
            changes.append(Change(path.name, None, None, f"folder {key} as seen from here", str(root), seen))
    if changes:
        path.write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")
    return changes
