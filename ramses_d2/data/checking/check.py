"""Check RAMSES folders before hours of training are spent on them; nothing is changed.

A `Folder` is read as far as possible and every image decoded once; then the functions that the table KINDS names (at
the end of this file) compare files, rows, pixels, folders and subsets.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from io import StringIO
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from ramses_d2.data import folder as reader
from ramses_d2.data.folder import BOX_COLUMNS, CONVENTIONS, METADATA_NAME
from ramses_d2.data.images import open_image, read_image, read_label_image, stored_size
from ramses_d2.data.splits import is_original, read_split, split_class_names, subset_names
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, atomic_file, base_names, read_json
from ramses_d2.masks import PARTICLE_COLUMNS, SMALL_PIXELS, find_parts, measure_particles

FORMAT, VERSION = "ramses-check", 1
ERROR, WARNING = "error", "warning"
CSV = "annotations.csv"
UINT16_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" is how older Pillows open a 16-bit PNG
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
MOST_WORKERS = 16  # each holds one decoded image and its label image
ROLES = re.compile("(train)(?:ing)?|(valid)(?:ation)?|(val)|(?<![a-z])(dev)(?![a-z])|(test)(?:ing)?", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which folder, file and row, and of which image (base name) and label."""

    kind: str
    severity: str
    folder: str
    file: str
    message: str
    row: int | None = None
    image: str | None = None
    label: int | None = None

    def __str__(self) -> str:
        where = str(Path(self.folder) / self.file)
        if self.row is not None:
            where += f", row {self.row}" if self.file.endswith(".csv") else f" (row {self.row})"
        if self.label is not None:
            where += f", label {self.label}"
        if self.image is not None and Path(self.file).stem != self.image:
            where += f" of {self.image}"
        return f"{where}: {self.message}"


class Membership(NamedTuple):
    """The images of one folder that a split file names."""

    path: Path
    class_names: list[str]
    subsets: dict[str, Counter[str]]  # base name, also one that the folder lacks -> subset -> how often


