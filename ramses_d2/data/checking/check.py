"""Check RAMSES folders before hours of training are spent on them; nothing is changed.

The functions that the table KINDS names compare files, rows, pixels, folders and subsets, see contents.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from ramses_d2.data.checking.contents import CSV, UINT16_MODES, Finding, Folder, read_memberships
from ramses_d2.data.folder import BOX_COLUMNS, CONVENTIONS
from ramses_d2.errors import RamsesError
from ramses_d2.files import check_output, read_json, write_json
from ramses_d2.masks import SMALL_PIXELS

FORMAT, VERSION = "ramses-check", 1
ERROR, WARNING = "error", "warning"
SIDES = ["left", "top", "right", "bottom"]
BOX_TOLERANCE = 1  # px, as the reader: some producers write inclusive ends
CLEAR, USABLE = 0.9, 0.5  # shares of the boxes that must follow one convention, and one or the other
# A resolution is an outlier if it is further than a factor from the median of the images and than a multiple of their
# spread, and few images have such a one: two cameras are no outliers. Limits: a pixel of 100 mm, and of 1 um
RESOLUTION_LIMITS, RESOLUTION_FACTOR, RESOLUTION_SPREADS, FEW = (0.01, 1000.0), 3.0, 8.0, 0.1
# Of log(mass / area): samples of a class for its spread to mean something. Coins have next to none, but their outlines
# are not that exact
SAMPLES, MASS_SPREADS, SMALLEST_SPREAD = 12, 5.0, 0.1
SIGMA = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
ROLES = re.compile("(train)(?:ing)?|(valid)(?:ation)?|(val)|(?<![a-z])(dev)(?![a-z])|(test)(?:ing)?", re.IGNORECASE)


def check_files(folder: Folder) -> Iterator[Finding]:
    """Rows without files, and files without rows or without each other."""
    images, at = folder.images, folder.at_images
    has_image, has_label, has_row = images["name"].notna(), images["has_label"], images["row"].notna()
    for row, missing in images[has_row & ~has_image].groupby("row"):
        message = "no such image; add it, correct baseimg or remove its rows"
        yield from at("image-missing", missing, "images/{base}.*", message, row=int(row))
    for row, missing in images[has_row & has_image & ~has_label].groupby("row"):
        message = "no such label image; add it or remove the image's rows"
        yield from at("label-image-missing", missing, "labels/{base}.png", message, row=int(row))
    # Where all rows can be used, an image without row has none
    lone = ~has_row & ~images["base"].isin(list(folder.unusable)) & (folder.text is not None)
    yield from at("orphan-label-image", images[lone & ~has_image], "labels/{base}.png", "has neither image nor rows")
    message = "has neither rows nor label image and is skipped; an empty image needs a label image of zeros"
    wanted = images["base"].isin([base for split in folder.splits for base in split.subsets])
    for severity, which in ((ERROR, wanted), (WARNING, ~wanted)):
        bare = images[lone & has_image & ~has_label & which]
        yield from at("not-annotated", bare, "images/{name}", message, severity=severity)


def check_pixels(folder: Folder) -> Iterator[Finding]:
    """Images and label images that cannot be used, or do not lie on each other."""
    images, at = folder.images, folder.at_images
    label, mode = "labels/{base}.png", images["mode"]
    yield from at("image-unreadable", images[images["error"].notna()], "images/{name}", "{error}")
    yield from at("label-image-unreadable", images[images["label_error"].notna()], label, "{label_error}")
    labelled, is_label = images["label_size"].notna(), images["particles"].notna()
    message = "its colours (mode {mode}) are no labels; write one value per particle as 16-bit grey PNG"
    yield from at("label-coloured", images[labelled & ~is_label], label, message)
    message = "has mode {mode}; save it as 16-bit grey PNG, for more than 255 particles"
    yield from at("label-not-uint16", images[is_label & (mode == "L")], label, message, severity=WARNING)
    yield from at("label-not-uint16", images[is_label & ~mode.isin(["L", *UINT16_MODES])], label, message)
    turned, alike = images["turned"], images["alike"]
    sizes = "label image {label_size[0]} x {label_size[1]} px (height x width), image {size[0]} x {size[1]}"
    message = f"lies as the pixels are stored, before the EXIF tag ({{orientation}}) turns them: {sizes}; turn it"
    yield from at("label-not-upright", images[turned], label, message)
    yield from at("size-differs", images[~alike & ~turned], label, f"has another size: {sizes}; replace one of them")
    rotated = images[images["size"].notna() & alike & (images["orientation"] != 1)]
    message = "its EXIF tag ({orientation}) turns or flips it; the label image must lie as a viewer shows the image"
    yield from at("exif-rotated", rotated, "images/{name}", message)


def check_csv_sizes(folder: Folder) -> Iterator[Finding]:
    """One finding per image, at the first wrong row; where the label image must be turned, that is the cause."""
    rows, sizes = folder.rows, folder.images["true_size"][~folder.images["turned"]].dropna()
    if {"height", "width"} <= set(rows):
        rows = rows[rows["baseimg"].isin(sizes.index)].dropna(subset=["height", "width"], how="all")
        rows["size"] = rows["baseimg"].map(sizes)
        fits = [rows[name].isna() | (rows[name] == rows["size"].str[i]) for i, name in enumerate(("height", "width"))]
        wrong = rows[~(fits[0] & fits[1])]
        wrong = wrong.assign(count=wrong.groupby("baseimg")["row"].transform("size")).drop_duplicates("baseimg")
        message = "height x width is {height:g} x {width:g} (rows: {count}), the image is {size[0]} x {size[1]} px"
        for cells in wrong.to_dict("records"):
            where = {"row": cells["row"], "image": cells["baseimg"]}
            yield folder.at("csv-size-wrong", CSV, message.format_map(cells), **where)


def check_rows(folder: Folder) -> Iterator[Finding]:
    """Rows against the pixels of their particles."""
    rows, at = folder.rows, folder.at_rows
    first, seen = rows["row"] == rows["first"], rows["seen"]
    yield from at("duplicate-row", rows[~first], "the same particle as row {first}")
    lost = rows[first & rows["compared"] & rows["pixel_area"].isna()]
    yield from at("row-without-pixels", lost, "the label has no pixel in the label image")
    areas = (rows["pixel_area"], rows["pixel_area"] - rows["small_pixels"], rows["body_area"])
    fits = rows["area"].isna() | np.any([abs(rows["area"] - area) < 1 for area in areas], axis=0)
    message = "area is {area:.10g} px, the label image has {pixel_area:.0f} px"
    yield from at("area-wrong", rows[seen & ~fits], message)
    message = "touches the border: its mass ({mass:g} g) may be that of a larger particle"
    yield from at("touches-border", rows[seen & rows["at_border"]], message)
    message = "has {parts:g} parts, {body_area:.0f} of its {pixel_area:.0f} px are in the largest"
    yield from at("disconnected", rows[seen & (rows["parts"] > 1)], message)
    message = "has {small_pixels:.0f} stray px (small components: {small:g})"
    yield from at("specks", rows[seen & (rows["small"] > 0)], message)
    tiny = rows[seen & (rows["pixel_area"] <= SMALL_PIXELS)]
    yield from at("tiny-particle", tiny, "is only {pixel_area:g} px large")


def check_extra(folder: Folder) -> Iterator[Finding]:
    """Particles without row: one finding per label image."""
    counts = folder.rows.loc[folder.rows["row"] == folder.rows["first"], "baseimg"].value_counts()
    for base, labels in folder.extra.items():
        named = ", ".join(map(str, labels[:10])) + (" ..." if len(labels) > 10 else "")
        particles = len(folder.images.at[base, "particles"])
        message = f"rows: {counts.get(base, 0)}, particles: {particles}; labels without row: {named}"
        if base in folder.misnamed:
            message += f"; perhaps those of {folder.misnamed[base]!r}, which is no image: correct baseimg"
        label = int(labels[0]) if len(labels) == 1 else None
        yield folder.at("pixels-without-row", f"labels/{base}.png", message, image=base, label=label)


def _box_fits(folder: Folder) -> pd.DataFrame:
    """Whether the box of a row is that of its pixels, or of its largest part, by convention."""
    rows = folder.rows[folder.rows["upright"] & folder.rows[list(BOX_COLUMNS)].notna().all(axis=1)]
    true = [rows[SIDES].to_numpy(float), rows[[f"body_{side}" for side in SIDES]].to_numpy(float)]
    fits = {
        name: np.any([(abs(rows[columns] - box) <= BOX_TOLERANCE).all(axis=1) for box in true], axis=0)
        for name, columns in CONVENTIONS.items()
    }
    return pd.DataFrame(fits, rows.index)


def convention(folder: Folder) -> str:
    """What the boxes of a folder mean by x, in words."""
    if not set(BOX_COLUMNS) <= set(folder.rows):
        return "no boxes"
    fits = _box_fits(folder)
    if fits.empty:
        return "no boxes to compare"
    shares = fits.mean()
    if shares.max() < CLEAR <= fits.any(axis=1).mean():
        return "mixed"
    return shares.idxmax() if shares.max() >= USABLE else "unusable"


def check_boxes(folder: Folder) -> Iterator[Finding]:
    """Boxes that do not follow the convention of the others, or none."""
    found = convention(folder)
    if found.startswith("no boxes"):
        return
    fits = _box_fits(folder)
    usual, either, rows = fits.mean().idxmax(), fits.any(axis=1), folder.rows.loc[fits.index]
    if found == "unusable":
        message = f"only {either.sum()} of {len(rows)} boxes fit the label images, which are used instead"
        yield folder.at("boxes-unusable", CSV, message)
        return
    swapped, wrong = rows[either & ~fits[usual]], rows[~either]
    if found == "mixed":
        message = f"{usual} in {fits[usual].sum()} boxes, the other way round in {len(swapped)}, from this row on"
        first = swapped.iloc[0]
        yield folder.at("boxes-mixed", CSV, message, row=int(first["row"]), image=first["baseimg"])
    else:
        yield from folder.at_rows("box-wrong", swapped, f"rows and columns are swapped: {usual}")
    true = [SIDES[CONVENTIONS[usual].index(name)] for name in BOX_COLUMNS]  # what x0, y0, x1, y1 should hold
    stated, said = (", ".join(f"{{{name}:.10g}}" for name in columns) for columns in (BOX_COLUMNS, true))
    yield from folder.at_rows("box-wrong", wrong, f"x0, y0, x1, y1 are {stated}; the pixels say {said}")


def check_classes(folder: Folder) -> Iterator[Finding]:
    """Rows whose class is not in the folder's class list, or in that of a split that names their image."""
    by_row: dict[int | None, Finding] = {}
    lists = [(split.class_names, f"the class list of {split.path.name}", split.subsets) for split in folder.splits]
    if folder.class_names is not None:
        lists.append((folder.class_names, "the class list", set(folder.rows["baseimg"])))
    for names, source, bases in lists:
        rows = folder.rows[folder.rows["baseimg"].isin(list(bases)) & (folder.rows["class"] != "")]
        unknown = rows[~rows["class"].isin(names)].assign(source=source, known=", ".join(names))
        found = folder.at_rows("unknown-class", unknown, "class {class!r} is not in {source} ({known})")
        by_row |= {each.row: each for each in found}
    yield from by_row.values()


