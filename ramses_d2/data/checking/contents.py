"""What a RAMSES folder holds, read as far as possible: its files, rows and pixels beside each other.

Every image is decoded once, and only numbers are kept.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ramses_d2.data import folder as reader
from ramses_d2.data.folder import BOX_COLUMNS, METADATA_NAME
from ramses_d2.data.images import open_image, read_image, read_label_image, stored_size
from ramses_d2.data.splits import is_original, read_split, split_class_names, split_subsets
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_names, read_json
from ramses_d2.masks import PARTICLE_COLUMNS, find_parts, measure_particles

CSV = "annotations.csv"
COLUMNS = ["label", "baseimg", "class", "res", "mass", "gt_mass", "area", "height", "width", *BOX_COLUMNS]
UINT16_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" is how older Pillows open a 16-bit PNG
MOST_WORKERS = 16  # each holds one decoded image and its label image


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which folder, file and row, and of which image (base name) and label."""

    kind: str
    severity: str  # "": that of its kind
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
        rows = pd.DataFrame({name: [] for name in COLUMNS[:7]})
        with self.faults_kept(path / CSV, "csv-unreadable"):
            self.text, rows = self._read_rows()
        rows["baseimg"] = base_names(rows["baseimg"], {*self.image_files, *self.label_files})
        usable = rows["label"].notna() & (rows["baseimg"] != "")
        self.rows = rows.loc[usable, [name for name in COLUMNS if name in rows]].astype({"label": "int64"})
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

    def at(self, kind: str, file: str, message: str, severity: str = "", **where: Any) -> Finding:
        """A finding in this folder."""
        return Finding(kind, severity, str(self.path), file, message, **where)

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
            columns = ["error", "size", "stored", "orientation", "digest"]
            columns += ["label_error", "mode", "label_size", "particles"]
            images = pd.DataFrame(list(bar), pd.Index(bases, dtype=object), columns, dtype=object)
        images["base"] = bases
        images["name"] = [self.image_files[base].name if base in self.image_files else None for base in bases]
        images["has_label"] = images["base"].isin(list(self.label_files))
        images["row"] = images["base"].map(self.rows.index.to_series().groupby(self.rows["baseimg"]).first())
        # Of one size, as far as is known; else perhaps the label image lies as the pixels of the image are stored
        readable, labelled = images["size"].notna(), images["label_size"].notna()
        images["alike"] = ~(readable & labelled) | (images["size"] == images["label_size"])
        images["turned"] = ~images["alike"] & (images["stored"] == images["label_size"])
        fits = images["alike"] | images["turned"]
        images["compared"] = images["particles"].notna() & fits
        images["true_size"] = images["size"].where(readable, images["label_size"]).where(fits)
        self.images = images

        # All particles that can be compared with rows, index = base name and label
        found = images["particles"][images["compared"]]
        values = np.concatenate([np.zeros((0, len(PARTICLE_COLUMNS)), np.int64), *found])
        keys = [found.index.repeat(found.str.len().astype(int)), values[:, 0]]
        index = pd.MultiIndex.from_arrays(keys, names=["baseimg", "label"])
        self.particles = pd.DataFrame(values[:, 1:], index, PARTICLE_COLUMNS[1:]).rename(columns={"area": "pixel_area"})

        rows = self.rows.assign(row=self.rows.index)
        rows["first"] = rows.groupby(["baseimg", "label"], sort=False)["row"].transform("first")
        rows = rows.join(self.particles, on=["baseimg", "label"])
        rows = rows.join(images[["compared", "turned", "label_size"]], on="baseimg")
        rows["seen"] = (rows["row"] == rows["first"]) & rows["compared"] & rows["pixel_area"].notna()
        rows["upright"] = rows["seen"] & ~rows["turned"]
        bottom, right = (rows["label_size"].str[axis].astype(float) for axis in (0, 1))
        begins = (rows["left"] <= 0) | (rows["top"] <= 0)
        rows["at_border"] = begins | (rows["right"] >= right) | (rows["bottom"] >= bottom)
        self.rows = rows

    @cached_property
    def extra(self) -> dict[str, np.ndarray]:
        """Base name -> labels without row; rows that cannot be used are taken to belong to some of them."""
        if self.text is None:
            return {}
        keys = pd.MultiIndex.from_frame(self.rows[["baseimg", "label"]])
        alone = self.particles.index[~self.particles.index.isin(keys)].to_frame(index=False)
        known = {*self.image_files, *self.rows["baseimg"]}
        return {
            base: labels.to_numpy()
            for base, labels in alone.groupby("baseimg", sort=False)["label"]
            if base in known and len(labels) > self.unusable[base] + self.unusable[""]
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
    for subset, names in split_subsets(content).items():
        for name in names:
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