class Folder:
    """A RAMSES folder read as far as possible; what is wrong with the reading is in `found`."""

    def __init__(self, path: Path, class_names: Sequence[str] | None = None) -> None:
        if not path.is_dir():
            raise RamsesError(f"{path}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/")
        if not (path / CSV).exists() and not (path / "images").is_dir():
            raise RamsesError(f"{path}: neither annotations.csv nor images/ is in it; name a RAMSES folder")
        self.path = path
        self.found: list[Finding] = []
        self.splits: list[Membership] = []
        self.earlier: list[Folder] = []  # checked before this one
        self.class_names = None if class_names is None else list(class_names)
        self.label_files = {file.stem: file for file in sorted((path / "labels").glob("*.png"))}
        self.image_files: dict[str, Path] = {}
        for file in sorted((path / "images").glob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                first = self.image_files.setdefault(file.stem, file)
                if first != file:
                    message = f"{first.name} has the same base name; rename one"
                    self.found.append(self.at("same-base-name", f"images/{file.name}", message, image=file.stem))

        # The cells of annotations.csv as text, index = row, but for rows with more cells than the header
        self.text: pd.DataFrame | None = None
        self.surplus: dict[int, list[str]] = {}
        rows = pd.DataFrame({name: [] for name in ("label", "baseimg", "class", "res", "mass", "area", "gt_mass")})
        with self.faults_kept(path / CSV, "csv-unreadable"):
            self.text, rows = self._read_rows()
        rows["baseimg"] = base_names(rows["baseimg"], {*self.image_files, *self.label_files})
        usable = rows["label"].notna() & (rows["baseimg"] != "")
        self.rows = rows[usable].astype({"label": "int64"})
        # Number of other rows by base name; "" for those that do not name an image
        self.unusable = Counter(rows["baseimg"][~usable].tolist() + [""] * len(self.surplus))

        file = path / "classes.json"
        with self.faults_kept(file):
            if class_names is None and file.is_file():
                self.class_names = reader.class_names_from_ids(read_json(file), file)
        self.resolutions: dict[str, float] = {}  # px/mm, from metadata.json
        with self.faults_kept(path / METADATA_NAME):
            for base, entry in reader.image_entries(path).items():
                value = entry.get("res")
                if isinstance(value, (int, float)) and 0 < value < math.inf:
                    self.resolutions[base] = float(value)
                elif value is not None:
                    message = f"res is {value!r}; write the resolution in px per mm, above 0, or null"
                    self.found.append(self.at("bad-resolution", METADATA_NAME, message, image=base))

    @contextmanager
    def faults_kept(self, path: Path, kind: str = "json-unreadable") -> Iterator[None]:
        """Keep the error of a reader as a finding."""
        try:
            yield
        except RamsesError as error:
            self.found.append(self.at(kind, path.name, str(error).removeprefix(f"{path}: ")))

    def _read_rows(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """annotations.csv as text and as table, with all its faults kept as findings.

        A value that cannot be used is NaN, "" or False; `label` is float.
        """
        path = self.path / CSV
        try:
            text = reader.read_text_table(path)
        except RamsesError:
            lines: list[list[str]] = []
            with suppress(OSError, UnicodeDecodeError, csv.Error), path.open(encoding="utf-8-sig", newline="") as file:
                lines = list(csv.reader(file))
            surplus = {row: cells for row, cells in enumerate(lines, start=1) if len(cells) > len(lines[0])}
            if not surplus:
                raise
            kept = StringIO()
            # A blank line in their place keeps the numbers of the rows behind
            csv.writer(kept).writerows([] if row in surplus else cells for row, cells in enumerate(lines, start=1))
            text, self.surplus = reader.read_text_table(path, kept.getvalue()), surplus
        missing = reader.missing_columns(text)
        if {"label", "baseimg"} & set(missing):
            raise RamsesError(f"{path}: column {', '.join(missing)} is missing; add it, see datasets/README.md")
        faults = {(None, name): f"column {name} is missing; add it" for name in missing}
        for row, cells in self.surplus.items():
            faults[row, ""] = f"has {len(cells)} cells, the header has {text.shape[1]}; write numbers with a point"

        def collect(wrong: pd.Series, column: pd.Series, remedy: str) -> None:
            for row, value in column[wrong].items():
                if column.name not in missing:  # the first reason counts: "x" is no number, and so no label either
                    faults.setdefault((row, column.name), reader.describe_value(column.name, value, remedy))

        table = reader.convert_columns(text.assign(**dict.fromkeys(missing, "")), collect)
        kinds = {"": "bad-row", "res": "bad-resolution", "mass": "bad-mass"}
        for (row, column), message in sorted(faults.items(), key=lambda fault: fault[0][0] or 0):
            cells = table.loc[row] if row in table.index else {}
            label, image = cells.get("label", math.nan), cells.get("baseimg") or None
            where = {"row": row, "image": image, "label": None if math.isnan(label) else int(label)}
            self.found.append(self.at(kinds.get(column, "bad-value"), CSV, message, **where))
        return text, table

    def at(self, kind: str, file: str, message: str, severity: str | None = None, **where: Any) -> Finding:
        """A finding in this folder, with the severity of its kind unless another is given."""
        return Finding(kind, severity or KINDS[kind].severity, str(self.path), file, message, **where)

    def at_rows(self, kind: str, rows: pd.DataFrame, message: str) -> Iterator[Finding]:
        """One finding for each of the rows, whose cells fill the message in."""
        for row, cells in zip(rows.index.tolist(), rows.to_dict("records"), strict=True):
            where = {"row": row, "image": cells["baseimg"], "label": int(cells["label"])}
            yield self.at(kind, CSV, message.format_map(cells), **where)

    def at_images(self, kind: str, images: pd.DataFrame, file: str, message: str, **more: Any) -> Iterator[Finding]:
        """One finding for each of the images, whose cells fill file and message in."""
        for cells in images.to_dict("records"):
            yield self.at(kind, file.format_map(cells), message.format_map(cells), image=cells["base"], **more)

    def measure(self, workers: int | None = None, progress: bool = False) -> None:
        """Decode the images, several at a time; set `images` and `particles`, and beside `rows` what pixels say.

        Threads do it: decoding, hashing and numpy release Python's lock, and nothing has to start or be copied.
        """
        bases = sorted({*self.image_files, *self.label_files, *self.rows["baseimg"].unique()})
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(workers or min(cores, MOST_WORKERS)) as pool:
            stats = pool.map(lambda base: _stats(self.image_files.get(base), self.label_files.get(base)), bases)
            bar = tqdm(stats, total=len(bases), desc="checking", unit="image", disable=None if progress else True)
            self._set_images(bases, list(bar))
        # label, baseimg, ... of every particle that can be compared with rows
        particles = self.images["particles"][self.images["compared"]]
        values = np.concatenate([np.zeros((0, len(PARTICLE_COLUMNS)), np.int64), *particles])
        keys = [particles.index.repeat(particles.str.len().astype(int)), values[:, 0]]
        index = pd.MultiIndex.from_arrays(keys, names=["baseimg", "label"])
        self.particles = pd.DataFrame(values[:, 1:], index, PARTICLE_COLUMNS[1:]).rename(columns={"area": "pixel_area"})

        rows = self.rows.assign(row=self.rows.index)
        rows["first"] = rows.groupby(["baseimg", "label"], sort=False)["row"].transform("first")
        rows = rows.join(self.particles, on=["baseimg", "label"])
        rows = rows.join(self.images[["compared", "turned", "label_size"]], on="baseimg")
        rows["seen"] = (rows["row"] == rows["first"]) & rows["compared"] & rows["pixel_area"].notna()
        rows["upright"] = rows["seen"] & ~rows["turned"]
        bottom, right = (rows["label_size"].str[axis].astype(float) for axis in (0, 1))
        rows["at_border"] = (
            (rows[["left", "top"]] <= 0).any(axis=1) | (rows["right"] >= right) | (rows["bottom"] >= bottom)
        )
        self.rows = rows

    def _set_images(self, bases: list[str], stats: list[dict[str, Any]]) -> None:
        """One row per base name, with the stats of its files and whether they fit each other."""
        columns = ["error", "size", "stored", "orientation", "digest", "label_error", "mode", "label_size", "particles"]
        images = pd.DataFrame(stats, index=pd.Index(bases, dtype=object), columns=columns, dtype=object)
        images["base"] = bases
        images["name"] = [self.image_files[base].name if base in self.image_files else None for base in bases]
        images["has_label"] = images["base"].isin(list(self.label_files))
        images["row"] = images["base"].map(self.rows.index.to_series().groupby(self.rows["baseimg"]).first())
        readable, labelled = images["size"].notna(), images["label_size"].notna()
        # Of one size, as far as is known; else perhaps the label image lies as the pixels of the image are stored
        images["alike"] = ~(readable & labelled) | (images["size"] == images["label_size"])
        images["turned"] = ~images["alike"] & (images["stored"] == images["label_size"])
        fits = images["alike"] | images["turned"]
        images["compared"] = images["particles"].notna() & fits
        images["true_size"] = images["size"].where(readable, images["label_size"]).where(fits)
        self.images = images

    @cached_property
    def extra(self) -> dict[str, np.ndarray]:
        """Base name -> labels without row; rows that cannot be used are taken to belong to some of them."""
        if self.text is None:
            return {}
        keys = pd.MultiIndex.from_frame(self.rows[["baseimg", "label"]])
        alone = self.particles.index[~self.particles.index.isin(keys)].to_frame(index=False)
        known = {*self.image_files, *self.rows["baseimg"]}
        excused = self.unusable[""]
        return {
            base: labels.to_numpy()
            for base, labels in alone.groupby("baseimg", sort=False)["label"]
            if base in known and len(labels) > excused + self.unusable[base]
        }

    @cached_property
    def misnamed(self) -> dict[str, str]:
        """Base name -> a name in the rows that no file has, and all of whose labels are among the image's extra ones.

        The rows are probably the image's, under a mistyped name, and then its pixels are no mistake.
        """
        lost = self.rows[~self.rows["baseimg"].isin([*self.image_files, *self.label_files])]
        return {
            base: name
            for name, labels in reversed(list(lost.groupby("baseimg", sort=False)["label"]))
            for base, others in self.extra.items()
            if labels.isin(others).all()
        }

    @cached_property
    def box_fits(self) -> pd.DataFrame:
        """Whether the box of a row is that of its pixels, or of its largest part, by convention."""
        seen = self.rows[self.rows["upright"] & self.rows[list(BOX_COLUMNS)].notna().all(axis=1)]
        true = [seen[SIDES].to_numpy(float), seen[[f"body_{side}" for side in SIDES]].to_numpy(float)]
        fits = {
            name: np.any([(abs(seen[columns] - box) <= BOX_TOLERANCE).all(axis=1) for box in true], axis=0)
            for name, columns in CONVENTIONS.items()
        }
        return pd.DataFrame(fits, index=seen.index)

    @cached_property
    def convention(self) -> str:
        """What the boxes mean by x, in words."""
        if not set(BOX_COLUMNS) <= set(self.rows):
            return "no boxes"
        if self.box_fits.empty:
            return "no boxes to compare"
        shares, either = self.box_fits.mean(), self.box_fits.any(axis=1).mean()
        if shares.max() < CLEAR <= either:
            return "mixed"
        return shares.idxmax() if shares.max() >= USABLE else "unusable"

    @cached_property
    def usual_resolution(self) -> pd.Series:
        """Base name -> the most frequent resolution of its rows, px/mm."""
        resolutions = self.rows.dropna(subset="res").groupby("baseimg")["res"]
        return resolutions.agg(lambda values: values.value_counts(sort=False).idxmax()).astype(float)

    @cached_property
    def resolution_outliers(self) -> list[str]:
        """Base names of images whose resolution is far from that of the others, or absurd."""
        usual = self.usual_resolution
        distance = np.log(usual / usual.median()).abs()
        far = distance > max(np.log(RESOLUTION_FACTOR), RESOLUTION_SPREADS * SIGMA * distance.median())
        if len(usual) < 3 or far.sum() > max(1, FEW * len(usual)):
            far &= False
        return usual.index[~usual.between(*RESOLUTION_LIMITS) | far].tolist()

    @cached_property
    def other_resolutions(self) -> pd.DataFrame:
        """The rows whose resolution is another than that of their image."""
        rows = self.rows.dropna(subset="res")
        expected = rows["baseimg"].map(self.usual_resolution).astype(float)
        return rows.assign(expected=expected)[~np.isclose(rows["res"], expected, rtol=1e-4)]


def _stats(image: Path | None, label: Path | None) -> dict[str, Any]:
    """What is known of an image and its label image: faults, or sizes (H, W), orientation, digest and particles."""
    stats: dict[str, Any] = {}
    try:
        if image is not None:
            pixels = read_image(image)
            digest = hashlib.blake2b(pixels, digest_size=16)
            digest.update(repr(pixels.shape).encode())
            stats["orientation"] = stored_size(image)[1]
            stats |= {"size": pixels.shape[:2], "digest": digest.hexdigest()}
            stats["stored"] = stats["size"][::-1] if stats["orientation"] >= 5 else stats["size"]
    except RamsesError as error:
        stats["error"] = str(error).removeprefix(f"{image}: ")
    try:
        if label is not None:
            label_map, stats["mode"], size = read_any_labels(label)
            stats["particles"] = None if label_map is None else measure_particles(find_parts(label_map))
            stats["label_size"] = size
    except RamsesError as error:
        stats["label_error"] = str(error).removeprefix(f"{label}: ")
    return stats


def read_any_labels(path: Path) -> tuple[np.ndarray | None, str, tuple[int, int]]:
    """Labels (H, W) of an image of any mode, None if its colours are no labels; Pillow's mode; (H, W)."""
    with open_image(path) as image:
        mode, size = image.mode, (image.height, image.width)
        if mode in ("L", *UINT16_MODES):
            return read_label_image(path), mode, size
        pixels = np.asarray(image)
    if pixels.ndim == 3:
        colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]  # the last of 2 or 4 is alpha
        if (colours != colours[..., :1]).any():
            return None, mode, size
        pixels = colours[..., 0]
    if pixels.dtype.kind == "f" and not ((pixels >= 0) & (pixels <= 65535) & (pixels % 1 == 0)).all():
        return None, mode, size
    return pixels.astype(np.int32), mode, size


def read_memberships(path: Path, folders: Sequence[Folder]) -> list[Membership]:
    """What a split file, ours or the original's, says of each of the folders."""
    content = read_split(path)
    original = is_original(content)
    places = {folder.path.resolve(): index for index, folder in enumerate(folders)}
    roots = {} if original else content["folders"]
    indices = {key: places.get((path.parent / root).resolve()) for key, root in roots.items()}
    subsets: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in folders]
    for subset in subset_names(path):
        for name in (content if original else content["subsets"])[subset]:
            key, slash, base = name.partition("/")
            if original:  # a base name alone, of whichever folder has it
                found = [(index, name) for index, folder in enumerate(folders) if name in folder.image_files]
            elif not slash or key not in roots:
                raise RamsesError(f"{path}: image {name!r} is in none of its folders; write <folder key>/<base name>")
            else:
                found = [(indices[key], base)] if indices[key] is not None else []
            for index, base in found:
                subsets[index][base][subset] += 1
    return [Membership(path, split_class_names(path), dict(of_folder)) for of_folder in subsets]