def _usual_resolutions(folder: Folder) -> pd.Series:
    """Base name -> the most frequent resolution of its rows, px/mm."""
    resolutions = folder.rows.dropna(subset="res").groupby("baseimg")["res"]
    return resolutions.agg(lambda values: values.value_counts(sort=False).idxmax()).astype(float)


def _other_resolutions(folder: Folder) -> pd.DataFrame:
    """The rows whose resolution is another than that of their image."""
    rows = folder.rows.dropna(subset="res")
    expected = rows["baseimg"].map(_usual_resolutions(folder)).astype(float)
    return rows.assign(expected=expected)[~np.isclose(rows["res"], expected, rtol=1e-4)]


def _resolution_outliers(folder: Folder) -> pd.Series:
    """The resolutions that are far from those of the other images, or absurd."""
    usual = _usual_resolutions(folder)
    distance = np.log(usual / usual.median()).abs()
    far = distance > max(np.log(RESOLUTION_FACTOR), RESOLUTION_SPREADS * SIGMA * distance.median())
    if len(usual) < 3 or far.sum() > max(1, FEW * len(usual)):
        far &= False
    return usual[~usual.between(*RESOLUTION_LIMITS) | far]


def check_resolutions(folder: Folder) -> Iterator[Finding]:
    """Resolutions that differ within an image, are unknown, or are far from those of the other images."""
    message = "res is {res:g}, other rows of the image say {expected:g}"
    yield from folder.at_rows("several-resolutions", _other_resolutions(folder), message)
    median, rows = _usual_resolutions(folder).median(), folder.rows.dropna(subset="res")
    for base, resolution in _resolution_outliers(folder).items():
        row = rows.index[rows["baseimg"] == base][0]
        message = f"res is {resolution:g} px/mm, the median of all images {median:g}"
        yield folder.at("resolution-outlier", CSV, message, row=int(row), image=base)
    # An empty image has that of metadata.json, or that of the rows if all have the same
    if folder.text is not None and rows["res"].nunique() != 1:
        images, known = folder.images, [*folder.rows["baseimg"], *folder.unusable, *folder.resolutions]
        empty = images["name"].notna() & (images["particles"].str.len() == 0) & ~images["base"].isin(known)
        message = "an empty image of unknown resolution; add its file_name and res to metadata.json, under images"
        yield from folder.at_images("resolution-unknown", images[empty], "images/{name}", message)


