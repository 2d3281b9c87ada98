"""What every format is read into and written from: images with a label map and a table of objects, one at a time.

A reader returns a `Source`, a writer takes the images out of it; what is written gets its name when it is complete.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ramses_d2.data.folder import MAX_LABEL
from ramses_d2.data.images import decode, stored_size, turn_upright
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, OwnFolder, folder_swap, write_json
from ramses_d2.masks import PARTICLE_COLUMNS, find_parts, measure_particles

BOX_COLUMNS = ("left", "top", "right", "bottom")
IMAGE_MODES = ("copy", "link", "none")
CONVERSION = OwnFolder("converted data set", "conversion.json", "ramses-conversion")


@dataclass
class SourceImage:
    """One image on its way from one format to another.

    `objects` has one row per object with `label` and `class`, and where known `mass` (g), `gt_mass` and further numeric
    columns. What iterating a Source yields is sorted by label and always has the masses (NaN, False = unknown), `area`
    (px) and the box `left top right bottom` (px, end exclusive).
    """

    name: str  # base name, unique in the data set
    path: Path
    label_map: np.ndarray  # integer (H, W) of the upright image, 0 = background
    objects: pd.DataFrame
    resolution: float = np.nan  # px/mm, NaN = unknown
    details: dict[str, Any] = field(default_factory=dict)  # further entries of metadata.json (camera, date ...)

    def place(self, folder: Path, mode: str) -> str:
        """Copy or link the image into a folder ("copy", "link", "none") under its base name; returns its file name."""
        if mode not in IMAGE_MODES:
            raise RamsesError(f"images {mode!r}: choose from {', '.join(IMAGE_MODES)}")
        target = folder / f"{self.name}{self.path.suffix}"
        try:
            if mode == "copy":
                shutil.copyfile(self.path, target)
            if mode == "link":
                target.symlink_to(self.path.resolve())
        except OSError as error:
            raise RamsesError(f"{target}: cannot {mode} {self.path} ({error.strerror})") from None
        return target.name


@dataclass
class Source:
    """A data set that is being read; iterating it yields checked images and fills the notes."""

    origin: str  # what is read, for messages
    classes: list[str]  # in their order
    images: Iterable[SourceImage]  # as their format gives them, read when asked for
    count: int
    batches: list[dict[str, Any]] = field(default_factory=list)  # as in metadata.json
    notes: Counter[str] = field(default_factory=Counter)  # what was changed or left out, and how often
    findings: list[dict[str, Any]] = field(default_factory=list)  # remarks on images, for the report
    resolution: float = np.nan  # px/mm of images whose format does not say it

    def __iter__(self) -> Iterator[SourceImage]:
        for image in self.images:
            resolution = self.resolution if np.isnan(image.resolution) else image.resolution
            yield _checked(replace(image, resolution=resolution), self.notes)


def _checked(image: SourceImage, notes: Counter[str]) -> SourceImage:
    """The image with an upright label map of 16-bit values, exactly one row per object, areas and boxes."""
    label_map = _upright(image.label_map, image.path, notes)
    objects = image.objects.assign(
        mass=image.objects.get("mass", np.nan), gt_mass=image.objects.get("gt_mass", False)
    ).astype({"label": np.int64, "mass": float, "gt_mass": bool})
    wrong = objects["mass"][(objects["mass"] <= 0) | np.isinf(objects["mass"])]
    if len(wrong):
        raise RamsesError(f"{image.path}: a mass of {wrong.iloc[0]:g} g; masses are above 0, or unknown")
    measured = pd.DataFrame(measure_particles(find_parts(label_map))[:, :6], columns=PARTICLE_COLUMNS[:6])
    unseen, unnamed = ~objects["label"].isin(measured["label"]), ~measured["label"].isin(objects["label"])
    if unseen.any():
        notes["objects without a pixel left out"] += int(unseen.sum())
    objects = measured.merge(objects.drop(columns=measured.columns[1:], errors="ignore"), on="label")
    if len(objects) > MAX_LABEL:
        raise RamsesError(f"{image.path}: {len(objects)} objects; a 16-bit label image holds at most {MAX_LABEL}")
    new_labels = objects["label"].to_numpy()
    if new_labels.max(initial=0) > MAX_LABEL:
        new_labels = np.arange(1, len(objects) + 1)
        notes[f"images renumbered because of labels above {MAX_LABEL}"] += 1
    if unnamed.any():
        notes["label values without a class turned into background"] += int(unnamed.sum())
    # Without a table as long as the highest value, which may have 32 bits
    present = np.r_[0, measured["label"]]
    renumbered = np.zeros_like(present)
    renumbered[np.searchsorted(present, objects["label"])] = new_labels
    if (renumbered != present).any():
        label_map = renumbered[np.searchsorted(present, label_map)]
    return replace(image, label_map=label_map.astype(np.int32), objects=objects.assign(label=new_labels))


def _upright(label_map: np.ndarray, path: Path, notes: Counter[str]) -> np.ndarray:
    """Turn a label map that was drawn on the unturned pixels of an image with an EXIF orientation.

    Where both sizes agree (turned by 180 degrees, mirrored, square) it is taken to be upright, as annotation programs
    show images.
    """
    stored, orientation = stored_size(path)
    shown = stored[::-1] if orientation >= 5 else stored
    if label_map.shape == shown:
        return label_map
    if label_map.shape == stored:
        notes["label maps turned as the EXIF orientation of their image says"] += 1
        return turn_upright(label_map, orientation)
    sizes = "is {} x {} px (height x width), its annotations are for {} x {}".format(*shown, *label_map.shape)
    raise RamsesError(f"{path}: {sizes}; replace one of them")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Base names for images of one flat folder: the file's, with its folders in front where that is ambiguous."""
    stems = Counter(path.stem for path in paths)
    names = [
        path.stem if stems[path.stem] == 1 else "_".join((*path.parts[:-1], path.stem)).strip("_./") for path in paths
    ]
    for name, count in Counter(names).items():
        if count > 1:
            twice = " and ".join(str(path) for path, other in zip(paths, names, strict=True) if other == name)
            raise RamsesError(f"images {twice} would both become {name!r}; rename one")
    return names