# The checks


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
    message = (
        "its EXIF tag ({orientation}) turns the image to {size[0]} x {size[1]} px (height x width), the label image "
        "lies as the pixels are stored, {label_size[0]} x {label_size[1]}; turn it or save the image upright"
    )
    yield from at("label-not-upright", images[turned], label, message)
    message = (
        "is {label_size[0]} x {label_size[1]} px (height x width), the image {name} {size[0]} x {size[1]}; replace one"
    )
    yield from at("size-differs", images[~alike & ~turned], label, message)
    rotated = images[images["size"].notna() & alike & (images["orientation"] != 1)]
    message = (
        "its EXIF tag ({orientation}) turns or flips it; see that the label image lies as a viewer shows the image"
    )
    yield from at("exif-rotated", rotated, "images/{name}", message)


def check_csv_sizes(folder: Folder) -> Iterator[Finding]:
    """One finding per image, at the first wrong row; where the label image must be turned, that is the cause."""
    rows, sizes = folder.rows, folder.images["true_size"][~folder.images["turned"]].dropna()
    if {"height", "width"} <= set(rows):
        rows = rows[rows["baseimg"].isin(sizes.index)]
        rows = rows.assign(true_size=rows["baseimg"].map(sizes))
        for axis, name in enumerate(("height", "width")):
            rows[f"{name}_fits"] = rows[name].isna() | (rows[name] == rows["true_size"].str[axis])
        wrong = rows[~(rows["height_fits"] & rows["width_fits"])]
        wrong = wrong.assign(count=wrong.groupby("baseimg")["row"].transform("size"), label=-1)
        message = (
            "height x width is {height:g} x {width:g} (rows: {count}), the image is {true_size[0]} x {true_size[1]} px"
        )
        for finding in folder.at_rows("csv-size-wrong", wrong.drop_duplicates("baseimg"), message):
            yield replace(finding, label=None)


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