def check_masses(folder: Folder) -> Iterator[Finding]:
    """Masses per area far from those of their class, as slips of the decimal point or of the unit make them.

    Particles at the border, which may be cut, and images whose resolution is doubtful are left out.
    """
    rows = folder.rows.dropna(subset=["mass", "res"])
    doubtful = [*_resolution_outliers(folder).index, *_other_resolutions(folder)["baseimg"]]
    rows = rows[rows["upright"] & ~rows["at_border"] & (rows["class"] != "") & ~rows["baseimg"].isin(doubtful)]
    density = rows["mass"] / (rows["pixel_area"] / rows["res"] ** 2) * 100  # g/cm2
    groups = np.log(density).groupby(rows["class"])
    deviation = np.log(density) - groups.transform("median")
    spread = (SIGMA * deviation.abs().groupby(rows["class"]).transform("median")).clip(lower=SMALLEST_SPREAD)
    rows = rows.assign(density=density, usual=density / np.exp(deviation), score=deviation.abs() / spread)
    far = (rows["score"] > MASS_SPREADS) & (groups.transform("size") >= SAMPLES)
    message = "{mass:g} g are {density:.3g} g/cm2, usual for {class} are {usual:.3g} (off by {score:.1f} spreads)"
    yield from folder.at_rows("mass-outlier", rows[far], message)