def index_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Base name -> file, for the files of a folder with one of the suffixes."""
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in files:
                raise RamsesError(f"{path}: a second file with the base name of {files[path.stem].name}; rename one")
            files[path.stem] = path
    return files


def read_index_image(path: Path) -> np.ndarray:
    """int64 (H, W) >= 0 of an image whose pixels are whole numbers or, in a palette image, palette indices."""
    values = np.asarray(decode(path))
    if values.ndim != 2 or values.dtype.kind not in "biu":
        kind = f"{values.dtype} of shape {' x '.join(map(str, values.shape))}"
        raise RamsesError(f"{path}: a label image has one channel of whole numbers or a palette, this is {kind}")
    if values.astype(np.int64).min(initial=0) < 0:
        raise RamsesError(f"{path}: the label image has negative values; labels are 0 (background) or more")
    return values.astype(np.int64)


@dataclass
class ConversionReport:
    """What a conversion did."""

    origin: str
    output: Path
    target: str
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)  # per class, unused ones included
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    uri: str | None = None  # for a config; None if the result cannot be trained on

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        classes = ", ".join(f"{name} {count}" for name, count in self.objects.items())
        lines = [f"wrote {self.images} images, {sum(self.objects.values())} objects ({classes}) to {self.output}"]
        lines += [f"  {count} {note}" for note, count in self.notes.items() if count]
        return lines + ([f"  use {self.uri}"] if self.uri else [])

    def to_json(self) -> dict[str, Any]:
        """The report as conversion.json has it."""
        notes = {note: count for note, count in self.notes.items() if count}
        values = {"source": self.origin, "target": self.target, "pictures": self.images, "objects": dict(self.objects)}
        return values | {"notes": notes, "findings": self.findings}

    def count(self, source: Source, progress: bool = False) -> Iterator[SourceImage]:
        """The images of the source, counted; notes and findings follow after the last one."""
        self.objects.update(dict.fromkeys(source.classes, 0))
        bar = tqdm(source, total=source.count, desc="converting", unit="image", disable=None if progress else True)
        for image in bar:
            self._check_outside(image.path)
            self.images += 1
            self.objects.update(image.objects["class"].tolist())
            yield image
        self.notes.update(source.notes)
        self.findings.extend(source.findings)

    @contextmanager
    def new_folder(self, force: bool) -> Iterator[Path]:
        """A folder to fill, which becomes the output with conversion.json in it; removed on failure."""
        CONVERSION.check_replaceable(self.output, force)
        self._check_outside(Path(self.origin))
        with folder_swap(self.output) as folder:
            yield folder
            content = self.to_json() | CONVERSION.entries()
            write_json(folder / CONVERSION.marker, content, indent=1, ensure_ascii=False)

    def _check_outside(self, path: Path) -> None:
        """What is read must not lie in the folder that is to be replaced, nor be a link that does."""
        if self.output.is_dir() and path.exists():  # the URI of a data set is no path
            places = path.resolve(), path.parent.resolve() / path.name
            if any(place.is_relative_to(self.output.resolve()) for place in places):
                raise RamsesError(f"{self.output} holds what is to be converted ({path}): choose another folder")