def check_boxes(folder: Folder) -> Iterator[Finding]:
    """Boxes that do not follow the convention of the others, or none."""
    if folder.convention.startswith("no boxes"):
        return
    fits = folder.box_fits
    usual = fits.mean().idxmax()
    either, rows = fits.any(axis=1), folder.rows.loc[fits.index]
    swapped, wrong = rows[either & ~fits[usual]], rows[~either]
    if folder.convention == "unusable":
        message = f"only {either.sum()} of {len(rows)} boxes fit the label images, which are used instead"
        yield folder.at("boxes-unusable", CSV, message)
        return
    if folder.convention == "mixed":
        base, number = swapped["baseimg"].iloc[0], swapped["baseimg"].nunique()
        message = (
            f"in {fits[usual].sum()} boxes {usual}, in {len(swapped)} of {number} images the other way round, "
            f"from this row on"
        )
        yield folder.at("boxes-mixed", CSV, message, row=int(swapped.index[0]), image=base)
    else:
        yield from folder.at_rows("box-wrong", swapped, f"rows and columns are swapped: {usual}")
    names = CONVENTIONS[usual if folder.convention != "mixed" else next(iter(CONVENTIONS))]
    true = [SIDES[names.index(name)] for name in BOX_COLUMNS]  # what x0, y0, x1, y1 should hold
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