def check_subsets(folder: Folder) -> Iterator[Finding]:
    """Names of a split that are in two subsets or lead nowhere."""
    for path, _, subsets in folder.splits:
        path, root = path.resolve(), folder.path.resolve()
        file = str(path.relative_to(root) if path.is_relative_to(root) else path)
        for base, counts in sorted(subsets.items()):
            if base not in folder.images.index and base not in folder.unusable:
                message = f"names {base}, which the folder does not have"
                yield folder.at("split-picture-missing", file, message, image=base)
            for one, other in combinations(counts, 2):
                if _are_apart(one, other):
                    message = f"{base} is in {one} ({counts[one]}x) and in {other} ({counts[other]}x)"
                    yield folder.at("in-two-subsets", file, message, image=base)


def check_copies(folder: Folder) -> Iterator[Finding]:
    """Images with the pixels of another one, of this folder or of those checked before it."""
    copies: dict[str, list[tuple[Folder, str]]] = defaultdict(list)
    for each in [*folder.earlier, folder]:
        for base, digest in each.images["digest"].dropna().items():
            if each is folder and copies[digest]:
                yield _copy_finding((folder, base), copies[digest])
            copies[digest].append((each, base))


def _copy_finding(place: tuple[Folder, str], earlier: Sequence[tuple[Folder, str]]) -> Finding:
    """An error where a split has the image and one of its earlier copies in subsets that must be apart."""
    kind, named, like, message = "duplicate-picture", place, earlier[0], "has the same pixels as {}"
    for index, other in product(range(len(place[0].splits)), earlier):
        mine, its = (folder.splits[index].subsets.get(base, ()) for folder, base in (place, other))
        for one, two in product(mine, its):
            if kind == "duplicate-picture" and _are_apart(one, two):
                # The copy to name is the one that is not trained on: it is worth nothing there
                named, like = (other, place) if _role(one)[0] == "train" else (place, other)
                one, two = (two, one) if named == other else (one, two)
                kind, message = "copy-in-two-subsets", f"in {one}, has the same pixels as {{}} in {two}"
    file, other = (f"images/{folder.images.at[base, 'name']}" for folder, base in (named, like))
    other = other if like[0] is named[0] else str(like[0].path / other)
    return named[0].at(kind, file, message.format(other), image=named[1])


def _role(subset: str) -> tuple[str | None, str]:
    """ "train", "valid" or "test", and the rest of a subset's name: the fold, of several."""
    match = ROLES.search(subset)
    if match is None:
        return None, subset
    role = match[match.lastindex].lower()
    return "valid" if role in ("val", "dev") else role, subset[: match.start()] + subset[match.end() :]


