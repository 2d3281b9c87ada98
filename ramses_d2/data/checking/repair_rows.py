"""Mend the rows of annotations.csv: what the label images say replaces what they say."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ramses_d2.data.checking.check import CheckedFolder
from ramses_d2.data.checking.findings import Kind
from ramses_d2.data.checking.images import image_size
from ramses_d2.data.checking.repair_images import Change
from ramses_d2.data.folder import BOX_COLUMNS, CONVENTIONS

_FILE = "annotations.csv"
_BOX_SOURCE = dict(zip(BOX_COLUMNS, ("top", "left", "bottom", "right"), strict=True))  # rows in x, as the original


def repair_rows(checked: CheckedFolder, particles: Mapping[str, np.ndarray], path: Path) -> list[Change]:
    """Write the mended annotations.csv.

    Every cell that is not mended stays as it was written, and every column that is not known, too.

    Args:
        checked: the folder.
        particles: base name -> particles of a mended label image.
        path: file to write.

    Returns:
        the changes.
    """
    scan, rows = checked.contents.scan, checked.row_check.rows
    dropped, changes = _dropped_rows(checked)
    rows = rows[~rows.index.isin(dropped)]
    text = scan.text.drop(index=dropped)
    wanted = _wanted_cells(checked, rows, particles)
    changes += list(_log_cells(rows, wanted, scan.text.columns))
    for name, values in wanted.items():
        cells = text[name] if name in text.columns else pd.Series("", index=text.index)
        differs = values.notna() & ~(values == rows.get(name, pd.Series(np.nan, index=rows.index)))
        text[name] = cells.where(~differs.reindex(text.index, fill_value=False), values.map(_number))
    lines = dict(zip(text.index.tolist(), text.to_numpy().tolist(), strict=True)) | scan.surplus
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(text.columns)
        writer.writerows(lines[row] for row in sorted(lines))
    return changes


def _dropped_rows(checked: CheckedFolder) -> tuple[list[int], list[Change]]:
    reasons = {Kind.DUPLICATE_ROW: "second row of the particle", Kind.ROW_WITHOUT_PIXELS: "row without pixels"}
    text = checked.contents.scan.text
    dropped, changes = [], []
    for each in checked.row_check.findings:
        if each.kind in reasons:
            cells = ", ".join(f"{name} {value}" for name, value in text.loc[each.row].items() if value)
            changes.append(Change(_FILE, reasons[each.kind], cells, "removed", each.row, each.label))
            dropped.append(each.row)
    return dropped, changes


def _wanted_cells(checked: CheckedFolder, rows: pd.DataFrame, particles: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What the cells of the mended columns should be, NaN where that is not known; index as ``rows``."""
    measured = rows[["pixel_area", "left", "top", "right", "bottom"]].copy()
    again = pd.DataFrame(
        np.concatenate([np.zeros((0, 6), np.int64), *(found[:, :6] for found in particles.values())]),
        columns=["label", *measured.columns],
    )
    again["baseimg"] = np.repeat(np.array(list(particles), dtype=object), [len(found) for found in particles.values()])
    fresh = rows[["baseimg", "label"]].join(again.set_index(["baseimg", "label"]), on=["baseimg", "label"])
    measured.update(fresh[measured.columns])

    wanted = pd.DataFrame({name: measured[source] for name, source in _BOX_SOURCE.items()})
    if CONVENTIONS.get(checked.row_check.convention) == list(BOX_COLUMNS):
        # Columns in x: the rows without pixels to compare must change with the others
        wanted = wanted.fillna(rows[["y0", "x0", "y1", "x1"]].set_axis(list(BOX_COLUMNS), axis=1))
    wanted["area"] = measured["pixel_area"]
    sizes = {base: size for base in checked.facts if (size := image_size(*checked.facts[base])) is not None}
    for axis, name in enumerate(("height", "width")):
        wanted[name] = rows["baseimg"].map({base: size[axis] for base, size in sizes.items()})
    return wanted.astype(float)


def _log_cells(rows: pd.DataFrame, wanted: pd.DataFrame, columns: pd.Index) -> Iterator[Change]:
    """One change per row and thing: the box, the area, the size; one per column that the file does not have."""
    for what, names in (("box", list(BOX_COLUMNS)), ("area", ["area"]), ("size", ["height", "width"])):
        added = [name for name in names if name not in columns]
        if added:
            yield Change(_FILE, f"column {', '.join(added)} added", "", "from the label images")
            names = [name for name in names if name not in added]
        if not names:
            continue
        old, new = rows[names], wanted[names]
        differs = (new.notna() & ~(new == old)).any(axis=1)
        for row, label, before, after in zip(
            rows.index[differs],
            rows["label"][differs],
            old[differs].to_numpy(float),
            new[differs].to_numpy(float),
            strict=True,
        ):
            yield Change(_FILE, f"{what} ({', '.join(names)})", _listed(before), _listed(after), int(row), int(label))


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(_number, values))


def _number(value: float) -> str:
    return f"{value:.10g}"