def check_resolutions(folder: Folder) -> Iterator[Finding]:
    """Resolutions that differ within an image, are unknown, or are far from those of the other images."""
    message = "res is {res:g}, other rows of the image say {expected:g}"
    yield from folder.at_rows("several-resolutions", folder.other_resolutions, message)
    usual = folder.usual_resolution
    rows = folder.rows.dropna(subset="res").drop_duplicates("baseimg").set_index("baseimg")["row"]
    for base in folder.resolution_outliers:
        message = f"res is {usual[base]:g} px/mm, the median of all images {usual.median():g}"
        yield folder.at("resolution-outlier", CSV, message, row=int(rows[base]), image=base)
    # An empty image has that of metadata.json, or that of the rows if all have the same
    if folder.text is not None and folder.rows["res"].nunique() != 1:
        images = folder.images
        known = [*folder.rows["baseimg"], *folder.unusable, *folder.resolutions]
        empty = images["name"].notna() & (images["particles"].str.len() == 0) & ~images["base"].isin(known)
        message = "an empty image of unknown resolution; add its file_name and res to metadata.json, under images"
        yield from folder.at_images("resolution-unknown", images[empty], "images/{name}", message)


def check_masses(folder: Folder) -> Iterator[Finding]:
    """Masses per area far from those of their class, as slips of the decimal point or of the unit make them.

    Particles at the border, which may be cut, and images whose resolution is doubtful are left out.
    """
    rows = folder.rows[folder.rows["upright"] & ~folder.rows["at_border"] & (folder.rows["class"] != "")]
    doubtful = [*folder.resolution_outliers, *folder.other_resolutions["baseimg"]]
    rows = rows.dropna(subset=["mass", "res"])[lambda table: ~table["baseimg"].isin(doubtful)]
    density = rows["mass"] / (rows["pixel_area"] / rows["res"] ** 2) * 100  # g/cm2
    groups = np.log(density).groupby(rows["class"])
    deviation = np.log(density) - groups.transform("median")
    spread = (SIGMA * deviation.abs().groupby(rows["class"]).transform("median")).clip(lower=SMALLEST_SPREAD)
    rows = rows.assign(density=density, usual=density / np.exp(deviation), score=deviation.abs() / spread)
    far = (rows["score"] > MASS_SPREADS) & (groups.transform("size") >= SAMPLES)
    message = (
        "{mass:g} g are {density:.3g} g/cm2, usual for {class} are {usual:.3g} ({score:.1f} times the spread away)"
    )
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

    def finding(kind: str, named: tuple[Folder, str], like: tuple[Folder, str], message: str) -> Finding:
        file, other = (f"images/{folder.images.at[base, 'name']}" for folder, base in (named, like))
        other = other if like[0] is named[0] else str(like[0].path / other)
        return named[0].at(kind, file, message.format(other), image=named[1])

    folder, base = place
    for number, split in enumerate(folder.splits):
        for other in earlier:
            its_subsets = other[0].splits[number].subsets.get(other[1], ())
            for mine, its in product(split.subsets.get(base, ()), its_subsets):
                if _are_apart(mine, its) and _role(mine)[0] == "train":
                    # The copy to name is the one that is not trained on: it is worth nothing there
                    return finding("copy-in-two-subsets", other, place, f"in {its}, has the pixels of {{}} in {mine}")
                if _are_apart(mine, its):
                    return finding("copy-in-two-subsets", place, other, f"in {mine}, has the pixels of {{}} in {its}")
    return finding("duplicate-picture", place, earlier[0], "has the same pixels as {}")


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
            f"{each.path}: {len(each.image_files)} images, {len(each.rows)} rows, boxes: {each.convention}"
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
            {
                "folder": str(each.path),
                "pictures": len(each.image_files),
                "rows": len(each.rows),
                "boxes": each.convention,
            }
            for each in self.folders
        ]
        findings = [
            {"picture" if name == "image" else name: value for name, value in asdict(each).items()}
            for each in self.findings
        ]
        content = {"format": FORMAT, "version": VERSION, "errors": self.errors}
        content |= {"warnings": len(findings) - self.errors, "folders": folders, "findings": findings}
        with atomic_file(Path(path)) as stream:
            stream.write(json.dumps(content, indent=1) + "\n")


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
    findings = [finding for folder in checked for finding in folder.found]
    for check in dict.fromkeys(kind.check for kind in KINDS.values() if kind.check is not None):
        findings += [finding for folder in checked for finding in check(folder)]
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
    if not path.exists():
        return
    if not force:
        raise RamsesError(f"{path} already exists: choose another name or replace it with --force")
    try:
        is_report = read_json(path)["format"] == FORMAT
    except (RamsesError, LookupError, TypeError):
        is_report = False
    if not is_report:
        raise RamsesError(f"{path} is no report of a check: refusing to replace it")