def _are_apart(one: str, other: str) -> bool:
    """Whether two subsets may not share images: training and validation of one fold, and testing and everything."""
    (role, fold), (other_role, other_fold) = _role(one), _role(other)
    if None in (role, other_role) or role == other_role:
        return False
    return fold == other_fold or "test" in (role, other_role)


class Kind(NamedTuple):
    """What can be wrong: an error stops training or teaches something wrong, a warning is worth a look."""

    severity: str
    check: Callable[[Folder], Iterable[Finding]] | None  # None: found while reading
    explanation: str
    repairable: bool = False


KINDS = {
    # Files
    "image-missing": Kind(ERROR, check_files, "rows name an image that is not in images/"),
    "label-image-missing": Kind(ERROR, check_files, "an image has rows but no label image in labels/"),
    "orphan-label-image": Kind(WARNING, check_files, "a label image has neither image nor rows"),
    "not-annotated": Kind(WARNING, check_files, "an image has neither rows nor label image (error: a split names it)"),
    "same-base-name": Kind(ERROR, None, "two images differ only in their extension"),
    "image-unreadable": Kind(ERROR, check_pixels, "an image is truncated, no image, or of an unknown kind"),
    "label-image-unreadable": Kind(ERROR, check_pixels, "a label image is truncated or no image"),
    "csv-unreadable": Kind(ERROR, None, "annotations.csv is missing or no comma-separated table"),
    "json-unreadable": Kind(ERROR, None, "metadata.json, classes.json or a split file cannot be used"),
    # Images
    "exif-rotated": Kind(WARNING, check_pixels, "an image is turned by its EXIF tag: so must its label image be", True),
    "label-not-upright": Kind(ERROR, check_pixels, "an image is turned by its EXIF tag, its label image is not", True),
    "size-differs": Kind(ERROR, check_pixels, "image and label image have different sizes"),
    "csv-size-wrong": Kind(ERROR, check_csv_sizes, "height, width in annotations.csv are not those of the image", True),
    "label-not-uint16": Kind(ERROR, check_pixels, "a label image is not 16-bit grey (8-bit grey is a warning)", True),
    "label-coloured": Kind(ERROR, check_pixels, "a label image has colours, which are no labels"),
    # Rows
    "bad-row": Kind(ERROR, None, "a row of annotations.csv has more cells than the header"),
    "bad-value": Kind(ERROR, None, "a cell of annotations.csv cannot be used, or a column is missing"),
    "duplicate-row": Kind(ERROR, check_rows, "a second row for the same particle", True),
    "unknown-class": Kind(ERROR, check_classes, "a class is not in the class list"),
    "bad-resolution": Kind(ERROR, None, "the resolution is not a number above 0"),
    "several-resolutions": Kind(ERROR, check_resolutions, "rows of one image have different resolutions"),
    "resolution-unknown": Kind(ERROR, check_resolutions, "an image without rows has no resolution in metadata.json"),
    "resolution-outlier": Kind(WARNING, check_resolutions, "a resolution is far from that of other images, or absurd"),
    "bad-mass": Kind(ERROR, None, "a mass is 0, negative, infinite or no number"),
    "mass-outlier": Kind(WARNING, check_masses, "the mass per area is far from that of the particle's class"),
    # Rows against pixels
    "row-without-pixels": Kind(ERROR, check_rows, "a row's label has no pixel in the label image", True),
    "pixels-without-row": Kind(ERROR, check_extra, "particles of a label image have no row", True),
    "box-wrong": Kind(ERROR, check_boxes, "a row's box is not that of its pixels", True),
    "boxes-mixed": Kind(WARNING, check_boxes, "some boxes have rows in x0, x1, others columns", True),
    "boxes-unusable": Kind(WARNING, check_boxes, "most boxes fit the label images neither way round", True),
    "area-wrong": Kind(ERROR, check_rows, "a row's area is not the number of its pixels", True),
    "touches-border": Kind(WARNING, check_rows, "a particle touches the image's border: it may be cut"),
    "disconnected": Kind(WARNING, check_rows, "a particle has several parts"),
    "specks": Kind(WARNING, check_rows, "a particle has stray pixels away from its body", True),
    "tiny-particle": Kind(WARNING, check_rows, "a particle of a few pixels"),
    # Across images
    "in-two-subsets": Kind(ERROR, check_subsets, "a split names an image for training and for validation"),
    "copy-in-two-subsets": Kind(ERROR, check_copies, "the same pixels in two images, for training and for validation"),
    "duplicate-picture": Kind(WARNING, check_copies, "the same pixels under two names"),
    "split-picture-missing": Kind(ERROR, check_subsets, "a split names an image that its folder does not have"),
}


