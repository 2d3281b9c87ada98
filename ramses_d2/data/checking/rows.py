"""Checks of the rows of annotations.csv against the pixels of the label images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ramses_d2.data.checking.components import BODY_COLUMNS, PARTICLE_COLUMNS, SPECK_PIXELS
from ramses_d2.data.checking.contents import FolderContents
from ramses_d2.data.checking.findings import Finding, Kind, counted, finding, row_findings
from ramses_d2.data.checking.images import is_turned_away, lies_alike
from ramses_d2.data.checking.pixels import Facts
from ramses_d2.data.folder import BOX_COLUMNS, CONVENTIONS

BOX_TOLERANCE = 1  # px, as the reader: some producers write inclusive ends
_CLEAR = 0.9  # share of the boxes that must follow a convention for the others to be slips, as in the reader
_USABLE = 0.5  # share of the boxes that must follow one or the other
_BOX = ["left", "top", "right", "bottom"]
_PIXEL_COLUMNS = [f"pixel_{name}" if name == "area" else name for name in (*PARTICLE_COLUMNS[1:], *BODY_COLUMNS)]


@dataclass(frozen=True)
class RowCheck:
    """Rows beside their pixels.

    Attributes:
        findings: what disagrees.
        rows: every first row of a particle, with ``pixel_area``, ``left`` ... of its pixels, NaN where they are not
            known; ``touches`` and ``comparable`` say whether it touches the border and whether its label image lies on
            its image.
        extra: labels without row, by base name; only of the images that the findings name, and not of those whose
            rows probably have a mistyped ``baseimg``.
        convention: what the boxes mean by x, for people.
    """

    findings: list[Finding]
    rows: pd.DataFrame
    extra: dict[str, np.ndarray]
    convention: str


def check_rows(contents: FolderContents, facts: Mapping[str, Facts]) -> RowCheck:
    """Compare the rows of a folder with its label images.

    A label image of another size than its image is not compared: everything about it would disagree.

    Args:
        contents: the folder.
        facts: base name -> what its pixels say.
    """
    repeated = contents.rows.duplicated(["baseimg", "label"])
    findings = list(_check_duplicates(contents, repeated))
    particles = _particles(facts)
    rows = contents.rows[~repeated].join(particles, on=["baseimg", "label"])
    compared = {base: pair for base, pair in facts.items() if _is_compared(pair)}
    in_compared = rows["baseimg"].isin(list(compared))
    lost = rows[in_compared & rows["pixel_area"].isna()]
    findings += row_findings(
        Kind.ROW_WITHOUT_PIXELS, contents.folder, lost, lambda: "the label has no pixel in the label image"
    )
    extra = _extra_labels(contents, particles, rows)
    counts = rows["baseimg"].value_counts().to_dict()
    misnamed = _misnamed(contents, rows, extra)
    findings += [
        _extra_finding(contents, base, counts.get(base, 0), compared[base], extra[base], misnamed.get(base))
        for base in extra
    ]
    extra = {base: labels for base, labels in extra.items() if base not in misnamed}

    seen = rows[in_compared & rows["pixel_area"].notna()]
    upright = seen[~seen["baseimg"].isin([base for base, pair in compared.items() if is_turned_away(*pair)])]
    convention = "no boxes"
    if set(BOX_COLUMNS) <= set(seen.columns):
        box_findings, convention = _check_boxes(contents, upright)
        findings += box_findings
    findings += _check_areas(contents, seen)
    touches = _touches_border(seen, compared)
    findings += _check_shapes(contents, seen, touches)
    rows = rows.assign(touches=touches.reindex(rows.index, fill_value=False), comparable=rows.index.isin(upright.index))
    return RowCheck(findings, rows, extra, convention)


def _is_compared(pair: Facts) -> bool:
    _, label = pair
    readable = label is not None and label.error is None and label.particles is not None
    return readable and (lies_alike(*pair) or is_turned_away(*pair))


def _particles(facts: Mapping[str, Facts]) -> pd.DataFrame:
    """All particles of a folder, index = base name and label."""
    tables = {base: pair[1].particles for base, pair in facts.items() if _is_compared(pair)}
    values = np.concatenate([np.zeros((0, 1 + len(_PIXEL_COLUMNS)), np.int64), *tables.values()])
    bases = np.repeat(np.array(list(tables), dtype=object), [len(table) for table in tables.values()])
    index = pd.MultiIndex.from_arrays([bases, values[:, 0]], names=["baseimg", "label"])
    return pd.DataFrame(values[:, 1:], index=index, columns=_PIXEL_COLUMNS)


def _check_duplicates(contents: FolderContents, repeated: pd.Series) -> Iterator[Finding]:
    rows = contents.rows
    first = rows[~repeated].reset_index(names="first").set_index(["baseimg", "label"])["first"]
    again = rows[repeated].join(first, on=["baseimg", "label"])
    yield from row_findings(
        Kind.DUPLICATE_ROW, contents.folder, again, lambda row: f"the same particle as row {row}", "first"
    )


def _extra_labels(contents: FolderContents, particles: pd.DataFrame, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Labels without row, by base name; rows that cannot be used are taken to belong to some of them."""
    if contents.scan is None:
        return {}
    keys = pd.MultiIndex.from_frame(rows[["baseimg", "label"]])
    annotated = set(rows["baseimg"])
    alone = particles.index[~particles.index.isin(keys)]
    extra = {}
    for base, labels in alone.to_frame(index=False).groupby("baseimg", sort=False)["label"]:
        excused = contents.unusable.get(base, 0) + contents.unusable.get("", 0)
        is_orphan = base not in contents.images and base not in annotated
        if len(labels) > excused and not is_orphan:
            extra[base] = labels.to_numpy()
    return extra


def _misnamed(contents: FolderContents, rows: pd.DataFrame, extra: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Base name -> a name in the rows that no file has, and all of whose labels are among the image's extra ones.

    The rows are probably the image's, under a mistyped name, and then its pixels are no mistake.
    """
    lost = rows[~rows["baseimg"].isin([*contents.images, *contents.labels])]
    found: dict[str, str] = {}
    for name, labels in lost.groupby("baseimg", sort=False)["label"]:
        for base, others in extra.items():
            if labels.isin(others).all():
                found.setdefault(base, name)
    return found


def _extra_finding(
    contents: FolderContents, base: str, rows: int, pair: Facts, labels: np.ndarray, misnamed: str | None
) -> Finding:
    particles = len(pair[1].particles)
    named = ", ".join(map(str, labels[:10])) + (" ..." if len(labels) > 10 else "")
    message = (
        f"{counted(rows, 'row')} for {counted(particles, 'particle')}; "
        f"without row: {'label' if len(labels) == 1 else 'labels'} {named}"
    )
    if misnamed is not None:
        message += f"; perhaps those of {misnamed!r}, which is no image: correct baseimg"
    return finding(
        Kind.PIXELS_WITHOUT_ROW,
        contents.folder,
        f"labels/{base}.png",
        message,
        image=base,
        label=int(labels[0]) if len(labels) == 1 else None,
    )


def _check_boxes(contents: FolderContents, seen: pd.DataFrame) -> tuple[list[Finding], str]:
    """Which convention the boxes follow, and those that do not."""
    seen = seen[seen[list(BOX_COLUMNS)].notna().all(axis=1)]
    if not len(seen):
        return [], "no boxes to compare"
    true = seen[_BOX].to_numpy(float)
    body = seen[list(BODY_COLUMNS[1:])].to_numpy(float)  # boxes that leave out specks or parts follow a convention, too
    fits = np.column_stack(
        [_agree(seen[columns], true) | _agree(seen[columns], body) for columns in CONVENTIONS.values()]
    )
    names = list(CONVENTIONS)
    shares = fits.mean(axis=0)
    best = int(shares.argmax())
    either = fits.any(axis=1)
    folder = contents.folder
    if shares[best] < _CLEAR and either.mean() >= _CLEAR:
        other = seen[either & ~fits[:, best]]
        images = other["baseimg"].unique()
        message = (
            f"in {fits[:, best].sum()} boxes {names[best]}, in {len(other)} of {len(images)} images the other way "
            f"round, from this row on"
        )
        mixed = finding(Kind.BOXES_MIXED, folder, "annotations.csv", message, row=int(other.index[0]), image=images[0])
        return [mixed, *_wrong_boxes(contents, seen[~either], "rows")], "mixed"
    if shares[best] < _USABLE:
        message = (
            f"only {either.sum()} of {len(seen)} boxes fit the label images (rows in x0, x1: {fits[:, 0].sum()}, "
            f"columns: {fits[:, 1].sum()}); the label images are used instead"
        )
        return [finding(Kind.BOXES_UNUSABLE, folder, "annotations.csv", message)], "unusable"
    swapped = either & ~fits[:, best]
    findings = [*_wrong_boxes(contents, seen[~either], names[best])]
    findings += row_findings(
        Kind.BOX_WRONG, folder, seen[swapped], lambda: f"rows and columns are swapped: {names[best]}"
    )
    return findings, names[best]


def _agree(boxes: pd.DataFrame, true: np.ndarray) -> np.ndarray:
    return (np.abs(boxes.to_numpy(float) - true) <= BOX_TOLERANCE).all(axis=1)


def _wrong_boxes(contents: FolderContents, rows: pd.DataFrame, convention: str) -> Iterator[Finding]:
    names = CONVENTIONS.get(convention, ["y0", "x0", "y1", "x1"])
    order = [_BOX[names.index(name)] for name in BOX_COLUMNS]  # what x0, y0, x1, y1 should hold
    yield from row_findings(
        Kind.BOX_WRONG,
        contents.folder,
        rows,
        lambda *values: "x0, y0, x1, y1 are {:g}, {:g}, {:g}, {:g}; the pixels say {:g}, {:g}, {:g}, {:g}".format(
            *values
        ),
        *BOX_COLUMNS,
        *order,
    )


def _check_areas(contents: FolderContents, seen: pd.DataFrame) -> Iterator[Finding]:
    stated = seen["area"]
    fits = stated.isna()
    for area in (seen["pixel_area"], seen["pixel_area"] - seen["speck_pixels"], seen["body_area"]):
        fits |= (stated - area).abs() < 1
    yield from row_findings(
        Kind.AREA_WRONG,
        contents.folder,
        seen[~fits],
        lambda area, pixels: f"area is {area:g} px, the label image has {pixels:g} px",
        "area",
        "pixel_area",
    )


def _touches_border(seen: pd.DataFrame, compared: Mapping[str, Facts]) -> pd.Series:
    heights = seen["baseimg"].map({base: label.size[0] for base, (_, label) in compared.items()})
    widths = seen["baseimg"].map({base: label.size[1] for base, (_, label) in compared.items()})
    return (seen["left"] <= 0) | (seen["top"] <= 0) | (seen["right"] >= widths) | (seen["bottom"] >= heights)


def _check_shapes(contents: FolderContents, seen: pd.DataFrame, touches: pd.Series) -> Iterator[Finding]:
    folder = contents.folder
    yield from row_findings(
        Kind.TOUCHES_BORDER,
        folder,
        seen[touches],
        lambda mass: (
            "touches the border" + (f"; is its mass, {mass:g} g, that of the part seen?" if mass == mass else "")
        ),
        "mass",
    )
    yield from row_findings(
        Kind.DISCONNECTED,
        folder,
        seen[seen["parts"] > 1],
        lambda parts, area, body: f"has {parts:g} parts, {body:g} of its {area:g} px are in the largest",
        "parts",
        "pixel_area",
        "body_area",
    )
    yield from row_findings(
        Kind.SPECKS,
        folder,
        seen[seen["specks"] > 0],
        lambda specks, pixels: f"has {pixels:g} stray px in {counted(specks, 'place')}",
        "specks",
        "speck_pixels",
    )
    yield from row_findings(
        Kind.TINY_PARTICLE,
        folder,
        seen[seen["pixel_area"] <= SPECK_PIXELS],
        lambda area: f"is only {area:g} px large",
        "pixel_area",
    )