@dataclass(frozen=True)
class CheckReport:
    """All findings, by kind, folder, file and row, and the folders checked."""

    findings: list[Finding]
    folders: list[Folder]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(each.severity == ERROR for each in self.findings)

    def text(self, show: int = 10) -> str:
        """What was checked, how much of each kind was found, and of each kind the first `show` findings."""
        lines = [
            f"{each.path}: {len(each.image_files)} images, {len(each.rows)} rows, boxes: {convention(each)}"
            for each in self.folders
        ]
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for each in sorted(self.findings, key=lambda each: each.severity):
            groups[each.severity, each.kind].append(each)
        if not groups:
            return "\n".join([*lines, "nothing to complain about"])
        table = []
        for (severity, kind), found in groups.items():
            images = len({(each.folder, each.image) for each in found if each.image is not None})
            table.append((severity, kind, len(found), images or "", KINDS[kind].explanation))
        lines += ["", tabulate(table, headers=("", "kind", "count", "images", "meaning")), ""]
        for (severity, kind), found in groups.items():
            lines += [f"{severity}: {kind}", *(f"  {each}" for each in found[:show])]
            lines += [f"  ... and {len(found) - show} more"] * (len(found) > show)
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write the report as JSON; one that is there is replaced."""
        folders = [
            {"folder": str(each.path), "pictures": len(each.image_files), "rows": len(each.rows), "boxes": boxes}
            for each, boxes in zip(self.folders, map(convention, self.folders), strict=True)
        ]
        findings = [
            {"picture" if name == "image" else name: value for name, value in asdict(each).items()}
            for each in self.findings
        ]
        content = {"format": FORMAT, "version": VERSION, "errors": self.errors}
        content |= {"warnings": len(findings) - self.errors, "folders": folders, "findings": findings}
        write_json(Path(path), content, indent=1)


def check_folders(
    folders: Iterable[str | Path],
    *,
    split: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> CheckReport:
    """Check RAMSES folders; by default with the split.json and classes.json in each, and a thread per core."""
    if workers is not None and workers < 1:
        raise RamsesError(f"workers {workers}: give at least 1")
    paths = {Path(path).resolve(): Path(path) for path in folders}
    checked = [Folder(path, class_names) for path in paths.values()]
    for index, folder in enumerate(checked):
        folder.earlier = checked[:index]
    memberships = []
    if split is not None:
        memberships.append(read_memberships(Path(split), checked))
    else:
        for folder in checked:
            with folder.faults_kept(folder.path / "split.json"):
                if (folder.path / "split.json").is_file():
                    memberships.append(read_memberships(folder.path / "split.json", checked))
    for index, folder in enumerate(checked):
        folder.splits = [of_folders[index] for of_folders in memberships]
        folder.measure(workers, progress)
    checks = dict.fromkeys(kind.check for kind in KINDS.values() if kind.check is not None)
    findings = [finding for folder in checked for finding in folder.found]
    findings += [finding for check in checks for folder in checked for finding in check(folder)]
    findings = [replace(each, severity=each.severity or KINDS[each.kind].severity) for each in findings]
    order = {kind: index for index, kind in enumerate(KINDS)}
    findings.sort(key=lambda each: (order[each.kind], each.folder, each.file, each.row or 0, each.label or 0))
    return CheckReport(findings, checked)


def kinds_table() -> str:
    """All kinds with their severity and explanation."""
    rows = [(name, kind.severity, "yes" if kind.repairable else "", kind.explanation) for name, kind in KINDS.items()]
    return tabulate(rows, headers=("kind", "severity", "--fix", "meaning"))


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Stop before the work where the report could not be written after it."""
    if not path.parent.is_dir():
        raise RamsesError(f"{path.parent}: no such folder to write {path.name} to")
    check_output(path, force)
    try:
        is_foreign = path.exists() and read_json(path)["format"] != FORMAT
    except (RamsesError, LookupError, TypeError):
        is_foreign = True
    if is_foreign:
        raise RamsesError(f"{path} is not a report of a check: refusing to replace it")
